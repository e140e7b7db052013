"""SeedLM (Shafipour et al. 2025): each block of C weights is a pseudo-random matrix U(seed) [C][P] times P coefficients
of 4 bits with a shared exponent of 4 bits; the 16-bit seed of a linear-feedback shift register is found by search.

Data-free. The paper gives (C, P) for 3 and 4 bits a weight; the others follow its scheme. Of 64 seeds, the best by
projection in each 64th of all seeds, the best after rounding of the coefficients is taken."""
import functools

import numpy as np

import native

SEED_BITS, COEFFICIENT_BITS, EXPONENT_BITS = 16, 4, 4
CONFIGS = {2: (16, 3), 3: (12, 4), 4: (8, 3), 5: (8, 5)}  # bits: (C, P); 16 + 4 + 4 P bits for C weights
PARTS = 64
BATCH = 1 << 14


@functools.lru_cache(maxsize=None)
def _matrices(c, p):
    """U of every seed, [2^16 - 1][C][P], values in [-1, 1]; x^16 + x^15 + x^13 + x^4 + 1."""
    state = np.arange(1, 1 << SEED_BITS, dtype="u4")
    out = np.empty((len(state), c * p), "f4")
    half = 1 << (SEED_BITS - 1)
    for i in range(c * p):
        bit = (state ^ (state >> 1) ^ (state >> 3) ^ (state >> 12)) & 1
        state = (state >> 1) | (bit << (SEED_BITS - 1))
        out[:, i] = (state.astype("f4") - half) / (half - 1)
    return out.reshape(-1, c, p)


@functools.lru_cache(maxsize=None)
def _search_space(c, p):
    u = _matrices(c, p)
    return np.linalg.qr(u.astype("f8"))[0].astype("f4"), np.linalg.pinv(u.astype("f8")).astype("f4")


def _quantize_blocks(w, c, p, top_exponent):
    u = _matrices(c, p)
    bases, inverses = _search_space(c, p)
    out = np.empty_like(w)
    low, high = -(1 << (COEFFICIENT_BITS - 1)), (1 << (COEFFICIENT_BITS - 1)) - 1
    for a in range(0, len(w), BATCH):
        x = w[a:a + BATCH]
        best_error = np.full(len(x), np.inf, "f4")
        seeds = native.largest_projections(x, bases, PARTS)
        for part in range(PARTS):
            s = seeds[:, part]
            t = np.einsum("bpc,bc->bp", inverses[s], x)
            reach = np.ceil(np.log2(np.maximum(np.abs(t).max(1) / high, 1e-30)))
            for less in (0, 1):
                e = np.clip(reach - less, top_exponent - (1 << EXPONENT_BITS) + 1, top_exponent)
                step = np.exp2(e)[:, None].astype("f4")
                y = np.einsum("bcp,bp->bc", u[s], np.clip(np.rint(t / step), low, high) * step)
                error = ((y - x) ** 2).sum(1)
                better = error < best_error
                best_error = np.where(better, error, best_error)
                out[a:a + BATCH][better] = y[better]
    return out


def quantize(w, hessian=None, *, bits):
    c, p = CONFIGS[bits]
    m, n = w.shape
    columns = -(-n // c) * c  # rows are padded to whole blocks
    padded = np.zeros((m, columns), "f4")
    padded[:, :n] = w
    top = np.ceil(np.log2(np.abs(w).max() + 1e-30))  # one byte of the tensor
    out = _quantize_blocks(padded.reshape(-1, c), c, p, top).reshape(m, columns)[:, :n]
    return out, m * (columns // c) * (SEED_BITS + EXPONENT_BITS + COEFFICIENT_BITS * p) + 8
