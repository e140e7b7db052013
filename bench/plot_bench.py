#!/usr/bin/env python3
"""Plots the records of nwc-bench: plot_bench.py FOLDER [--figures DIR] [--model NAME]

Reads FOLDER/{decode,fused,load,tokens,encode,scaling,mixture}*.json, writes speed_*.png to DIR (default: FOLDER) and, for each,
the records as speed_*.csv beside it. A kind without records gives no plot. NAME is the model of the kinds load and
tokens.
"""
import argparse
import json
import pathlib
import sys

import plot_style

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "quality"))
import report  # noqa: E402

COLUMNS = ("name", "preset", "quantizer", "bpw", "backend", "device", "threads", "weights", "seconds_median",
           "seconds_min", "gweights_per_s", "ratio_memcpy")
LINES = {"scalar": ":", "neon": "--", "avx2": "--", "avx512": "-", "vulkan": "-.", "cuda": (0, (1, 1))}
MARKS = {"scalar": ".", "neon": "s", "avx2": "s", "avx512": "o", "vulkan": "^", "cuda": "x"}


def label(r, *keys):
    """threads: of the machine; host threads: the same, but not of a device, which has its own."""
    parts = [str(r[k]) for k in keys if k not in ("threads", "host threads") and r.get(k)]
    if "threads" in keys or ("host threads" in keys and r["backend"] not in ("vulkan", "cuda")):
        parts.append(f"{r['threads']} thread{'s' if r['threads'] > 1 else ''}")
    return ", ".join(parts)


def matrix(records):
    """Machine and size for a title."""
    devices = ", ".join(dict.fromkeys(r["device"] for r in records))
    sizes = sorted({r["weights"] for r in records})
    return f"{sizes[0] / 1e6:.1f} million weights, {devices}" if len(sizes) == 1 else devices


def group(records, *keys):
    found = {}
    for r in records:
        found.setdefault(label(r, *keys), []).append(r)
    return found


def bars(axis, names, series):
    """Horizontal bars, names from top to bottom; series: label -> {name: value}."""
    height = 0.8 / max(1, len(series))
    colours = plot_style.colours(series)
    there = {n: [s for s, values in series.items() if n in values] for n in names}
    for name, values in series.items():
        at = [j + (there[n].index(name) - (len(there[n]) - 1) / 2) * height
              for j, n in enumerate(names) if n in values]
        axis.barh(at, [values[n] for n in names if n in values], height * 0.92, label=name, color=colours[name],
                  zorder=2)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)


def bar_figure(plt, names, series, size, xlabel, title, columns, scale="log"):
    """A figure of bars() alone, and its axis; size: width and height of a name, in inches."""
    figure, axis = plt.subplots(figsize=(size[0], 1.6 + size[1] * len(names)))
    bars(axis, names, series)
    axis.set_xscale(scale)
    axis.set_xlabel(xlabel)
    axis.set_title(title)
    plot_style.legend_below(figure, [axis], columns=columns)
    return figure, axis


def decode_bars(plt, records, wanted, keys):
    """Records of a single rate make no curves."""
    names = list(group(sorted(wanted, key=lambda r: -r["gweights_per_s"]), *keys))
    series = {}
    for r in wanted:
        series.setdefault(r["quantizer"], {})[label(r, *keys)] = r["gweights_per_s"]
    title = f"Decoding a whole tensor to f16, {wanted[0]['bpw']:.1f} bits per weight\n{matrix(records)}"
    return bar_figure(plt, names, series, (8, 0.34), "Gweight/s", title, columns=2)[0]


def plot_decode(plt, records, model):
    """The fastest of each backend's thread counts and the SIMD levels; the scalar decoder, which nobody uses for speed,
    is in the CSV."""
    wanted = [r for r in records if r["name"].startswith(("tensor to f16", "nvCOMP")) and "," not in r["quantizer"] and
              r["backend"] != "scalar"]
    what = {"tensor to f16": "", "tensor to f16 in device memory": "in device memory",
            "tensor to f16 in device memory, upload included": "upload included"}
    for r in wanted:
        r["what"] = what.get(r["name"], r["name"])
    threads = {}
    for r in wanted:
        threads[r["backend"]] = max(threads.get(r["backend"], 0), r["threads"])
    wanted = [r for r in wanted if r["threads"] == threads[r["backend"]]]
    keys = ("preset", "backend", "what", "host threads")
    if len({round(r["bpw"]) for r in wanted}) == 1:
        return {"": decode_bars(plt, records, wanted, keys)}
    figure, axes = plt.subplots(1, 2, figsize=(10, 5.5), sharey=True)
    for axis, quantizer in zip(axes, ("scalar", "trellis")):
        groups = group([r for r in wanted if r["quantizer"] == quantizer], *keys)
        fastest = sorted(groups.items(), key=lambda g: -max(r["gweights_per_s"] for r in g[1]))
        for name, part in fastest[:plot_style.MOST_CURVES]:
            part.sort(key=lambda r: r["bpw"])
            axis.plot([r["bpw"] for r in part], [r["gweights_per_s"] for r in part], label=name, ms=5, lw=1.6,
                      color=plot_style.colour(part[0]["preset"]), ls=LINES.get(part[0]["backend"], "-"),
                      marker=MARKS.get(part[0]["backend"], "o"))
        axis.set_title(f"{quantizer} quantizer")
        axis.set_xlim(1.5, 6.7)
        axis.set_xlabel("bits per weight")
        axis.set_yscale("log")
        axis.grid(which="both")
    axes[0].set_ylabel("Gweight/s")
    figure.suptitle(f"Decoding a whole tensor to f16: {matrix(records)}")
    plot_style.legend_below(figure, axes, columns=3)
    return {"": figure}


def plot_fused(plt, records, model):
    best = [r for r in records if r["backend"] != "scalar" and "," not in r["quantizer"]]
    for r in best:
        r["what"], _, batch = r["name"].partition(" of ")
        r["vectors"] = f"{batch} vectors" if batch else "1 vector"
    several = [key for key in ("vectors", "threads") if len({r[key] for r in best}) > 1]
    keys = ("preset", "quantizer", "backend", *("host threads" if key == "threads" else key for key in several))
    names = list(dict.fromkeys(label(r, *keys) for r in best))
    series = {}
    for r in best:
        series.setdefault(r["what"], {})[label(r, *keys)] = 1e9 * r["seconds_median"] / r["weights"]
    title = f"Matrix-vector products\n{matrix(records)}"
    return {"": bar_figure(plt, names, series, (8, 0.34), "ns per weight", title, columns=3)[0]}


def plot_load(plt, records, model):
    names = list(dict.fromkeys(label(r, "backend", "threads") for r in records if r["name"].startswith("load")))
    series = {}
    for r in records:
        if r["name"].startswith("load"):
            series.setdefault(r["name"].removeprefix("load, "), {})[label(r, "backend", "threads")] = r["ratio_read"]
    figure, axis = bar_figure(plt, names, series, (7, 0.5),
                              "time to load, over that of reading the f16 weights from a file", f"{model}: loading",
                              columns=2)
    axis.axvline(1, color="black", lw=1)
    return {"": figure}


def plot_tokens(plt, records, model):
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5.5), sharey=True)
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
    figure.suptitle(f"{model} by mode: {matrix(records)}")
    plot_style.legend_below(figure, (left, right), columns=4)
    return {"": figure}


def plot_encode(plt, records, model):
    def row(r):
        return label({**r, "quantizer": r["quantizer"] or "any quantizer"}, "quantizer", "threads")

    names = list(dict.fromkeys(map(row, records)))
    series = {}
    for r in records:
        series.setdefault(r["name"], {})[row(r)] = r["seconds_median"]
    return {"": bar_figure(plt, names, series, (8, 0.4), f"seconds, {records[0]['weights']:,} weights",
                           f"Encoding a matrix\n{matrix(records)}", columns=2, scale="linear")[0]}


def plot_scaling(plt, records, model):
    """One figure for decoding and multiplying, one for encoding."""
    figures = {}
    for suffix, title, part in (("", "Decoding and multiplying",
                                 [r for r in records if not r["name"].startswith("encode")]),
                                ("_encode", "Encoding", [r for r in records if r["name"].startswith("encode")])):
        if not part:
            continue
        figure, axes = plt.subplots(1, 2, figsize=(11, 5))
        for axis, y, unit in zip(axes, ("seconds_median", "gweights_per_s"), ("seconds", "Gweight/s")):
            for name, points in group(part, "name", "preset", "backend", "threads").items():
                points.sort(key=lambda r: r["weights"])
                axis.plot([r["weights"] for r in points], [r[y] for r in points], ms=5, lw=1.6, label=name,
                          marker=MARKS.get(points[0]["backend"], "d"), ls="-" if points[0]["threads"] == 1 else "--",
                          color=plot_style.colour(points[0]["name"]))
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.set_xlabel("weights")
            axis.set_ylabel(unit)
            axis.grid(which="both")
        figure.suptitle(f"{title} one matrix of growing size: {matrix(part)}")
        plot_style.legend_below(figure, axes, columns=2)
        figures[suffix] = figure
    return figures


def plot_mixture(plt, records, model):
    """Speed, hits and bytes read by budget."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2))
    names = {"nwc": "nwc", "mapped": "f16, mapped"}
    shares = sorted({r["share"] for r in records})
    for axis, key, factor, unit in ((axes[0], "tokens_per_second", 1, "tokens per second"),
                                    (axes[1], "hit_rate", 100, "experts found in memory, %"),
                                    (axes[2], "read_bytes_per_token", 1e-6, "MB read per token")):
        for i, (kind, name) in enumerate(names.items()):
            own = {r["share"]: factor * r[key] for r in records if r["name"].startswith(kind)}
            at = [shares.index(s) + (i - 0.5) * 0.4 for s in own]
            axis.bar(at, own.values(), 0.37, label=name, color=plot_style.COLOURS["nwc" if kind == "nwc" else "f16 product"],
                     zorder=2)
            for x, value in zip(at, own.values()):
                axis.annotate(f"{value:.3g}", (x, value), ha="center", va="bottom", fontsize=8)
        axis.set_xticks(range(len(shares)), [f"{s:.0f} %" for s in shares])
        axis.set_xlabel("memory, of what all takes decoded")
        axis.set_ylabel(unit)
        axis.grid(axis="x", visible=False)
        axis.margins(y=0.12)
    figure.suptitle(f"A mixture of experts larger than memory, page cache cold: {matrix(records)}")
    plot_style.legend_below(figure, axes, columns=2)
    return {"": figure}


PLOTS = {"decode": plot_decode, "fused": plot_fused, "load": plot_load, "tokens": plot_tokens, "encode": plot_encode,
         "scaling": plot_scaling, "mixture": plot_mixture}


def draw(kind, records, folder, model):
    plt = plot_style.pyplot()
    if plt is None:
        return
    for suffix, figure in PLOTS[kind](plt, records, model).items():
        path = folder / f"speed_{kind}{suffix}.png"
        plot_style.save(figure, path, dpi=90)
        print(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--figures", type=pathlib.Path)
    parser.add_argument("--model", default="model")
    options = parser.parse_args()
    figures = options.figures or options.folder
    figures.mkdir(parents=True, exist_ok=True)
    for kind in PLOTS:
        records = [r for path in sorted(options.folder.glob(f"{kind}*.json")) for r in json.loads(path.read_text())]
        if not records:
            continue
        further = list(dict.fromkeys(k for r in records for k in r if k not in COLUMNS))
        rows = [{k: r.get(k, "") for k in (*COLUMNS, *further)} for r in records]
        report.write_csv(figures / f"speed_{kind}.csv", rows)
        draw(kind, records, figures, options.model)


if __name__ == "__main__":
    main()
