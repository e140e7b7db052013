#!/usr/bin/env python3
"""Rate-distortion of codecs and quantizers, from real files (the paper's Fig. 6 for our own quantizer).

For each source (Gaussian, Laplace, real encoder weights), setting and rate: write the source as safetensors, run
`nwc compress`, run `nwc decompress`, and compare. The rate is bpw_coded of the file (payload, tables, networks, side
information, directory, padding); the distortion is the mean squared error divided by the variance of the column. The
gap is rate - 0.5 log2(variance / distortion): bits above the Shannon bound of a Gaussian of that variance.

Writes rate_distortion.csv and rate_distortion.png, and prints a table.
"""
import argparse
import csv
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import plot_style  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAMPLES = 1 << 20
SETTINGS = {  # options of nwc compress
    "default": [],
    "8 states": ["--trellis-bits", "3"],
    "scalar": ["--quantizer", "scalar"],
    "linear": ["--codec", "linear"],
    "small": ["--codec", "small"],
    "small, scalar": ["--codec", "small", "--quantizer", "scalar"],
}


def write_safetensors(path, tensors):
    header, offset = {}, 0
    for name, a in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(a.shape), "data_offsets": [offset, offset + a.nbytes]}
        offset += a.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for a in tensors.values():
            f.write(np.ascontiguousarray(a, "<f4").tobytes())


def read_safetensors(path):
    with open(path, "rb") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        header = json.loads(f.read(size))
        data = f.read()
    header.pop("__metadata__", None)
    out = {}
    for name, t in header.items():
        if t["dtype"] != "F32":
            sys.exit(f"{path}: {name} is {t['dtype']}, this script reads F32 only")
        lo, hi = t["data_offsets"]
        out[name] = np.frombuffer(data[lo:hi], "<f4").reshape(t["shape"])
    return out


def sources(weights):
    rng = np.random.default_rng(1)
    yield "gaussian", {"w": rng.standard_normal((1024, SAMPLES // 1024)).astype("f4")}
    yield "laplace", {"w": rng.laplace(size=(1024, SAMPLES // 1024)).astype("f4")}
    if weights.exists():
        linear = {k: v for k, v in read_safetensors(weights).items() if v.ndim == 2 and "embedding" not in k}
        yield "encoder weights", linear
    else:
        print(f"{weights} is missing: the encoder weights are left out", file=sys.stderr)


def relative_error(original, decoded):
    """Mean over all weights of squared error / mean square of the weight's column."""
    total, count = 0.0, 0
    for name, w in original.items():
        w, d = w.astype("f8"), decoded[name].astype("f8")
        power = (w * w).mean(axis=0)
        live = power > 0
        total += (((w - d) ** 2).mean(axis=0)[live] / power[live]).sum() * w.shape[0]
        count += live.sum() * w.shape[0]
    return total / count


def nwc(binary, *args):
    done = subprocess.run([binary, *map(str, args)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"nwc {' '.join(map(str, args))}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


TITLES = {"gaussian": "Gaussian", "laplace": "Laplace"}


def plot(rows, path):
    plt = plot_style.pyplot()
    if plt is None:
        return
    names = list(dict.fromkeys(r["source"] for r in rows))
    settings = list(dict.fromkeys(r["setting"] for r in rows))
    settings += [f"{s}, network not counted" for s in settings if "small" in s]
    figure, axes = plt.subplots(1, len(names), figsize=(4.6 * len(names), 5), sharey=True, squeeze=False)
    for axis, source in zip(axes[0], names):
        for setting, style in plot_style.styles(settings).items():
            of, _, free = setting.partition(", network")
            points = sorted((r["bpw"], r["gap_without_codec" if free else "gap"]) for r in rows
                            if r["source"] == source and r["setting"] == of)
            axis.plot(*zip(*points), label=setting, **style)
        axis.axhline(0.254, color="gray", lw=1, ls="--", label="ideal scalar quantizer, high rate, Gaussian")
        axis.set_title(TITLES.get(source, source))
        axis.set_xlabel("bits per weight, everything in the file")
    axes[0][0].set_ylabel("bits above the Gaussian Shannon bound")
    figure.suptitle("nwc's codecs and quantizers on three sources")
    plot_style.legend_below(figure, axes[0], columns=4)
    plot_style.save(figure, path, dpi=85)
    print(f"wrote {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nwc", default=ROOT / "build/release/bin/nwc")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--bits", nargs="+", type=float, default=[2, 3, 4, 5, 6])
    parser.add_argument("--weights", type=pathlib.Path, default=ROOT / "../shared/data/encoder-weights.safetensors")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build/bench/rate_distortion")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    print(f"{'source':16} {'setting':14} {'bpw':>7} {'SNR dB':>7} {'gap':>7} {'gap without codec':>18}")
    with tempfile.TemporaryDirectory(dir=args.out) as tmp:
        tmp = pathlib.Path(tmp)
        for source, tensors in sources(args.weights):
            write_safetensors(tmp / "in.safetensors", tensors)
            for setting in args.settings:
                for bits in args.bits:
                    report = json.loads(nwc(args.nwc, "compress", tmp / "in.safetensors", *SETTINGS[setting], "--bits",
                                            bits,
                                            "-o", tmp / "x.nwc", "--json"))
                    nwc(args.nwc, "decompress", tmp / "x.nwc", "-o", tmp / "out.safetensors", "--dtype", "f32")
                    error = relative_error(tensors, read_safetensors(tmp / "out.safetensors"))
                    bound = 0.5 * np.log2(1 / error)
                    row = {"source": source, "setting": setting, "bits": bits, "bpw": report["bpw_coded"],
                           "relative_mse": error, "gap": report["bpw_coded"] - bound,
                           "gap_without_codec": report["bpw_coded"] - report["bpw_codec"] - bound}
                    rows.append(row)
                    print(f"{source:16} {row['setting']:14} {row['bpw']:7.4f} {-10 * np.log10(error):7.2f} "
                          f"{row['gap']:7.4f} {row['gap_without_codec']:18.4f}", flush=True)
    with open(args.out / "rate_distortion.csv", "w", newline="") as f:
        writer = csv.DictWriter(f, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    print(f"wrote {args.out / 'rate_distortion.csv'}")
    plot(rows, args.out / "rate_distortion.png")


if __name__ == "__main__":
    main()
