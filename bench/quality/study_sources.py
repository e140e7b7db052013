#!/usr/bin/env python3
"""The paper's Fig. 6 on our data: quantizers on Gaussian, Laplace and real weights against the Shannon bound.

Rate is what is stored, distortion the squared error over the variance. Fixed rate: SQ (Lloyd-Max), VQ (pairs, k-means),
TCQ (QTIP's hybrid code fitted to a Gaussian, and 1MAD), TCQ* (hybrid code fitted to the source, with a table of 2 *
rate + 1 bits where that is more than 9), for weights TCQ also after a random Hadamard transform, E8P (QuIP#) with its
stages, SeedLM, round to nearest in groups of 128 and llama.cpp's types, all with their scales counted. Each fixed-rate
code's spread is fitted to the source. Entropy-coded: ECSQ (uniform steps, empirical entropy: an ideal coder) and nwc's
real files with everything in them. For the Laplace source the Shannon lower bound lies 0.104 bit below the Gaussian
one.

Rows are kept in fig_sources.json as they are measured: an interrupted run resumes, a row is measured again when the
binary, the quantizer's source or the number of samples has changed. Writes fig_sources.csv and fig_sources.png."""
import argparse
import ctypes
import hashlib
import json
import os
import pathlib
import subprocess
import tempfile

import numpy as np

import e8p
import grids
import hadamard
import native
import qtip
import report
import rtn
import seedlm
import settings
import tensors
import workspace
from report import plot_style

ROOT = settings.ROOT
SAMPLES = 1 << 20
NWC = {"nwc, scalar": ["--quantizer", "scalar"], "nwc, trellis, 8 states": ["--trellis-bits", "3"],
       "nwc, trellis, 256 states": ["--trellis-bits", "8"],
       "nwc, trellis, 1,024 states (default)": []}
LLAMA_TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q4_0", "Q5_0")
# These spreads of a fixed-rate code are multiples of the standard deviation. Heavy tails and high rates need the large
# ones, or they are clipped.
SPREADS = (*np.arange(0.7, 1.4, 0.05), 1.4, 1.55, 1.7, 1.9, 2.1, 2.4, 2.7)


def sources(weights):
    """name, matrices (columns of unit power)."""
    rng = np.random.default_rng(1)
    yield "Gaussian", [rng.standard_normal((1024, SAMPLES // 1024)).astype("f4")]
    yield "Laplace", [(rng.laplace(size=(1024, SAMPLES // 1024)) / np.sqrt(2)).astype("f4")]
    if weights.exists():
        file = tensors.Safetensors(weights)
        matrices = [file.read(n) for n in file.names() if len(file.shape(n)) == 2 and "embedding" not in n]
        yield "encoder weights", [w / np.sqrt((w ** 2).mean(0)) for w in matrices]


def shuffled(matrices):
    """All values down the columns, as nwc goes, in runs of 256 in random order."""
    x = np.concatenate([w.T.ravel() for w in matrices]).astype("f4")
    return np.random.default_rng(3).permutation(x[:len(x) // 256 * 256].reshape(-1, 256)).ravel()


def lloyd_max(x, bits, rounds=300):
    """Mean squared error of the scalar quantizer of 2^bits levels, fitted to the samples themselves. The start is the
    optimum of many levels, a density of levels as the cube root of the samples' (Panter and Dite 1951)."""
    x = np.sort(x.astype("f8"))
    count, edges = np.histogram(x, 4096)
    share = np.cumsum(np.cbrt(count))
    sums, squares = np.concatenate(([0], np.cumsum(x))), np.concatenate(([0], np.cumsum(x * x)))
    levels = np.interp((np.arange(1 << bits) + 0.5) / (1 << bits) * share[-1], share, edges[1:])
    for _ in range(rounds):
        edges = np.concatenate(([0], np.searchsorted(x, (levels[1:] + levels[:-1]) / 2), [len(x)]))
        count = np.diff(edges)
        levels = np.where(count > 0, np.diff(sums[edges]) / np.maximum(count, 1), levels)
    edges = np.concatenate(([0], np.searchsorted(x, (levels[1:] + levels[:-1]) / 2), [len(x)]))
    count = np.diff(edges)
    return (np.diff(squares[edges]) - 2 * levels * np.diff(sums[edges]) + count * levels ** 2).sum() / len(x)


def pairs_vq(x, bits, rounds=40):
    """The same for pairs and 2^(2 bits) points, whose density starts as the square root of the samples'."""
    x = x[:1 << 18].reshape(-1, 2)
    count, *edges = np.histogram2d(x[:, 0], x[:, 1], 64)
    cells = [np.clip(np.searchsorted(e, x[:, d], "right") - 1, 0, 63) for d, e in enumerate(edges)]
    chance = 1 / np.sqrt(np.maximum(count[cells[0], cells[1]], 1))
    centres = x[np.random.default_rng(2).choice(len(x), 1 << (2 * bits), replace=False, p=chance / chance.sum())].copy()
    for _ in range(rounds):
        nearest = np.concatenate([np.argmax(p @ centres.T - (centres ** 2).sum(1) / 2, 1)
                                  for p in np.array_split(x, 64)])
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


def with_spread(x, encode, fit=None):
    """(mean squared error, variance) of encode(x of unit variance) -> reconstruction, x [count][length]. The spread is
    fitted with `fit`, a faster search of the same code, or else on a quarter of the samples."""
    sigma = x.std()

    def error(part, spread, encode):
        scale = np.float32(sigma * spread)
        return float(((encode(part / scale) * scale - part) ** 2).mean(dtype="f8"))

    best = min(SPREADS, key=lambda s: error(x, s, fit) if fit else error(x[:len(x) // 4], s, encode))
    return error(x, best, encode), float((x ** 2).mean(dtype="f8"))


def trellis(x, values, bits, state_bits):
    """values(state_bits) -> [V][2^state_bits]. The spread is fitted with a sixteenth of the states."""
    def encoder(state_bits):
        table = values(state_bits)
        shift = int(bits * len(table))
        return lambda y: table.T[native.trellis_search(y, state_bits, shift, table)].reshape(y.shape)

    return with_spread(x.reshape(-1, 256), encoder(state_bits), encoder(state_bits - 4))


def one_mad(state_bits):
    return qtip.values("1mad", state_bits)


def fitted_trellis(x, part, bits, state_bits):
    """TCQ*: the hybrid code's pairs fitted to the source itself."""
    pairs = qtip.fit_pairs(x[:1 << 18].reshape(-1, 2), max(qtip.HYB_BITS, 2 * bits + 1))
    return trellis(part, lambda n: qtip.hyb_values(pairs, n), bits, state_bits)


def lattice(x, bits):
    scales = e8p._scales(bits)
    return with_spread(x.reshape(-1, 8), lambda y: e8p._encode(y, bits, scales))


def matrix_error(matrices, quantize):
    """quantize(w) -> (decoded, bits). (rate, mean squared error)."""
    total, error, count = 0, 0.0, 0
    for w in matrices:
        decoded, bits = quantize(np.ascontiguousarray(w, "f4"))
        total, error, count = total + bits, error + float(((decoded - w) ** 2).sum(dtype="f8")), count + w.size
    return total / count, error / count


def llama_library():
    try:
        import gguf
        import llama_cpp
        found = next((pathlib.Path(llama_cpp.__file__).parent / "lib").glob("*ggml-base*"))
    except (ImportError, StopIteration):
        return None, None
    library = ctypes.CDLL(str(found))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    return library, gguf


def llama_type(library, gguf, kind, x):
    """(bits per weight, mean squared error) of llama.cpp's own quantizer, without an importance matrix."""
    x = np.ascontiguousarray(x[:len(x) // 256 * 256].reshape(-1, 256), "f4")
    kind = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    stored = np.empty((len(x), 256 // block * size), "u1")
    library.ggml_quantize_chunk(int(kind), x.ctypes.data_as(ctypes.c_void_p), stored.ctypes.data_as(ctypes.c_void_p),
                                ctypes.c_int64(0), ctypes.c_int64(len(x)), ctypes.c_int64(256), None)
    return 8 * size / block, float(((gguf.dequantize(stored, kind) - x) ** 2).mean(dtype="f8"))


def peers(name, matrices, args):
    """Yields (method, setting, function): function() -> (rate, mean squared error, variance)."""
    x = shuffled(matrices)
    part = x[:args.samples]  # for the searches that take long
    variance = float((x ** 2).mean(dtype="f8"))
    fixed = lambda rate, found: (rate, *found)  # noqa: E731
    for bits in args.rates:
        for k in (1.6, 2.1):
            yield ("ECSQ, ideal coder", f"{bits} {k}",
                   lambda s=np.sqrt(variance) * np.exp2(k - bits): (*entropy_coded_scalar(x, s), variance))
        yield "SQ (Lloyd-Max)", bits, lambda b=bits: (b, lloyd_max(x, b), variance)
        yield ("RTN, groups of 128", bits, lambda b=bits: (*matrix_error(
            matrices, lambda w: rtn.quantize(w, bits=b, group=128)), variance))
        if bits <= 5:
            yield "VQ (pairs)", bits, lambda b=bits: (b, pairs_vq(x, b), variance)
            yield ("TCQ (hybrid)", bits,
                   lambda b=bits: fixed(b, trellis(part, lambda n: qtip.values("hyb", n), b, args.state_bits)))
            yield "TCQ* (hybrid, fitted)", bits, lambda b=bits: fixed(b, fitted_trellis(x, part, b, args.state_bits))
        yield "TCQ (1MAD)", bits, lambda b=bits: fixed(b, trellis(part, one_mad, b, args.state_bits))
        if name == "encoder weights":
            yield "RHT + TCQ (1MAD)", bits, lambda b=bits: fixed(b, trellis(
                shuffled([hadamard.Incoherence(*w.shape, 1).forward(w) for w in matrices])[:args.samples], one_mad, b,
                args.state_bits))
        if bits in e8p.STAGES:
            yield "E8P, residual stages", bits, lambda b=bits: fixed(b, lattice(x[:1 << 18], b))
        if bits in seedlm.CONFIGS:  # blocks of 8, 12 or 16
            row = part[:len(part) // 48 * 48][None]
            yield "SeedLM", bits, lambda b=bits, w=row: (*matrix_error([w], lambda w: seedlm.quantize(w, bits=b)),
                                                         float((w ** 2).mean(dtype="f8")))
    library, gguf = llama_library()
    if library is None:
        print("no rows of llama.cpp: pip install llama-cpp-python gguf")
    for kind in LLAMA_TYPES if library else ():
        yield f"llama.cpp {'k-quants' if 'K' in kind else 'Q4_0, Q5_0'}", kind, lambda k=kind: (
            *llama_type(library, gguf, k, x), variance)


def nwc_rows(nwc, matrices, rates, folder):
    """Real files. Columns have unit power, so that the relative error is per column as everywhere else. Yields like
    peers."""
    names = [f"w{i}" for i in range(len(matrices))]

    def measure(options, bits):
        with tempfile.TemporaryDirectory(dir=folder) as tmp:
            tmp = pathlib.Path(tmp)
            tensors.write_safetensors(tmp / "in.safetensors", dict(zip(names, matrices)))

            def run(*arguments):
                done = subprocess.run([nwc, *map(str, arguments)], capture_output=True, text=True,
                                      env={"NWC_CODECS": str(workspace.CODECS), **os.environ})
                if done.returncode != 0:
                    raise SystemExit(f"{' '.join(map(str, done.args))}: exit code {done.returncode}\n{done.stderr}")
                return done.stdout

            report = json.loads(run("compress", tmp / "in.safetensors", "--bits", bits, *options, "-o", tmp / "x.nwc",
                                    "--json"))
            run("decompress", tmp / "x.nwc", "-o", tmp / "out.safetensors", "--dtype", "f32")
            out = tensors.Safetensors(tmp / "out.safetensors")
            return report["bpw_coded"], *pooled([out.read(n) - w for n, w in zip(names, matrices)], matrices)

    for method, options in NWC.items():
        for bits in rates:
            yield method, bits, lambda o=options, b=bits: measure(o, b)


def pooled(errors, matrices):
    """(mean squared error, variance) over all of them."""
    return tuple(sum(float((w ** 2).sum(dtype="f8")) for w in part) / sum(w.size for w in part)
                 for part in (errors, matrices))


def versions(args):
    """What a kept row depends on beside its own name: of nwc's rows the binary, of the others the sources."""
    h = hashlib.sha256(repr((args.samples, args.state_bits, SPREADS)).encode())
    for module in (e8p, grids, hadamard, native, qtip, rtn, seedlm):
        h.update(pathlib.Path(module.__file__).read_bytes())
    h.update(native.SOURCE.read_bytes())
    return {True: hashlib.sha256(args.nwc.read_bytes()).hexdigest()[:16], False: h.hexdigest()[:16]}


DRAWN = ("nwc, trellis, 1,024 states (default)", "nwc, scalar", "TCQ (1MAD)", "RHT + TCQ (1MAD)", "TCQ* (hybrid, fitted)",
         "E8P, residual stages", "SQ (Lloyd-Max)", "llama.cpp k-quants")  # the CSV has all


def plot(rows, path):
    plt = plot_style.pyplot()
    if plt is None:
        return
    names = list(dict.fromkeys(r["source"] for r in rows))
    figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 6.2), sharey=True, squeeze=False)
    for axis, source in zip(axes[0], names):
        for method, style in plot_style.styles(DRAWN).items():
            points = sorted((r["rate"], r["gap"]) for r in rows if r["source"] == source and r["method"] == method)
            if points:
                axis.plot(*zip(*points), label=method, **style)
        axis.axhline(0, color="black", lw=1, label="Shannon bound, Gaussian")
        if source == "Laplace":
            axis.axhline(-0.1044, color="black", lw=1, ls="--", label="Shannon lower bound, Laplace")
        axis.set_title(source)
        axis.set_xlabel("rate, bits per weight")
        axis.set_xlim(1.9, 6.7)
        axis.set_ylim(-0.15, 1.25)
    axes[0][0].set_ylabel("bits above the Shannon bound of a Gaussian\nof the same variance and squared error")
    figure.suptitle("Quantizers on three sources")
    plot_style.legend_below(figure, axes[0], columns=4)
    plot_style.save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nwc", type=pathlib.Path, default=ROOT / "build/release/bin/nwc")
    parser.add_argument("--rates", nargs="+", type=int, default=[2, 3, 4, 5, 6])
    parser.add_argument("--state-bits", type=int, default=16, help="of QTIP's trellis")
    parser.add_argument("--samples", type=int, default=1 << 15,
                        help="for QTIP's trellis and SeedLM, whose searches take long")
    parser.add_argument("--weights", type=pathlib.Path, default=settings.DATA / "encoder-weights.safetensors")
    parser.add_argument("--only", nargs="+", default=[""],
                        help="measure methods whose name contains one of these, keep the rest")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build/bench/quality")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    kept_path = args.out / "fig_sources.json"
    kept = json.loads(kept_path.read_text()) if kept_path.exists() else {}
    version = versions(args)
    rows = []
    for source, matrices in sources(args.weights):
        for method, setting, measure in (*nwc_rows(args.nwc, matrices, args.rates, args.out),
                                         *peers(source, matrices, args)):
            key, valid = f"{source} | {method} | {setting}", version[method.startswith("nwc")]
            if any(part in method for part in args.only) and kept.get(key, {}).get("version") != valid:
                rate, error, variance = measure()
                kept[key] = {"source": source, "method": method, "rate": float(rate),
                             "relative_mse": float(error / variance),
                             "gap": float(rate - 0.5 * np.log2(variance / error)), "version": valid}
                kept_path.write_text(json.dumps(kept, indent=1))
            if key in kept:
                row = {k: v for k, v in kept[key].items() if k != "version"}
                rows.append(row)
                print(f"{source:16} {method:36} {row['rate']:7.4f} bpw  MSE {row['relative_mse']:.3e}  "
                      f"gap {row['gap']:7.4f}",
                      flush=True)
    report.write_csv(args.out / "fig_sources.csv", rows, digits=5)
    plot(rows, args.out / "fig_sources.png")


if __name__ == "__main__":
    main()
