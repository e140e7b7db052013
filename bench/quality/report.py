"""CSV, table and plot of one model's rows."""
import csv
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import plot_style  # noqa: E402

COLUMNS = ("method", "setting", "target", "bpw", "bpw_coded", "kld_mean", "kld_se", "kld_p99", "ppl", "ppl_reference",
           "same_top", "tokens", "mse", "bpw_own_file", "seconds")


def at_rate(points, rate):
    """(KL divergence, mark) of a method at a rate: on the line between its neighbours in log(KL), "" for a file within
    0.02 of the rate, "~" for an interpolation, "<" where its largest file is smaller than that. None where all are
    larger."""
    points = plot_style.frontier(points)
    near = [p for p in points if abs(p[0] - rate) <= 0.02]
    if near:
        return near[0][1], ""
    below = [p for p in points if p[0] <= rate]
    above = [p for p in points if p[0] > rate]
    if not below:
        return None
    if not above:
        return below[-1][1], "<"
    (x0, y0), (x1, y1) = below[-1], above[0]
    share = (rate - x0) / (x1 - x0)
    return float(np.exp((1 - share) * np.log(max(y0, 1e-12)) + share * np.log(max(y1, 1e-12)))), "~"


def by_method(rows):
    methods = {}
    for row in rows:
        methods.setdefault(row["method"], []).append((row["bpw"], row["kld_mean"]))
    return methods


def table(rows, rates):
    methods = by_method(rows)
    own = {rate: at_rate(methods["nwc, default"], rate) for rate in rates} if "nwc, default" in methods else {}
    lines = ["| method | " + " | ".join(f"{rate:g} bpw" for rate in rates) + " |", "|---" * (len(rates) + 1) + "|"]
    for name, points in methods.items():
        cells = []
        for rate in rates:
            found = at_rate(points, rate)
            cell = "" if found is None else f"{found[1]}{found[0]:.4g}"
            if found and own.get(rate) and name != "nwc, default":
                cell += f" ({found[0] / own[rate][0]:.2f}x)"
            cells.append(cell)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


SHOWN = ("nwc with recovery", "nwc, default", "nwc, data-free",
         "entropy-coded scalar + LDLQ + water-filling, allocated",
         "the paper without its networks (K=4, scalar, LDLQ)", "QTIP HYB + RHT + LDLQ, allocated", "QTIP HYB + RHT + LDLQ",
         "GPTQ, allocated",
         "llama.cpp with importance matrix", "llama.cpp", "E8P + RHT + LDLQ, allocated", "RTN, allocated")


def plot(model, rows, path):
    """Ours and the best setting of each rival; the table has all of them."""
    plt = plot_style.pyplot()
    if plt is None:
        return
    methods = by_method(rows)
    drawn = plot_style.shown(methods, [m for m in SHOWN if f"{m}, allocated" not in methods])
    figure, axis = plt.subplots(figsize=(9, 6.4))
    for name, style in plot_style.styles(drawn).items():
        x, y = zip(*plot_style.frontier(methods[name]))
        axis.plot(x, np.maximum(y, 1e-7), label=name, **style)
    axis.set_yscale("log")
    axis.set_xlim(1.95, 6.25)
    inside = [k for name in drawn for b, k in methods[name] if 1.95 <= b <= 6.25 and k > 0]
    axis.set_ylim(min(inside) * 0.7, max(inside) * 1.4)
    axis.set_xlabel("bits per weight, everything in the file")
    axis.set_ylabel("KL divergence from the uncompressed model, nats per token")
    axis.set_title(f"{model}: quality at equal file size")
    plot_style.legend_below(figure, [axis], columns=2)
    plot_style.save(figure, path)


def write_csv(path, rows, columns=None, digits=6):
    """columns: those written, in this order; None: all of the first row."""
    with open(path, "w", newline="") as f:
        writer = csv.DictWriter(f, columns or rows[0].keys(), extrasaction="ignore" if columns else "raise")
        writer.writeheader()
        writer.writerows({k: f"{v:.{digits}g}" if isinstance(v, float) else v for k, v in r.items()} for r in rows)


def write(name, rows, rates, folder):
    rows = sorted(rows, key=lambda r: (r["method"], r["bpw"]))
    write_csv(folder / f"quality_{name}.csv", rows, COLUMNS)
    text = (f"KL divergence from the uncompressed {name} (nats per token; in brackets: times nwc's default)\n\n"
            f"{table(rows, rates)}\n")
    (folder / f"quality_{name}.md").write_text(text)
    print(text)
    plot(name, rows, folder / f"quality_{name}.png")
