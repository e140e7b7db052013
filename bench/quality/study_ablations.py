#!/usr/bin/env python3
"""The paper's Fig. 9 and Table 7 on our data: what each part of the method is worth, by KL divergence at equal file
bytes.

Normalisation (scales of the whole model, of tensors, of columns, of rows; uniform scalar quantizer, empirical entropy
under one table, FP16 scales counted), importance of columns, error feedback, allocation, entropy model (against
fixed-length codes), quantizer, and the transform (codecs; those with a network also as if it cost nothing). One part
changes at a time; all but the normalisation and the fixed-length codes are real files of nwc. Writes
ablations_<model>.csv and .png."""
import argparse
import json
import pathlib

import numpy as np

import codec_file
import nwc_rows
import report
import settings
import workspace
from report import plot_style

BASE = ["--importance", "waterfill", "--feedback", "ldlq", "--allocation", "none", "--row-importance", "off", "--rdo",
        "0",
        "--shrinkage", "off"]


def changed(**options):
    """BASE with other values."""
    out = list(BASE)
    for key, value in options.items():
        flag = "--" + key.replace("_", "-")
        if flag in out:
            out[out.index(flag) + 1] = value
        else:
            out += [flag] if value is True else [flag, value]
    return out


NWC_STUDIES = {
    "importance of columns": {"equal rates": changed(importance="none"), "equal steps": changed(importance="flat"),
                              "four levels (paper)": changed(importance="paper"), "water-filling": BASE},
    "compensation": {"none": changed(feedback="none"), "LDLQ": BASE},
    "allocation between tensors": {"none": BASE, "fisher": changed(allocation="fisher"),
                                   "fisher, rows too": changed(allocation="fisher", row_importance="on")},
    "quantizer": {"scalar": changed(quantizer="scalar"), "trellis, 4 states": changed(trellis_bits="2"),
                  "trellis, 16 states": changed(trellis_bits="4"), "trellis, 256 states": changed(trellis_bits="8"),
                  "trellis, 1,024 states": BASE},
    "search": {"nearest points": BASE, "shrinkage": changed(shrinkage="on"), "RDO": changed(rdo="1"),
               "RDO and shrinkage": changed(rdo="1", shrinkage="on")},
    "recovery": {"off": [], "on, 16,384 tokens": ["--effort", "7"]},  # beside all that is on by default
    "tables": {"of the codec": changed(no_refit_tables=True, no_row_classes=True),
               "refitted": changed(no_row_classes=True), "refitted, by class of row": BASE},
}


def normalisation(space, rates):
    """A uniform quantizer whose step is proportional to the root mean square of ... Yields (label, rate, decoded)."""
    weights = {name: space.reference.read(name) for name in space.coded}
    whole = np.sqrt(sum(float((w ** 2).sum(dtype="f8")) for w in weights.values()) / space.coded_weights)
    scales = {"whole model": lambda w: np.full((1, 1), whole, "f4"), "tensor": lambda w: _rms(w, None),
              "column": lambda w: _rms(w, 0), "row": lambda w: _rms(w, 1)}
    for label, scale_of in scales.items():
        scale = {name: scale_of(w) for name, w in weights.items()}
        side = 16 * (1 if label == "whole model" else sum(s.size for s in scale.values()))
        normalised = {name: w / scale[name] for name, w in weights.items()}
        for rate in rates:
            target = rate * space.weights - space.rest_bits - side
            low, high = -14.0, 4.0  # log2 of the step; the entropy falls with it
            for _ in range(30):
                step = 2 ** ((low + high) / 2)
                low, high = (low, np.log2(step)) if _entropy_bits(normalised, step) <= target else (np.log2(step), high)
            step = np.float32(2 ** high)
            bits = _entropy_bits(normalised, step) + side
            yield label, bits, {name: np.rint(x / step) * step * scale[name] for name, x in normalised.items()}


def _rms(w, axis):
    r = np.sqrt((w ** 2).mean(axis=axis, keepdims=True)).astype("f2").astype("f4")
    return np.where(r > 0, r, 1)


def _entropy_bits(normalised, step):
    count = {}
    for x in normalised.values():
        for value, n in zip(*np.unique(np.rint(x / step), return_counts=True)):
            count[value] = count.get(value, 0) + n
    n = np.array(list(count.values()), "f8")
    return float(-(n * np.log2(n / n.sum())).sum())


def fixed_length(space):
    """Lloyd-Max levels and pairs of column-normalised weights, fitted to the model: fixed-length codes without an
    entropy model. Yields (label, bits, decoded)."""
    weights = {name: space.reference.read(name) for name in space.coded}
    scale = {name: _rms(w, 0) for name, w in weights.items()}
    pool = np.concatenate([(w / scale[name]).T.ravel() for name, w in weights.items()])
    side = 16 * sum(s.size for s in scale.values())
    sample = np.random.default_rng(0).permutation(pool[:len(pool) // 2 * 2].reshape(-1, 2))[:1 << 17]
    for bits in (2, 3, 4, 5):
        levels = np.quantile(sample, (np.arange(1 << bits) + 0.5) / (1 << bits)).astype("f4")
        for _ in range(100):
            nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, sample.ravel())
            levels = np.sort(np.bincount(nearest, sample.ravel(), len(levels)) /
                             np.maximum(np.bincount(nearest, minlength=len(levels)), 1)).astype("f4")
        edges = (levels[1:] + levels[:-1]) / 2
        yield ("fixed length, scalar", space.coded_weights * bits + side + 16 * len(levels),
               {name: levels[np.searchsorted(edges, w / scale[name])] * scale[name] for name, w in weights.items()})
    for bits in (2, 3, 4):
        points = sample[:1 << (2 * bits)].copy()
        for _ in range(40):
            nearest = _nearest_point(sample, points)
            count = np.maximum(np.bincount(nearest, minlength=len(points)), 1)
            points = np.stack([np.bincount(nearest, sample[:, d], len(points)) / count for d in range(2)],
                              1).astype("f4")
        decoded = {}
        for name, w in weights.items():
            x = np.ascontiguousarray((w / scale[name]).T)  # pairs down a column
            decoded[name] = points[_nearest_point(x.reshape(-1, 2), points)].reshape(x.shape).T * scale[name]
        yield "fixed length, pairs", space.coded_weights * bits + side + 32 * len(points), decoded


def _nearest_point(x, points):
    half = (points ** 2).sum(1) / 2
    return np.concatenate([np.argmax(p @ points.T - half, 1) for p in np.array_split(x, max(len(x) >> 13, 1))])


def network_bits(space, codec):
    """What a file with this codec holds more than one with the identity, beside the coded weights; 0 for the
    identity."""
    path = next((p for p in (workspace.CODECS / f"{codec}.nwcc", pathlib.Path(codec)) if p.exists()), None)
    if path is None:
        return 0
    described = codec_file.Codec(path)
    bits = 0.9 * float(described.rate[-1]) + 16 * described.parameters / space.coded_weights  # a rate that it reaches

    def codec_bytes(name):
        file = space.folder / "network.nwc"
        done = space.run("compress", space.model.reference, "--bits", f"{bits:.3f}", "--codec", name, "--calib", "none", "--effort", 1,
                         "-o", file, "--json")
        file.unlink()
        return json.loads(done)["codec_bytes"]

    return 8 * (codec_bytes(codec) - codec_bytes("identity"))


def free_networks(space, rates, codecs):
    """Codecs with a network at files larger by that network. Yields (label, row, its bits per weight)."""
    for codec in codecs:
        extra = network_bits(space, codec) / space.weights
        if extra < 0.02:
            continue
        label = f"{pathlib.Path(codec).stem}, network not counted"
        for rate in rates:
            row = nwc_rows.row(space, f"ablation codec {label} {rate:g}", changed(codec=codec), rate + extra)
            yield label, row, extra


def collect(space, rates, codecs):
    def measured(study, label, result):
        return {"study": study, "variant": label, "bpw": result["bpw"], "kld_mean": result["kld_mean"],
                "kld_se": result["kld_se"], "ppl": result["ppl"]}

    studies = {study: dict(variants) for study, variants in NWC_STUDIES.items()}
    studies["transform (codec)"] = {pathlib.Path(c).stem: changed(codec=c) for c in codecs}
    for study, variants in studies.items():
        for label, options in variants.items():
            for rate in rates:
                try:
                    yield measured(study, label, nwc_rows.row(space, f"ablation {study} {label}", options, rate))
                except workspace.ToolError as error:
                    if study != "transform (codec)":
                        raise
                    print(f"{label} at {rate:g} bpw is left out: {error}")
    for label, row, extra in free_networks(space, rates, codecs):
        yield {**measured("transform (codec)", label, row), "bpw": row["bpw"] - extra}
    studies = (("normalisation", normalisation(space, rates)), ("entropy model", fixed_length(space)))
    for study, rows in studies:
        for label, bits, decoded in rows:
            yield measured(study, label, {"bpw": space.bpw_file(bits), **space.evaluate_tensors(decoded)})
    for rate in rates:  # beside the fixed-length codes: the same scales, no calibration, entropy-coded
        for label, quantizer in (("entropy-coded, scalar", "scalar"), ("entropy-coded, trellis", "trellis")):
            options = ["--quantizer", quantizer, "--head-bits", "0", "--rdo", "0", "--importance", "none",
                       "--allocation", "none"]
            yield measured("entropy model", label,
                           nwc_rows.row(space, f"ablation entropy {label}", options, rate, calibrated=False))


def plot(model, rows, path):
    plt = plot_style.pyplot()
    if plt is None:
        return
    studies = list(dict.fromkeys(r["study"] for r in rows))
    columns = -(-len(studies) // 2)
    figure, axes = plt.subplots(2, columns, figsize=(3.1 * columns, 9))
    for axis, study in zip(axes.flat, studies):
        variants = list(dict.fromkeys(r["variant"] for r in rows if r["study"] == study))
        if study == "allocation between tensors":
            variants[variants.index("none")] = "nwc without allocation"
        for method, style in plot_style.styles(variants).items():
            variant = "none" if method == "nwc without allocation" else method
            points = sorted((r["bpw"], r["kld_mean"]) for r in rows if (r["study"], r["variant"]) == (study, variant))
            axis.plot(*zip(*points), label=variant, **style)
        axis.set_yscale("log")
        axis.set_title(study)
        axis.tick_params(labelsize=8, which="both")
        axis.legend(fontsize=8.5, loc="upper center", bbox_to_anchor=(0.5, -0.13))
    for axis in axes.flat[len(studies):]:
        axis.axis("off")
    for axis in axes[-1]:
        axis.set_xlabel("bits per weight of the file")
    for axis in axes[:, 0]:
        axis.set_ylabel("KL divergence, nats per token")
    figure.suptitle(f"{model}: what each part is worth")
    plot_style.save(figure, path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nwc", type=pathlib.Path, default=settings.ROOT / "build/release/bin/nwc")
    parser.add_argument("--model", choices=list(settings.MODELS), default="gutenlm-2.6m")
    parser.add_argument("--rates", nargs="+", type=float, default=settings.RATES)
    parser.add_argument("--codecs", nargs="+", default=["identity", "linear", "small"])
    parser.add_argument("--out", type=pathlib.Path, default=settings.ROOT / "build/bench/quality")
    args = parser.parse_args()
    space = workspace.Workspace(settings.MODELS[args.model], args.nwc, args.out)
    rows = []
    try:
        for row in collect(space, args.rates, args.codecs):
            rows.append(row)
            print(f"{row['study']:28} {row['variant']:28} {row['bpw']:7.4f} bpw  KL {row['kld_mean']:.5f}  "
                  f"ppl {row['ppl']:.3f}", flush=True)
    except workspace.ToolError as error:
        raise SystemExit(str(error))
    report.write_csv(args.out / f"ablations_{args.model}.csv", rows)
    plot(args.model, rows, args.out / f"ablations_{args.model}.png")


if __name__ == "__main__":
    main()
