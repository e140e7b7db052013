#!/usr/bin/env python3
"""The paper's Fig. 6 on our data: quantizers on Gaussian, Laplace and real weights against the Shannon bound.

Rate is what is stored, distortion the squared error over the variance. Fixed rate: SQ (Lloyd-Max), VQ (pairs, k-means), TCQ
(QTIP's hybrid code fitted to a Gaussian, and 1MAD), TCQ* (hybrid code fitted to the source, with a table of 2 * rate + 1 bits
where that is more than 9), for weights TCQ also after a random Hadamard transform. Entropy-coded: ECSQ (uniform steps, empirical
entropy: an ideal coder) and nwc's real files with everything in them. For the Laplace source the Shannon lower bound lies 0.104
bit below the Gaussian one.

Writes fig_sources.csv and fig_sources.png."""
import argparse
import csv
import itertools
import json
import os
import pathlib
import subprocess
import tempfile

import numpy as np

import hadamard
import native
import qtip
import report
import settings
import tensors
import workspace

ROOT = settings.ROOT
SAMPLES = 1 << 20
TRELLIS_SAMPLES = 1 << 16
NWC = {"nwc, scalar": ["--quantizer", "scalar"], "nwc, trellis": ["--quantizer", "trellis"],
       "nwc, trellis, most effort": ["--quantizer", "trellis", "--effort", "9"]}


def sources(weights):
    """name, matrices (columns of unit power)."""
    rng = np.random.default_rng(1)
    yield "Gaussian", [rng.standard_normal((1024, SAMPLES // 1024)).astype("f4")]
    yield "Laplace", [(rng.laplace(size=(1024, SAMPLES // 1024)) / np.sqrt(2)).astype("f4")]
    if weights.exists():
        file = tensors.Safetensors(weights)
        matrices = [file.read(n) for n in file.names() if len(file.shape(n)) == 2 and "embedding" not in n]
        yield "encoder weights", [w / np.sqrt((w ** 2).mean(0)) for w in matrices]


def lloyd_max(x, bits, rounds=300):
    """Mean squared error of the scalar quantizer of 2^bits levels, fitted to the samples themselves."""
    x = np.sort(x.astype("f8"))
    sums, squares = np.concatenate(([0], np.cumsum(x))), np.concatenate(([0], np.cumsum(x * x)))
    levels = np.quantile(x, (np.arange(1 << bits) + 0.5) / (1 << bits))
    for _ in range(rounds):
        edges = np.concatenate(([0], np.searchsorted(x, (levels[1:] + levels[:-1]) / 2), [len(x)]))
        count = np.diff(edges)
        levels = np.where(count > 0, np.diff(sums[edges]) / np.maximum(count, 1), levels)
    edges = np.concatenate(([0], np.searchsorted(x, (levels[1:] + levels[:-1]) / 2), [len(x)]))
    count = np.diff(edges)
    return (np.diff(squares[edges]) - 2 * levels * np.diff(sums[edges]) + count * levels ** 2).sum() / len(x)


def pairs_vq(x, bits, rounds=40):
    """The same for pairs and 2^(2 bits) points."""
    x = x[:1 << 17].reshape(-1, 2)
    centres = x[np.random.default_rng(2).choice(len(x), 1 << (2 * bits), replace=False)].copy()
    for _ in range(rounds):
        nearest = np.concatenate([np.argmax(p @ centres.T - (centres ** 2).sum(1) / 2, 1) for p in np.array_split(x, 64)])
        count = np.bincount(nearest, minlength=len(centres))
        for d in range(2):
            centres[:, d] = np.where(count > 0, np.bincount(nearest, x[:, d], len(centres)) / np.maximum(count, 1),
                                     centres[:, d])
    return ((x - centres[nearest]) ** 2).mean()


def entropy_coded_scalar(x, step):
    """(empirical entropy of rounding to multiples of the step, error with each value's mean as its reconstruction)."""
    q = np.rint(x / step).astype(int)
    q -= q.min()
    count = np.bincount(q)
    mean = np.bincount(q, x) / np.maximum(count, 1)
    p = count[count > 0] / len(x)
    return -(p * np.log2(p)).sum(), ((x - mean[q]) ** 2).mean()


def trellis(x, table, bits, scale_grid):
    """Mean squared error, the table's spread searched on a part of the samples."""
    x = x[:TRELLIS_SAMPLES].reshape(-1, 256)
    shift = int(bits * len(table))
    state_bits = int(np.log2(table.shape[1]))

    def error(part, scale):
        t = table * np.float32(scale)
        return ((t.T[native.trellis_search(part, state_bits, shift, t)].reshape(part.shape) - part) ** 2).mean()

    best = min(scale_grid, key=lambda s: error(x[:16], s))
    return error(x, best)


def numpy_rows(name, matrices, rates, state_bits):
    x = np.concatenate([w.T.ravel() for w in matrices]).astype("f4")  # down the columns, as nwc goes
    x = np.random.default_rng(3).permutation(x[:len(x) // 256 * 256].reshape(-1, 256)).ravel()
    variance = float((x ** 2).mean())
    grid = np.linspace(0.8, 1.3, 11)
    for bits in rates:
        for step in np.sqrt(variance) * np.exp2(np.array([-bits + 1.6, -bits + 2.1])):
            yield "ECSQ, ideal coder", *entropy_coded_scalar(x, step), variance
        yield "SQ (Lloyd-Max)", bits, lloyd_max(x, bits), variance
        if bits <= 5:
            yield "VQ (pairs)", bits, pairs_vq(x, bits), variance
        if bits <= 5:
            yield "TCQ (hybrid)", bits, trellis(x, qtip.values("hyb", state_bits), bits, grid), variance
        fitted = qtip.fit_pairs(x[:1 << 18].reshape(-1, 2), max(qtip.HYB_BITS, 2 * bits + 1))
        if bits <= 5:
            yield "TCQ* (hybrid, fitted)", bits, trellis(x, qtip.hyb_values(fitted, state_bits), bits, grid), variance
        yield "TCQ (1MAD)", bits, trellis(x, qtip.values("1mad", state_bits), bits, grid), variance
        if name == "encoder weights":
            y = np.concatenate([hadamard.Incoherence(*w.shape, 1).forward(w).ravel() for w in matrices[:24]])
            yield ("RHT + TCQ (1MAD)", bits, trellis(y.astype("f4"), qtip.values("1mad", state_bits), bits, grid),
                   float((y ** 2).mean()))


def nwc_rows(nwc, matrices, rates, folder):
    """Real files. Columns have unit power, so that the relative error is per column as everywhere else."""
    names = [f"w{i}" for i in range(len(matrices))]
    with tempfile.TemporaryDirectory(dir=folder) as tmp:
        tmp = pathlib.Path(tmp)
        tensors.write_safetensors(tmp / "in.safetensors", dict(zip(names, matrices)))
        for method, options in NWC.items():
            for bits in rates:
                run = lambda *a: subprocess.run([nwc, *map(str, a)], capture_output=True, text=True,  # noqa: E731
                                                env={"NWC_CODECS": str(workspace.CODECS), **os.environ})
                done = run("compress", tmp / "in.safetensors", "--bits", bits, *options, "-o", tmp / "x.nwc", "--json")
                if done.returncode != 0:
                    print(f"{method}: left out: {done.stderr.strip()[:200]}")
                    break
                rate = json.loads(done.stdout)["bpw_coded"]
                done = run("decompress", tmp / "x.nwc", "-o", tmp / "out.safetensors", "--dtype", "f32")
                if done.returncode != 0:
                    raise SystemExit(done.stderr)
                out = tensors.Safetensors(tmp / "out.safetensors")
                error = sum(float(((out.read(n) - w) ** 2).sum(dtype="f8")) for n, w in zip(names, matrices))
                yield method, rate, error / sum(w.size for w in matrices), 1.0


def plot(rows, path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    names = list(dict.fromkeys(r["source"] for r in rows))
    methods = list(dict.fromkeys(r["method"] for r in rows))
    figure, axes = plt.subplots(1, len(names), figsize=(4.6 * len(names), 5), sharey=True, squeeze=False)
    for axis, source in zip(axes[0], names):
        for i, method in enumerate(methods):
            points = sorted((r["rate"], r["gap"]) for r in rows if r["source"] == source and r["method"] == method)
            if points:
                own = method.startswith("nwc")
                axis.plot(*zip(*points), "o-" if own else "s-", ms=4 if own else 2.5, lw=2 if own else 1,
                          color=plt.get_cmap("tab10").colors[i % 10], ls="-" if i < 10 else "--", label=method)
        axis.axhline(0, color="black", lw=0.8)
        if source == "Laplace":
            axis.axhline(-0.1044, color="gray", lw=0.8, ls="--", label="Shannon lower bound, Laplace")
        axis.set_title(source)
        axis.set_xlabel("bits per weight")
        axis.set_ylim(-0.15, 1.2)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("bits above the Gaussian Shannon bound")
    handles = {label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels())}
    axes[0][0].legend(handles.values(), handles.keys(), fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nwc", type=pathlib.Path, default=ROOT / "build/release/bin/nwc")
    parser.add_argument("--rates", nargs="+", type=int, default=[2, 3, 4, 5, 6])
    parser.add_argument("--state-bits", type=int, default=16, help="of QTIP's trellis")
    parser.add_argument("--weights", type=pathlib.Path, default=settings.DATA / "encoder-weights.safetensors")
    parser.add_argument("--only-nwc", action="store_true", help="keep the other rows of an earlier run")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build/bench/quality")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "fig_sources.csv"
    rows = []
    if args.only_nwc and path.exists():
        with open(path) as f:
            rows = [{k: float(v) if k in ("rate", "relative_mse", "gap") else v for k, v in r.items()}
                    for r in csv.DictReader(f) if not r["method"].startswith("nwc")]
    for source, matrices in sources(args.weights):
        found = nwc_rows(args.nwc, matrices, args.rates, args.out)
        if not args.only_nwc:
            found = itertools.chain(found, numpy_rows(source, matrices, args.rates, args.state_bits))
        for method, rate, error, variance in found:
            gap = rate - 0.5 * np.log2(variance / error)
            rows.append({"source": source, "method": method, "rate": rate, "relative_mse": error / variance, "gap": gap})
            print(f"{source:16} {method:26} {rate:7.4f} bpw  MSE {error / variance:.3e}  gap {gap:7.4f}", flush=True)
    report.write_csv(path, rows)
    try:
        plot(rows, args.out / "fig_sources.png")
    except ImportError:
        print("no plot: matplotlib is missing")


if __name__ == "__main__":
    main()
