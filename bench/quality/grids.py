"""Uniform grids of 2^b levels with an FP16 scale for each group of inputs: what round-to-nearest, GPTQ and AWQ share."""
import numpy as np

SHRINK = np.linspace(1.0, 0.4, 25, dtype="f4")  # of the range: clipping trades the extremes for finer steps


def groups(n, size):
    """Consecutive slices of `size` columns; the last one may be shorter. size 0: one group."""
    size = size or n
    return [slice(a, min(a + size, n)) for a in range(0, n, size)]


def storage_bits(m, n, bits, size, symmetric):
    """Codes, FP16 scales and, for asymmetric grids, zero points of as many bits as a code."""
    return m * n * bits + m * len(groups(n, size)) * (16 + (0 if symmetric else bits))


class Grid:
    """scale, zero: [m][1]; value = scale * (code - zero), code in 0 .. 2^bits - 1."""

    def __init__(self, scale, zero, bits):
        self.scale, self.zero, self.top = scale, zero, (1 << bits) - 1

    def round(self, x):
        code = np.rint(x / self.scale + self.zero)
        np.clip(code, 0, self.top, out=code)
        return (code - self.zero) * self.scale


def _f16(scale):
    scale = scale.astype("f2").astype("f4")
    tiny = np.float32(6e-8)  # the smallest half float: a group of zeros needs some scale
    return np.where(np.abs(scale) < tiny, tiny, scale)


def fit(x, bits, symmetric, importance=None):
    """The grid for one group x [m][g], each row its own: the clipping ratio with the least (weighted) squared error.
    Symmetric grids have their zero at code 2^(bits-1) and reach one step further on one side, the sign chosen like the rest.
    importance [g]: weight of each column's squared error."""
    m = len(x)
    levels = 1 << bits
    best, best_scale, best_zero = np.full((m, 1), np.inf, "f4"), None, None
    low, high = np.minimum(x.min(1, keepdims=True), 0), np.maximum(x.max(1, keepdims=True), 0)
    top = np.where(high > -low, high, low)  # the value of largest magnitude, signed
    for shrink in SHRINK:
        if symmetric:
            zero = np.full((m, 1), levels // 2, "f4")
            # All levels used towards the extreme, or the extreme on the shorter side.
            scales = [_f16(-top * shrink / (levels // 2)), _f16(np.abs(top) * shrink / max(levels // 2 - 1, 1))]
            candidates = [(s, zero) for s in scales]
        else:
            scale = _f16((high - low) * shrink / (levels - 1))
            candidates = [(scale, np.clip(np.rint(-low * shrink / scale), 0, levels - 1))]
        for scale, zero in candidates:
            e = Grid(scale, zero, bits).round(x) - x
            e *= e
            error = (e.sum(1) if importance is None else e @ importance)[:, None]
            better = error < best
            best = np.where(better, error, best)
            best_scale = scale if best_scale is None else np.where(better, scale, best_scale)
            best_zero = zero if best_zero is None else np.where(better, zero, best_zero)
    return Grid(best_scale, best_zero, bits)
