"""CSV, table and plot of one model's rows."""
import csv

import numpy as np

COLUMNS = ("method", "setting", "target", "bpw", "bpw_coded", "kld_mean", "kld_se", "kld_p99", "ppl", "ppl_reference",
           "same_top", "tokens", "mse", "bpw_own_file", "seconds")


def frontier(points):
    """Points (bpw, kld) by rising rate, those that a smaller file beats left out."""
    out = []
    for bpw, kld in sorted(points):
        if not out or kld < out[-1][1]:
            out.append((bpw, kld))
    return out


def at_rate(points, rate):
    """(KL divergence, mark) of a method at a rate: on the line between its neighbours in log(KL), "" for a file within 0.02
    of the rate, "~" for an interpolation, "<" where its largest file is smaller than that. None where all are larger."""
    points = frontier(points)
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


def plot(title, rows, path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    methods = by_method(rows)
    figure, axis = plt.subplots(figsize=(9, 6))
    colours = plt.get_cmap("tab20").colors
    ours = iter(("black", "crimson", "dimgray", "darkorange"))
    for i, (name, points) in enumerate(methods.items()):
        x, y = zip(*frontier(points))
        own = name.startswith("nwc")
        axis.plot(x, np.maximum(y, 1e-7), marker="o", ms=5 if own else 3, lw=2.2 if own else 1,
                  ls="--" if name.endswith("allocated") else "-", color=next(ours, "black") if own else colours[i % 20],
                  label=name, zorder=3 if own else 2)
    axis.set_yscale("log")
    axis.set_xlim(2, 6.2)
    inside = [k for p in methods.values() for b, k in p if 2 <= b <= 6.2 and k > 0]
    axis.set_ylim(min(inside) * 0.8, max(inside) * 1.25 * (max(inside) / min(inside)) ** 0.35)  # room for the legend
    axis.set_xlabel("bits per weight, everything in the file")
    axis.set_ylabel("KL divergence from the uncompressed model, nats per token")
    axis.set_title(title)
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize=6.5, ncol=2)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def save_figure(figure, path, dpi):
    """As a PNG of 96 colours: a third of the bytes, and nobody sees it in line drawings."""
    import io

    import PIL.Image  # what matplotlib writes images with
    full = io.BytesIO()
    figure.savefig(full, format="png", dpi=dpi)
    image = PIL.Image.open(full).convert("RGB").quantize(colors=96, dither=PIL.Image.Dither.NONE)
    image.save(path, optimize=True)


def write_csv(path, rows, columns=None, digits=6):
    """columns: those written, in this order; None: all of the first row."""
    with open(path, "w", newline="") as f:
        writer = csv.DictWriter(f, columns or rows[0].keys(), extrasaction="ignore" if columns else "raise")
        writer.writeheader()
        writer.writerows({k: f"{v:.{digits}g}" if isinstance(v, float) else v for k, v in r.items()} for r in rows)


def write(name, rows, rates, folder):
    rows = sorted(rows, key=lambda r: (r["method"], r["bpw"]))
    write_csv(folder / f"quality_{name}.csv", rows, COLUMNS)
    text = f"KL divergence from the uncompressed {name} (nats per token; in brackets: times nwc's default)\n\n{table(rows, rates)}\n"
    (folder / f"quality_{name}.md").write_text(text)
    print(text)
    try:
        plot(name, rows, folder / f"quality_{name}.png")
    except ImportError:
        print("no plot: matplotlib is missing")
