#!/usr/bin/env python3
"""The paper's Table 1 on our data: does a transform make weights easier to code?

For the query projections of a model (and for all its linear layers): excess kurtosis, largest magnitude in standard
deviations, and share beyond 3 standard deviations, of the weights as they are, normalised by column, and after
transforms of chunks of 16 and of the whole matrix. For g_a of the codecs: its latents, each channel by its own
deviation, at the level nearest to 4 bits. A Gaussian has kurtosis 0 and 0.27 % beyond 3. Writes table_transforms.csv
and a plot."""
import argparse
import functools
import pathlib

import numpy as np

import codec_file
import hadamard
import report
import settings
import tensors
import workspace
from report import plot_style

ROOT = settings.ROOT


def moments(parts):
    """(excess kurtosis, largest |x| / sigma, share beyond 3 sigma), the values of all parts together."""
    count = sum(x.size for x in parts)
    mean = sum(x.sum(dtype="f8") for x in parts) / count
    sigma = np.sqrt(sum(np.square(x - mean, dtype="f8").sum() for x in parts) / count)
    fourth, maximum, outliers = 0.0, 0.0, 0
    for x in parts:
        magnitude = np.abs((x - mean) / sigma)
        fourth += (magnitude ** 4).sum(dtype="f8")
        maximum = max(maximum, float(magnitude.max()))
        outliers += int((magnitude > 3).sum())
    return fourth / count - 3, maximum, outliers / count


def dct(n):
    """Orthonormal DCT-II, rows are the basis."""
    k, i = np.mgrid[:n, :n]
    out = np.cos(np.pi * (i + 0.5) * k / n) * np.sqrt(2 / n)
    out[0] /= np.sqrt(2)
    return out.astype("f4")


@functools.lru_cache(maxsize=None)
def rotation(n, side):
    """Uniformly distributed; the same for all matrices of a size and side."""
    q, r = np.linalg.qr(np.random.default_rng((n, side)).standard_normal((n, n)))
    return (q * np.sign(np.diag(r))).astype("f4")


def chunks_of(w):
    """[m][n], columns normalised, as the codec's chunks [count][16]; rows beyond whole chunks are left out."""
    rms = np.sqrt((w ** 2).mean(0))
    w = w[:, rms > 0] / rms[rms > 0]
    m = len(w) // 16 * 16
    return w[:m].T.reshape(-1, 16)


def transforms(codecs, rng):
    """name -> function of a matrix, giving values that are pooled over matrices."""
    chunk_rotation = rotation(16, 0)
    signs = rng.choice(np.array([-1, 1], "f4"), 16)
    out = {
        "identity": lambda w: w / w.std(),
        "identity, columns normalised": chunks_of,
        "the same, each channel by its deviation": lambda w: (lambda y: y / y.std(0))(chunks_of(w)),
        "DCT of chunks": lambda w: chunks_of(w) @ dct(16).T,
        "random rotation of chunks": lambda w: chunks_of(w) @ chunk_rotation.T,
        "random Hadamard of chunks": lambda w: hadamard.transform(chunks_of(w) * signs),
        "DCT of the matrix": lambda w: (lambda y: y / y.std())(dct(len(w)) @ w @ dct(w.shape[1]).T),
        "random rotation of the matrix": lambda w: (lambda y: y / y.std())(
            rotation(len(w), 0) @ w @ rotation(w.shape[1], 1).T),
        "random Hadamard of the matrix": lambda w: (lambda y: y / y.std())(
            hadamard.Incoherence(*w.shape, 1).forward(w)),
    }
    for path in codecs:
        codec = codec_file.Codec(path)
        level = int(np.argmin(np.abs(codec.rate - 4)))

        def latents(w, codec=codec, level=level):
            y = codec.analyse(chunks_of(w), level)
            return y / y.std(0)

        out[f"g_a of {path.stem}"] = latents
    return out


def sources(spaces, encoder_weights):
    for space in spaces:
        names = [n for n in space.coded if n.startswith("model.layers.")]
        yield f"{space.model.name}, q_proj", [space.reference.read(n) for n in names if "q_proj" in n]
        yield f"{space.model.name}, linear layers", [space.reference.read(n) for n in names]
    if encoder_weights.exists():
        file = tensors.Safetensors(encoder_weights)
        yield "encoder weights, linear layers", [file.read(n) for n in file.names()
                                                 if len(file.shape(n)) == 2 and "embedding" not in n]


def plot(rows, path):
    plt = plot_style.pyplot()
    if plt is None:
        return
    names = list(dict.fromkeys(r["transform"] for r in rows))
    groups = list(dict.fromkeys(r["source"] for r in rows))
    figure, axes = plt.subplots(1, 3, figsize=(11.5, 0.32 * len(names) + 2), sharey=True)
    styles = plot_style.styles(groups)
    for axis, (key, title, gaussian) in zip(axes, (("kurtosis", "excess kurtosis", 0),
                                                   ("maximum", "largest |x| / sigma", None),
                                                   ("outliers", "share beyond 3 sigma, %", 0.27))):
        for group in groups:
            values = {r["transform"]: r[key] * (100 if key == "outliers" else 1) for r in rows if r["source"] == group}
            axis.plot([values[n] for n in names], range(len(names)), **{**styles[group], "ms": 7}, alpha=0.85,
                      label=group)
        if gaussian is not None:
            axis.axvline(gaussian, color="black", lw=1, ls="--", label="Gaussian")
        axis.set_yticks(range(len(names)), names)
        axis.set_title(title, fontsize=11)
    axes[0].set_xscale("symlog", linthresh=0.1)
    axes[0].set_xticks([0, 0.1, 1, 10], ["0", "0.1", "1", "10"])
    axes[1].set_xscale("log")
    axes[1].set_xticks([5, 10, 20, 50], ["5", "10", "20", "50"])
    axes[1].minorticks_off()
    axes[0].invert_yaxis()
    plot_style.legend_below(figure, axes[:1], columns=3)
    plot_style.save(figure, path, dpi=85)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nwc", type=pathlib.Path, default=ROOT / "build/release/bin/nwc")
    parser.add_argument("--model", nargs="*", choices=list(settings.MODELS), default=list(settings.MODELS))
    parser.add_argument("--weights", type=pathlib.Path, default=settings.DATA / "encoder-weights.safetensors")
    parser.add_argument("--codecs", nargs="*", type=pathlib.Path, default=sorted((ROOT / "codecs").glob("*.nwcc")))
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build/bench/quality")
    args = parser.parse_args()
    spaces = []
    for name in args.model:
        if settings.MODELS[name].reference.exists():
            spaces.append(workspace.Workspace(settings.MODELS[name], args.nwc, args.out))
        else:
            print(f"{name} is left out: no {settings.MODELS[name].reference}")
    rows = []
    for source, matrices in sources(spaces, args.weights):
        print(f"\n{source}\n{'transform':40} {'kurtosis':>9} {'maximum':>9} {'beyond 3':>9}")
        for name, transform in transforms(args.codecs, np.random.default_rng(1)).items():
            kurtosis, maximum, outliers = moments([transform(w).ravel() for w in matrices])
            rows.append({"source": source, "transform": name, "kurtosis": kurtosis, "maximum": maximum,
                         "outliers": outliers})
            print(f"{name:40} {kurtosis:9.3f} {maximum:9.2f} {100 * outliers:8.2f}%", flush=True)
    report.write_csv(args.out / "table_transforms.csv", rows, digits=5)
    plot(rows, args.out / "table_transforms.png")


if __name__ == "__main__":
    main()
