"""How the figures look: a method has the same colour in all of them, legends lie where no curve runs, and a figure has
at most eight curves. A new method gets a line in METHODS."""
import sys

MOST_CURVES = 8

COLOURS = {
    "nwc": "#000000", "recovery": "#d62728", "no allocation": "#1f77b4", "data-free": "#17becf", "8 states": "#6f6f6f",
    "linear": "#3f51b5", "small": "#e6ab02", "scalar": "#2ca02c", "paper": "#9467bd", "QTIP": "#ff7f0e",
    "E8P": "#f781bf", "GPTQ": "#8c564b", "AWQ": "#a6d854", "RTN": "#bcbd22", "SeedLM": "#c49c94",
    "llama.cpp": "#a0a0a0", "Lloyd-Max": "#006d5b", "pairs": "#7a0177", "fused product": "#5e3c99", "decode": "#e66101",
    "f16 product": "#b2abd2", "search": "#018571", "rANS": "#80cdc1", "Hessian": "#a6611a", "prompt": "#4d9221",
    "generation": "#b8e186", "memory": "#8da0cb", "first variant": "#37474f", "second variant": "#78909c",
    "third variant": "#b0bec5", "gutenlm": "#4361ee", "SmolLM2": "#d00070", "encoder": "#5a3e1b", "warm": "#fb8072",
    "cold": "#80b1d3", "plain search": "#f4a582"}
assert len(set(COLOURS.values())) == len(COLOURS)

# method: colour, line, marker. A dashed line is the same method with rates allocated between tensors, a dotted one the
# same without what the name says.
METHODS = {
    "nwc, default": ("nwc", "-", "o"), "nwc with recovery": ("recovery", "-", "o"),
    "nwc without allocation": ("no allocation", "-", "o"), "nwc, data-free": ("data-free", "-", "o"),
    "entropy-coded scalar + LDLQ + water-filling": ("scalar", "-", "v"),
    "entropy-coded scalar + LDLQ + water-filling, allocated": ("scalar", "--", "v"),
    "the paper without its networks (K=4, scalar, LDLQ)": ("paper", "-", "s"), "QTIP 1MAD + RHT + LDLQ": ("QTIP", ":", "^"),
    "QTIP HYB + RHT + LDLQ": ("QTIP", "-", "^"), "QTIP HYB + RHT + LDLQ, allocated": ("QTIP", "--", "^"),
    "E8P + RHT + LDLQ": ("E8P", "-", "D"), "E8P + RHT + LDLQ, allocated": ("E8P", "--", "D"),
    "GPTQ": ("GPTQ", "-", "P"), "GPTQ, allocated": ("GPTQ", "--", "P"), "AWQ": ("AWQ", "-", "X"),
    "AWQ, allocated": ("AWQ", "--", "X"), "RTN": ("RTN", "-", "d"), "RTN, allocated": ("RTN", "--", "d"),
    "RTN, clipping by diag(H)": ("RTN", "-", "p"), "RTN, clipping by diag(H), allocated": ("RTN", "--", "p"),
    "SeedLM": ("SeedLM", "-", "h"), "SeedLM, allocated": ("SeedLM", "--", "h"), "llama.cpp": ("llama.cpp", ":", "*"),
    "llama.cpp with importance matrix": ("llama.cpp", "-", "*"),
    "transform: identity, scalar, data-free": ("nwc", "-", "s"),
    "transform: linear, scalar, data-free": ("linear", "-", "^"),
    "transform: small, scalar, data-free": ("small", "-", "s"),
    # Quantizers on sources and codecs (study_sources.py, rate_distortion.py)
    "nwc, trellis, 1,024 states (default)": ("nwc", "-", "o"), "nwc, trellis, 256 states": ("nwc", "--", "o"),
    "nwc, trellis, 8 states": ("8 states", "-", "o"),
    "nwc, scalar": ("scalar", "-", "o"), "ECSQ, ideal coder": ("scalar", ":", None), "TCQ (1MAD)": ("QTIP", "-", "s"),
    "RHT + TCQ (1MAD)": ("QTIP", "--", "s"), "TCQ (hybrid)": ("QTIP", "-", "^"),
    "TCQ* (hybrid, fitted)": ("QTIP", ":", "^"), "E8P, residual stages": ("E8P", "-", "D"),
    "VQ (pairs)": ("pairs", "-", "v"), "SQ (Lloyd-Max)": ("Lloyd-Max", "-", "v"),
    "RTN, groups of 128": ("RTN", "-", "d"), "llama.cpp k-quants": ("llama.cpp", "-", "P"),
    "llama.cpp Q4_0, Q5_0": ("llama.cpp", "--", "X"), "default": ("nwc", "-", "o"), "8 states": ("8 states", "-", "o"),
    "scalar": ("scalar", "-", "o"), "linear": ("linear", "-", "^"), "small": ("small", "-", "s"),
    "small, network not counted": ("small", ":", "s"), "small, scalar": ("small", "--", "v"),
    "small, scalar, network not counted": ("small", "-.", "v"),
    # Variants of a part of the method (study_ablations.py); what "nwc without allocation" has is blue
    "water-filling": ("no allocation", "-", "o"), "four levels (paper)": ("paper", "-", "s"),
    "LDLQ": ("no allocation", "-", "o"), "fisher, rows too": ("nwc", "-", "o"),
    "trellis, 1,024 states": ("no allocation", "-", "o"), "nearest points": ("no allocation", "-", "o"),
    "off": ("nwc", "-", "o"), "on, 16,384 tokens": ("recovery", "-", "o"),
    "refitted, by class of row": ("no allocation", "-", "o"), "identity": ("nwc", "-", "o"),
    "fixed length, scalar": ("Lloyd-Max", "-", "v"), "fixed length, pairs": ("pairs", "-", "v"),
    "entropy-coded, scalar": ("scalar", "-", "o"),
    # What takes time (plot_bench.py)
    "fused product": ("fused product", "-", "o"), "decode": ("decode", "-", "o"),
    "decode, then multiply": ("decode", "-", "s"), "f16 product": ("f16 product", "-", "^"),
    "encode: rANS": ("rANS", "-", "d"), "encode: factor Hessian": ("Hessian", "-", "d"), "prompt": ("prompt", "-", "o"),
    "generation": ("generation", "-", "o"), "peak resident memory": ("memory", "-", "o"),
    "page cache warm": ("warm", "-", "o"), "cold": ("cold", "-", "o"), "factor Hessian": ("Hessian", "-", "d"),
    "rANS encoding": ("rANS", "-", "d"), "search": ("plain search", "-", "d"), "search with LDLQ": ("search", "-", "d"),
    "trellis": ("nwc", "-", "o"),
    # Models whose weights are looked at (study_transforms.py)
    "gutenlm-2.6m, q_proj": ("gutenlm", "none", "o"), "gutenlm-2.6m, linear layers": ("gutenlm", "none", "X"),
    "SmolLM2-135M, q_proj": ("SmolLM2", "none", "^"), "SmolLM2-135M, linear layers": ("SmolLM2", "none", "P"),
    "encoder weights, linear layers": ("encoder", "none", "d")}
VARIANTS = (("first variant", "-", "s"), ("second variant", "--", "^"), ("third variant", ":", "D"),
            ("8 states", "-.", "v"))


def pyplot():
    """matplotlib.pyplot without a window, or None with a word on stderr where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        print("no plots: matplotlib is missing (Debian: python3-matplotlib, or pip install matplotlib)",
              file=sys.stderr)
        return None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    plt.rcParams.update({"figure.constrained_layout.use": True, "axes.grid": True, "grid.alpha": 0.3,
                         "axes.axisbelow": True, "axes.titlesize": 11, "legend.frameon": False})
    return plt


def colours(methods):
    """method -> colour of its bar; methods that have no line in METHODS get greys, one after the other."""
    greys = iter(VARIANTS)
    return {m: COLOURS[METHODS[m][0] if m in METHODS else next(greys)[0]] for m in methods}


def colour(method):
    """The colour of one curve; "encode: search, 8 states" has that of "search with LDLQ"."""
    if method not in METHODS and method.startswith("encode: search"):
        return COLOURS["search"]
    return colours([method])[method]


def styles(methods):
    """method -> keyword arguments of plot(). Methods that have no line in METHODS get greys, one after the other."""
    greys = iter(VARIANTS)
    out = {}
    for method in methods:
        name, line, marker = METHODS[method] if method in METHODS else next(greys)
        own = name in ("nwc", "recovery", "no allocation", "data-free")
        out[method] = dict(color=COLOURS[name], ls=line, marker=marker, ms=5 if own else 4.5, lw=2 if own else 1.3,
                           zorder=3 if own else 2)
    return out


def shown(methods, wanted):
    """Of `wanted`, in that order, the first eight that there are."""
    return [m for m in wanted if m in methods][:MOST_CURVES]


def frontier(points):
    """Points (bpw, kld) by rising rate, those that a smaller file beats left out."""
    out = []
    for bpw, kld in sorted(points):
        if not out or kld < out[-1][1]:
            out.append((bpw, kld))
    return out


def legend_below(figure, axes, columns, fontsize=9):
    """One legend for all axes under them."""
    found = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels()):
            found.setdefault(name, handle)
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncol=columns, fontsize=fontsize)


def save(figure, path, dpi=90):
    """As a PNG. No axis has more curves than can be told apart."""
    import matplotlib.pyplot as plt
    for axis in figure.axes:
        curves = [line for line in axis.lines if not line.get_label().startswith("_") and len(line.get_xdata()) > 2]
        assert len(curves) <= MOST_CURVES, f"{path}: {len(curves)} curves"
    figure.savefig(path, dpi=dpi, metadata={"Software": None}, pil_kwargs={"optimize": True})
    plt.close(figure)
