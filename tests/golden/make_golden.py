#!/usr/bin/env python3
"""make_golden.py NWC SUFFIX: writes good/<codec>-<bits>-SUFFIX.nwc with the given tool. Run once per released version
of the format and committed; files that exist are left alone. The .txt beside each is what the scalar decoder of that
version gave: NWC_GOLDEN_WRITE=1 makes test_golden write those that are missing."""
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "good"


def main():
    tool, suffix = sys.argv[1:]
    rng = np.random.default_rng(7)
    tensors = {
        "block.0.square.weight": rng.standard_normal((64, 64)),
        "block.0.odd.weight": rng.laplace(size=(75, 83)) * np.linspace(0.01, 3, 83),
        "block.1.outlier.weight": rng.standard_normal((130, 40)) ** 5,
        "block.1.norm.weight": rng.standard_normal(64),
        "block.1.zero.weight": np.zeros((64, 80)),
    }
    header, offset = {}, 0
    for name, a in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(a.shape), "data_offsets": [offset, offset + 4 * a.size]}
        offset += 4 * a.size
    text = json.dumps(header).encode()
    with tempfile.TemporaryDirectory() as tmp:
        source = pathlib.Path(tmp) / "golden.safetensors"
        source.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.astype("<f4").tobytes()
                                                                          for a in tensors.values()))
        for codec, bits, options in [("linear", 3, []), ("linear", 4, ["--row-scales"]),
                                     ("linear", 8.5, ["--no-refit-tables"]),
                                     ("small", 16, ["--no-refit-tables"])]:
            target = FOLDER / f"{codec}-{bits}-{suffix}.nwc"
            if not target.exists():
                done = subprocess.run([tool, "compress", source, "--codec", codec, "--bits", str(bits), "-o", target,
                                       *options], text=True,
                                      capture_output=True)
                print(target.name, done.stdout or done.stderr)


if __name__ == "__main__":
    main()
