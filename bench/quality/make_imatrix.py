#!/usr/bin/env python3
"""Makes an importance matrix as llama.cpp's llama-imatrix does, from what nwc has measured: the diagonals of the second
moments of inputs that a calibration with --activations (or --allocation none) leaves in its folder.

  make_imatrix.py CALIBRATION_FOLDER OUTPUT.gguf|OUTPUT.dat
"""
import json
import pathlib
import re
import struct
import sys

NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down"}


def diagonals(folder, alike):
    """Yields GGUF's name and the mean squares of the inputs of each matrix of a Llama."""
    for path in sorted(pathlib.Path(folder).glob("layer-*.safetensors")):
        data = path.read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + size])
        for key, tensor in header.items():
            found = re.fullmatch(r"model\.layers\.(\d+)\.(.*)\.weight\.hessian", key)
            if not found:
                continue
            n, begin = tensor["shape"][0], 8 + size + tensor["data_offsets"][0]
            values = [struct.unpack_from("<f", data, begin + 4 * i * (n + 1))[0] for i in range(n)]
            for module in alike.get(found[2], [found[2]]):
                yield f"blk.{found[1]}.{NAMES[module]}.weight", values


def dat(entries):
    out = struct.pack("<i", len(entries))
    for name, values in entries:
        out += struct.pack("<i", len(name)) + name.encode() + struct.pack(f"<ii{len(values)}f", 1, len(values), *values)
    return out + struct.pack("<ii", 1, 0)


def gguf(entries):
    text = lambda s: struct.pack("<Q", len(s)) + s.encode()  # noqa: E731
    keys = [text("general.type") + struct.pack("<I", 8) + text("imatrix"),
            text("imatrix.chunk_count") + struct.pack("<II", 4, 1)]
    directory, data = b"", b""
    for name, values in entries:
        for suffix, shape, numbers in ((".in_sum2", (len(values), 1), values), (".counts", (1, 1), [1.0])):
            directory += text(name + suffix) + struct.pack("<IQQIQ", 2, *shape, 0, len(data))
            data += struct.pack(f"<{len(numbers)}f", *numbers)
            data += bytes(-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, 2 * len(entries), len(keys)) + b"".join(keys) + directory
    return head + bytes(-len(head) % 32) + data


if __name__ == "__main__":
    shared = {"self_attn.q_proj": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
              "mlp.gate_proj": ["mlp.gate_proj", "mlp.up_proj"]}
    entries = list(diagonals(sys.argv[1], shared))
    output = pathlib.Path(sys.argv[2])
    output.write_bytes((dat if output.suffix == ".dat" else gguf)(entries))
