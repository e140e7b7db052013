#!/usr/bin/env python3
"""The paper's Fig. 3, 5 and 7 on our data, from the rows that quality.py has measured (it is run where there are none).

fig_rates_<model>_calibrated.png, _data-free.png: perplexity and KL divergence against bits per weight (Fig. 3, Fig. 5).
fig_error_<model>.png: perplexity and KL divergence against the mean squared error of the weights (Fig. 7): who gets
more out of the same error? For this the codecs' transforms are measured beside, data-free, with scalar quantization,
the same steps for all columns relative to their power, no search: nothing but the transform differs.
fig_rates_<model>.csv has the points of both."""
import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np

import nwc_rows
import report
import settings
import workspace
from report import plot_style

TRANSFORM = "transform: {}, scalar, data-free"
TRANSFORMS = ("identity", "linear", "small")
TRANSFORM_OPTIONS = ["--quantizer", "scalar", "--importance", "none", "--allocation", "none", "--row-importance", "off",
                     "--head-bits", "0", "--rdo", "0", "--shrinkage", "off", "--no-row-classes"]
COLUMNS = ("group", "method", "setting", "bpw", "mse", "ppl", "kld_mean", "kld_se")
LABELS = {"ppl": "perplexity", "kld_mean": "KL divergence, nats per token"}
DATA_FREE = ("nwc, data-free", *map(TRANSFORM.format, TRANSFORMS), "RTN", "SeedLM", "llama.cpp")
CALIBRATED = ("nwc with recovery", "nwc, default", "nwc without allocation",
              "entropy-coded scalar + LDLQ + water-filling, allocated",
              "entropy-coded scalar + LDLQ + water-filling", "the paper without its networks (K=4, scalar, LDLQ)",
              "QTIP 1MAD + RHT + LDLQ",
              "QTIP HYB + RHT + LDLQ", "E8P + RHT + LDLQ", "E8P + RHT + LDLQ, allocated", "GPTQ", "GPTQ, allocated",
              "AWQ",
              "AWQ, allocated", "RTN, clipping by diag(H)", "RTN, clipping by diag(H), allocated",
              "llama.cpp with importance matrix")
# The CSV has all of these rows. The figure has, of the calibrated ones, ours and the best setting of each rival;
# against the squared error it has those that lie apart.
DRAWN = {"calibrated": ("nwc with recovery", "nwc, default", "nwc without allocation",
                        "entropy-coded scalar + LDLQ + water-filling, allocated", "the paper without its networks (K=4, scalar, LDLQ)",
                        "QTIP HYB + RHT + LDLQ", "GPTQ, allocated", "llama.cpp with importance matrix"),
         "data-free": DATA_FREE}
DRAWN_ERROR = ("nwc with recovery", "nwc, default", "nwc without allocation", "nwc, data-free",
               "entropy-coded scalar + LDLQ + water-filling, allocated", "GPTQ, allocated",
               TRANSFORM.format("identity"),
               TRANSFORM.format("small"))


def lines(axis, rows, x_key, y_key, methods):
    for method, style in plot_style.styles(methods).items():
        points = sorted((r[x_key], r[y_key]) for r in rows if r["method"] == method and (r.get(x_key) or 0) > 0)
        if x_key == "bpw":
            points = plot_style.frontier(points)
        if points:
            axis.plot(*zip(*points), label=method, **style)
    axis.set_yscale("log")
    axis.set_ylabel(LABELS[y_key])


def plain_ticks(axis, reference, top):
    """Perplexities in plain figures."""
    import matplotlib.ticker as ticker
    step = next(s for s in (0.5, 1, 2, 5, 10, 20, 50) if (top - reference) / s < 12)
    axis.yaxis.set_major_locator(ticker.FixedLocator(np.arange(np.ceil(reference / step) * step, top, step)))
    axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.yaxis.set_minor_locator(ticker.NullLocator())


def rates(name, group, rows, reference, path):
    plt = plot_style.pyplot()
    if plt is None:
        return
    methods = plot_style.shown({r["method"] for r in rows}, DRAWN[group])
    inside = [r for r in rows if r["method"] in methods and 2 <= r["bpw"] <= 6.2]
    figure, axes = plt.subplots(1, 2, figsize=(12, 6.2))
    for axis, key in zip(axes, LABELS):
        lines(axis, rows, "bpw", key, methods)
        axis.set_xlim(1.95, 6.2)
        axis.set_xlabel("bits per weight, everything in the file")
        axis.set_title(f"{name}, {group}")
    axes[0].axhline(reference, color="black", lw=0.9, ls=":", label="uncompressed")
    top = min(max(r["ppl"] for r in inside), 1.5 * reference)
    axes[0].set_ylim(reference * 0.995, top)
    plain_ticks(axes[0], reference, top)
    kld = [r["kld_mean"] for r in inside]
    axes[1].set_ylim(min(kld) * 0.8, max(kld) * 1.2)
    plot_style.legend_below(figure, axes, columns=3)
    plot_style.save(figure, path, dpi=80)


def error(name, rows, reference, path):
    plt = plot_style.pyplot()
    if plt is None:
        return
    methods = plot_style.shown({r["method"] for r in rows}, DRAWN_ERROR)
    figure, axes = plt.subplots(1, 2, figsize=(12, 6.2))
    for axis, key in zip(axes, LABELS):
        lines(axis, rows, "mse", key, methods)
        axis.set_xscale("log")
        axis.set_xlim(5e-4, 6)
        axis.set_xlabel("squared error of the weights over their power, mean of all tensors")
        axis.set_title(name)
    axes[0].axhline(reference, color="black", lw=0.9, ls=":", label="uncompressed")
    top = min(max(r["ppl"] for r in rows), 1.4 * reference)
    axes[0].set_ylim(reference * 0.995, top)
    plain_ticks(axes[0], reference, top)
    plot_style.legend_below(figure, axes, columns=3)
    plot_style.save(figure, path, dpi=80)


def draw(name, rows, reference, folder):
    for group in DRAWN:
        rates(name, group, rows, reference, folder / f"fig_rates_{name}_{group}.png")
    error(name, rows, reference, folder / f"fig_error_{name}.png")


def spread(rows, errors=(0.1, 0.03, 0.01)):
    """KL divergence of each method at equal squared error, interpolated in logarithms: method -> values or None."""
    out = {}
    for method in (*CALIBRATED, *DATA_FREE):
        points = sorted((np.log(r["mse"]), np.log(r["kld_mean"])) for r in rows if r["method"] == method
                        and r["mse"] > 0)
        if len(points) > 1:
            x, y = zip(*points)
            out[method] = [float(np.exp(np.interp(np.log(e), x, y))) if x[0] <= np.log(e) <= x[-1] else None
                           for e in errors]
    return errors, out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nwc", type=pathlib.Path, default=settings.ROOT / "build/release/bin/nwc")
    parser.add_argument("--model", nargs="+", choices=list(settings.MODELS), default=["gutenlm-2.6m"])
    parser.add_argument("--rates", nargs="+", type=float, default=[2.0, 2.5, 3.0, 4.0, 5.0], help="of the transforms")
    parser.add_argument("--report", action="store_true", help="only plots of what was measured before")
    parser.add_argument("--out", type=pathlib.Path, default=settings.ROOT / "build/bench/quality")
    args = parser.parse_args()
    for name in args.model:
        path = args.out / name / "rows.json"
        if not path.exists():
            subprocess.run([sys.executable, settings.ROOT / "bench/quality/quality.py", "--nwc", args.nwc, "--model",
                            name,
                            "--out", args.out], check=True)
        rows = list(json.loads(path.read_text()).values())
        kept = args.out / name / "transforms.json"
        if not args.report:
            space = workspace.Workspace(settings.MODELS[name], args.nwc, args.out)
            found = [nwc_rows.row(space, TRANSFORM.format(codec), ["--codec", codec, *TRANSFORM_OPTIONS], rate,
                                  calibrated=False)
                     for codec in TRANSFORMS for rate in args.rates]
            kept.write_text(json.dumps(found, indent=1))
        rows += json.loads(kept.read_text()) if kept.exists() else []
        rows = sorted(({**r, "group": "data-free" if r["method"] in DATA_FREE else "calibrated"} for r in rows
                       if r["method"] in CALIBRATED + DATA_FREE), key=lambda r: (r["group"], r["method"], r["bpw"]))
        report.write_csv(args.out / f"fig_rates_{name}.csv", rows, COLUMNS, digits=5)
        draw(name, rows, rows[0]["ppl_reference"], args.out)
        errors, table = spread(rows)
        print(f"KL divergence at a squared error of {', '.join(map(str, errors))} of the weights' power")
        for method, values in table.items():
            print(f"{method:58}" + "".join(f"{'' if v is None else format(v, '.2g'):>9}" for v in values))


if __name__ == "__main__":
    main()
