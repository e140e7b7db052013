#!/usr/bin/env python3
"""Plots of the records of nwc-bench: plot_bench.py FOLDER [--figures DIR]

Reads FOLDER/{decode,fused,load,tokens,encode,scaling}*.json, writes speed_*.png to DIR (default: FOLDER) and, for each, the
records as speed_*.csv beside it. A kind without records gives no plot.
"""
import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "quality"))
import report

COLUMNS = ("name", "preset", "quantizer", "bpw", "backend", "device", "threads", "weights", "seconds_median", "seconds_min",
           "gweights_per_s", "ratio_memcpy")
COLOURS = {"identity": "black", "linear": "tab:blue", "small": "tab:orange", "paper": "tab:red"}
STYLES = {"scalar": ":", "neon": "--", "avx2": "--", "avx512": "-", "vulkan": "-.", "cuda": (0, (1, 1))}
MARKS = {"scalar": ".", "neon": "s", "avx2": "s", "avx512": "o", "vulkan": "^", "cuda": "x"}


def label(r, *keys):
    parts = [str(r[k]) for k in keys if k != "threads" and r.get(k)]
    if "threads" in keys and r["threads"] > 1:
        parts.append(f"{r['threads']} threads")
    return ", ".join(parts)


def lines(axis, groups, x, y, **style):
    """groups: label -> records."""
    for name, records in groups.items():
        records.sort(key=lambda r: r[x])
        first = records[0]
        axis.plot([r[x] for r in records], [r[y] for r in records], label=name, ms=4, lw=1.3,
                  color=COLOURS.get(first["preset"], "tab:green"), ls=STYLES.get(first["backend"], "-"),
                  marker=MARKS.get(first["backend"], "o"), fillstyle="none" if first["threads"] > 1 else "full", **style)


def group(records, *keys):
    found = {}
    for r in records:
        found.setdefault(label(r, *keys), []).append(r)
    return found


def bars(axis, names, series):
    """Horizontal bars, names from top to bottom; series: label -> {name: value}."""
    height = 0.8 / max(1, len(series))
    for i, (name, values) in enumerate(series.items()):
        at = [j + (i - (len(series) - 1) / 2) * height for j, n in enumerate(names) if n in values]
        axis.barh(at, [values[n] for n in names if n in values], height * 0.92, label=name, zorder=2)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(alpha=0.3, axis="x", which="both", zorder=0)


def legend_below(figure, *axes, columns):
    """One legend for all axes, where it covers nothing; the figure's layout is constrained."""
    found = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels()):
            found.setdefault(name, handle)
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncol=columns, fontsize=6.5)


def plot_decode(plt, records):
    wanted = [r for r in records if r["name"].startswith(("tensor to f16", "nvCOMP")) and "," not in r["quantizer"]]
    figure, axes = plt.subplots(1, 2, figsize=(10, 6.5), sharey=True, layout="constrained")
    for axis, quantizer in zip(axes, ("scalar", "trellis")):
        part = [r for r in wanted if r["quantizer"] == quantizer]
        for r in part:
            r["what"] = {"tensor to f16": "", "tensor to f16 in device memory": "in device memory",
                         "tensor to f16 in device memory, upload included": "upload included"}.get(r["name"], r["name"])
        lines(axis, group(part, "preset", "backend", "what", "threads"), "bpw", "gweights_per_s")
        axis.set_title(f"{quantizer}: whole tensor to f16")
        axis.set_xlim(1.5, 6.7)
        axis.set_xlabel("bits per weight")
        axis.set_yscale("log")
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("Gweight/s")
    legend_below(figure, *axes, columns=4)
    return figure


def plot_fused(plt, records):
    best = [r for r in records if r["backend"] != "scalar" and "," not in r["quantizer"]]
    for r in best:
        r["what"], _, batch = r["name"].partition(" of ")
        r["vectors"] = f"{batch or 1} vectors" if batch else "1 vector"
    names = list(dict.fromkeys(label(r, "preset", "quantizer", "backend", "vectors", "threads") for r in best))
    series = {}
    for r in best:
        series.setdefault(r["what"], {})[label(r, "preset", "quantizer", "backend", "vectors", "threads")] = \
            1e9 * r["seconds_median"] / r["weights"]
    figure, axis = plt.subplots(figsize=(8, 1.2 + 0.32 * len(names)))
    bars(axis, names, series)
    axis.set_xscale("log")
    axis.set_xlabel("ns per weight")
    axis.set_title("Matrix-vector products")
    axis.legend(fontsize=7)
    return figure


def plot_load(plt, records):
    names = list(dict.fromkeys(label(r, "backend", "threads") for r in records if r["name"].startswith("load")))
    series = {}
    for r in records:
        if r["name"].startswith("load"):
            series.setdefault(r["name"].removeprefix("load, "), {})[label(r, "backend", "threads")] = r["ratio_read"]
    figure, axis = plt.subplots(figsize=(7, 1.6 + 0.5 * len(names)))
    bars(axis, names, series)
    axis.axvline(1, color="black", lw=1)
    axis.set_xscale("log")
    axis.set_xlabel("time to load, over that of reading the f16 weights from a file")
    axis.legend(fontsize=7)
    return figure


def plot_tokens(plt, records):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
    rates, peaks, limits = {}, {}, {}
    names = []
    for r in records:
        what, mode = r["name"].split(", ", 1)
        name = ", ".join([mode, label(r, "backend", "threads")])
        names.append(name)
        rates.setdefault(what, {})[name] = r["tokens_per_second"]
        peaks.setdefault("peak resident memory", {})[name] = r["peak_bytes"] / 2**20
        limits[name] = r["limit_bytes"] / 2**20
    names = list(dict.fromkeys(names))
    bars(left, names, rates)
    left.set_xscale("log")
    left.set_xlabel("tokens per second")
    bars(right, names, peaks)
    right.plot([limits[n] for n in names], range(len(names)), "k|", ms=9,
               label="file + two layers + KV cache + 64 MiB")
    right.set_xlabel("MiB")
    legend_below(figure, left, right, columns=4)
    return figure


def plot_encode(plt, records):
    names = list(dict.fromkeys(label(r, "quantizer", "threads") or r["name"] for r in records))
    series = {}
    for r in records:
        series.setdefault(r["name"], {})[label(r, "quantizer", "threads") or r["name"]] = r["seconds_median"]
    figure, axis = plt.subplots(figsize=(8, 1.6 + 0.4 * len(names)))
    bars(axis, names, series)
    axis.set_xlabel(f"seconds, {records[0]['weights']:,} weights")
    axis.legend(fontsize=7)
    return figure


def plot_scaling(plt, records):
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5.5), layout="constrained")
    groups = group(records, "name", "preset", "backend", "threads")
    for axis, y in ((left, "seconds_median"), (right, "gweights_per_s")):
        for i, (name, part) in enumerate(groups.items()):
            part.sort(key=lambda r: r["weights"])
            axis.plot([r["weights"] for r in part], [r[y] for r in part], marker=MARKS.get(part[0]["backend"], "d"), ms=4, lw=1.3,
                      ls="-" if part[0]["threads"] == 1 else "--", color=f"C{i % 10}", label=name)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xlabel("weights")
        axis.grid(alpha=0.3, which="both")
    left.set_ylabel("seconds")
    right.set_ylabel("Gweight/s")
    legend_below(figure, left, columns=3)
    return figure


PLOTS = {"decode": plot_decode, "fused": plot_fused, "load": plot_load, "tokens": plot_tokens, "encode": plot_encode,
         "scaling": plot_scaling}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--figures", type=pathlib.Path)
    options = parser.parse_args()
    figures = options.figures or options.folder
    figures.mkdir(parents=True, exist_ok=True)
    try:
        import matplotlib
        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        plt = None
        print("no plots: matplotlib is missing", file=sys.stderr)
    for kind, plot in PLOTS.items():
        records = [r for path in sorted(options.folder.glob(f"{kind}*.json")) for r in json.loads(path.read_text())]
        if not records:
            continue
        further = list(dict.fromkeys(k for r in records for k in r if k not in COLUMNS))
        report.write_csv(figures / f"speed_{kind}.csv", [{k: r.get(k, "") for k in (*COLUMNS, *further)} for r in records])
        if plt is None:
            continue
        figure = plot(plt, records)
        if not figure.get_constrained_layout():
            figure.tight_layout()
        report.save_figure(figure, figures / f"speed_{kind}.png", dpi=110)
        plt.close(figure)
        print(figures / f"speed_{kind}.png")


if __name__ == "__main__":
    main()
