"""QTIP-style fixed-rate trellis coding (Tseng et al. 2024): random Hadamard transform, bitshift trellis of 2^L states,
tail-biting sequences of 256 weights (16 x 16), block feedback over 16 columns. No fine-tuning.

codes: "1mad" and "3inst" (computed, one weight a step) and "hyb" (a hash into a table of 2^9 pairs, two weights a step,
the table fitted to a Gaussian by k-means; 2 KiB of FP16 are counted once for a model, in quality.py)."""
import functools

import numpy as np

import incoherent
import native

TILE = 16
HYB_BITS = 9
HYB_TABLE_BITS = (1 << HYB_BITS) * 2 * 16


def fit_pairs(samples, table_bits):
    """2^table_bits pairs, the second one positive: k-means of samples [count][2], count a multiple of 16, folded over
    that sign."""
    x = samples.copy()
    x[:, 1] = np.abs(x[:, 1])
    centres = x[:1 << table_bits].copy()
    for _ in range(60):
        nearest = np.concatenate([np.argmax(part @ centres.T - (centres ** 2).sum(1) / 2, 1)
                                  for part in np.split(x, 16)])
        count = np.bincount(nearest, minlength=len(centres))
        for d in range(2):
            total = np.bincount(nearest, x[:, d], len(centres))
            centres[:, d] = np.where(count > 0, total / np.maximum(count, 1), centres[:, d])
    return centres.astype("f2").astype("f4")


def hyb_values(pairs, state_bits):
    """[2][2^state_bits]: a hash of the state names the pair, another of its bits the second one's sign."""
    s = np.arange(1 << state_bits, dtype="u8")
    x = (s * s + s) & 0xffffffff
    bits = int(np.log2(len(pairs)))
    chosen = pairs[((x >> (15 - bits)) & ((1 << bits) - 1)).astype(int)].copy()
    chosen[:, 1] *= 1 - 2 * ((x >> 15) & 1).astype("f4")
    return np.ascontiguousarray(chosen.T)


@functools.lru_cache(maxsize=None)
def values(code, state_bits):
    """[V][2^state_bits], about unit variance."""
    s = np.arange(1 << state_bits, dtype="u8")
    if code == "1mad":
        x = (s * 34038481 + 76625530) & 0xffffffff
        total = sum((x >> (8 * i)) & 255 for i in range(4))
        return ((total.astype("f4") - 510) / 147.8)[None]
    if code == "3inst":
        x = (s * 89226354 + 64248484) & 0xffffffff
        x = ((x & 0x8fff8fff) ^ 0x3b603b60).astype("u4")
        halves = x.view("<u2").reshape(-1, 2).view("<f2").astype("f4")
        return (halves.sum(1) / np.float32(1.24))[None]
    if code == "hyb":
        samples = np.random.default_rng(0).standard_normal((1 << 17, 2)).astype("f4")
        return hyb_values(fit_pairs(samples, HYB_BITS), state_bits)
    raise ValueError(code)


def shift_of(code, bits):
    """New bits a step."""
    shift = bits * len(values(code, 4))
    if shift != int(shift) or not 1 <= shift <= 12:
        raise ValueError(f"{code} cannot code {bits} bits a weight")
    return int(shift)


def encode(x, code, bits, state_bits, scale):
    """x [count][256] of unit variance -> reconstruction; the code's values are multiplied by `scale`."""
    table = values(code, state_bits) * np.float32(scale)
    states = native.trellis_search(x, state_bits, shift_of(code, bits), table)
    return table.T[states].reshape(x.shape)


@functools.lru_cache(maxsize=None)
def _scale(code, bits, state_bits):
    """The least error on a Gaussian sample. A code that is coarse for its rate wants to be spread less."""
    x = np.random.default_rng(0).standard_normal((24, TILE * TILE)).astype("f4")
    grid = np.linspace(0.8, 1.2, 17)
    return min(grid, key=lambda s: ((encode(x, code, bits, state_bits, s) - x) ** 2).mean())


def quantize(w, hessian=None, *, bits, code="1mad", state_bits=16, seed=1):
    scale = _scale(code, bits, state_bits)

    def tiles(x):
        rows, columns = x.shape[0] // TILE, x.shape[1] // TILE
        return x.reshape(rows, TILE, columns, TILE).swapaxes(1, 2)

    def block(x):
        cut = tiles(x)
        out = encode(cut.reshape(-1, TILE * TILE), code, bits, state_bits, scale).reshape(cut.shape)
        return out.swapaxes(1, 2).reshape(x.shape)

    return incoherent.quantize(w, hessian, TILE, block, seed), int(w.size * bits) + 32  # one FP32 scale
