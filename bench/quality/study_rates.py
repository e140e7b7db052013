#!/usr/bin/env python3
"""The paper's Fig. 3, 5 and 7 on our data, from the rows that quality.py has measured.

fig_rates_<model>.png: perplexity and KL divergence against bits per weight, calibrated (Fig. 3) and data-free (Fig. 5).
fig_error_<model>.png: perplexity and KL divergence against the mean squared error of the weights (Fig. 7): who gets more out of
the same error?"""
import argparse
import json
import pathlib

import report
import settings

DATA_FREE = ("RTN", "SeedLM", "nwc, data-free")
LABELS = {"ppl": "perplexity", "kld_mean": "KL divergence, nats per token"}


def lines(axis, rows, x_key, y_key, methods):
    import matplotlib.pyplot as plt
    for i, name in enumerate(dict.fromkeys(r["method"] for r in rows)):
        if name not in methods:
            continue
        points = sorted((r[x_key], r[y_key]) for r in rows if r["method"] == name and x_key in r)
        if x_key == "bpw":
            points = report.frontier(points)
        if points:
            own = name.startswith("nwc")
            axis.plot(*zip(*points), "o-", ms=4 if own else 2.5, lw=2 if own else 1, label=name, zorder=3 if own else 2,
                      color=plt.get_cmap("tab20").colors[i % 20], ls="--" if name.endswith("allocated") else "-")
    axis.set_yscale("log")
    axis.set_ylabel(LABELS[y_key])
    axis.grid(alpha=0.3, which="both")


def rates(name, rows, path):
    import matplotlib.pyplot as plt
    everything = {r["method"] for r in rows}
    groups = {"calibrated": everything - set(DATA_FREE), "data-free": set(DATA_FREE) | {"llama.cpp"}}
    figure, axes = plt.subplots(2, 2, figsize=(13, 10), sharex=True)
    for column, (title, methods) in enumerate(groups.items()):
        for row, key in enumerate(LABELS):
            axis = axes[row][column]
            lines(axis, rows, "bpw", key, methods)
            axis.set_xlim(2, 6.2)
            seen = [r[key] for r in rows if r["method"] in methods and 2 <= r["bpw"] <= 6.2 and r[key] > 0]
            axis.set_ylim(min(seen) * (0.998 if key == "ppl" else 0.8), min(max(seen), min(seen) * (2 if key == "ppl" else 1e5)))
            axis.set_title(f"{name}, {title}")
            axis.legend(fontsize=6)
        axes[1][column].set_xlabel("bits per weight, everything in the file")
        axes[0][column].axhline(rows[0]["ppl_reference"], color="gray", lw=0.8, ls="--")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def error(name, rows, path):
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(1, 2, figsize=(13, 5.5))
    for axis, key in zip(axes, LABELS):
        lines(axis, [r for r in rows if r.get("mse", 0) > 0], "mse", key, {r["method"] for r in rows})
        axis.set_xscale("log")
        axis.set_xlabel("mean squared error over mean square, mean of all tensors")
    axes[0].set_title(name)
    axes[1].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=list(settings.MODELS), default=list(settings.MODELS))
    parser.add_argument("--out", type=pathlib.Path, default=settings.ROOT / "build/bench/quality")
    args = parser.parse_args()
    import matplotlib
    matplotlib.use("Agg")
    for name in args.model:
        path = args.out / name / "rows.json"
        if not path.exists():
            print(f"{name}: run quality.py first")
            continue
        rows = list(json.loads(path.read_text()).values())
        rates(name, rows, args.out / f"fig_rates_{name}.png")
        error(name, rows, args.out / f"fig_error_{name}.png")
        print(f"wrote {args.out}/fig_rates_{name}.png and fig_error_{name}.png")


if __name__ == "__main__":
    main()
