"""Uniform grids of 2^b levels with an FP16 scale for each group of inputs: what round-to-nearest, GPTQ and AWQ
share."""
import numpy as np

import native

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


def fit(x, bits, symmetric, importance=None):
    """The grid for one group x [m][g], each row its own: the clipping ratio with the least (weighted) squared error.
    Symmetric grids have their zero at code 2^(bits-1) and reach one step further on one side, the sign chosen like the
    rest. importance [g]: weight of each column's squared error."""
    return Grid(*native.fit_grids(x, bits, symmetric, SHRINK, importance), bits)
