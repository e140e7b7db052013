"""QuIP#-style lattice codebooks (Tseng et al. 2024): random Hadamard transform, E8P (2 bits a weight) with residual
stages for higher rates, block feedback over 8 columns. No fine-tuning."""
import functools
import itertools

import numpy as np

import incoherent
import native

STAGES = {2: ("e8p",), 3: ("e8p", "e8"), 4: ("e8p", "e8p"), 5: ("e8p", "e8p", "e8")}  # e8: 256 points, 1 bit a weight


@functools.lru_cache(maxsize=None)
def _e8p_entries():
    """256 vectors of absolute values of D8 + 1/2 (norm^2 at most 10, and 29 of norm^2 12), and the parity of minus
    signs that makes their sum even. The paper lists its own 29; by symmetry any 29 of these serve a Gaussian source
    nearly alike."""
    values = np.array(list(itertools.product((0.5, 1.5, 2.5, 3.5), repeat=8)), "f4")
    norms = (values ** 2).sum(1)
    small, twelve = values[norms <= 10], values[norms == 12]
    entries = np.concatenate((small, twelve[np.linspace(0, len(twelve) - 1, 256 - len(small)).astype(int)]))
    return entries, (entries.sum(1) % 2).astype("u1")


@functools.lru_cache(maxsize=None)
def _e8_points():
    """The origin, the 240 shortest vectors of E8, and 15 of the next shell."""
    integers = np.array([v for v in itertools.product((-1, 0, 1), repeat=8) if np.dot(v, v) in (2, 4)
                         and sum(v) % 2 == 0])
    halves = np.array([v for v in itertools.product((-0.5, 0.5), repeat=8) if sum(v) % 2 == 0])
    roots = integers[(integers ** 2).sum(1) == 2]
    fours = integers[(integers ** 2).sum(1) == 4]
    fours = fours[np.linspace(0, len(fours) - 1, 15).astype(int)]
    return np.concatenate((np.zeros((1, 8)), roots, halves, fours)).astype("f4")


def _nearest(kind, x):
    if kind == "e8p":
        return native.e8p_nearest(x, *_e8p_entries())
    points = _e8_points()
    half_norms = (points ** 2).sum(1) / 2
    out = np.empty_like(x)
    for a in range(0, len(x), 1 << 16):
        out[a:a + (1 << 16)] = points[np.argmax(x[a:a + (1 << 16)] @ points.T - half_norms, axis=1)]
    return out


def _encode(x, bits, scales):
    """x [count][8] of unit variance -> reconstruction."""
    out = np.zeros_like(x)
    for kind, scale in zip(STAGES[bits], scales):
        out += _nearest(kind, (x - out) / scale) * scale
    return out


@functools.lru_cache(maxsize=None)
def _scales(bits):
    """The scale of each stage with the least error on a Gaussian sample, stage after stage with the last one searched
    finely for each choice of the ones before."""
    x = np.random.default_rng(0).standard_normal((1 << 12, 8)).astype("f4")

    def search(stages, residual):
        sigma = residual.std()
        # The points themselves spread by about 1.2 a coordinate for E8P, and by 0.5 for the 256 points of E8.
        grid = sigma * (np.linspace(0.6, 1.3, 29) if stages[0] == "e8p" else np.linspace(0.9, 2.1, 25))
        best = None
        for scale in grid if len(stages) == 1 else grid[::3]:
            rest = residual - _nearest(stages[0], residual / scale) * np.float32(scale)
            found = ((rest ** 2).mean(), []) if len(stages) == 1 else search(stages[1:], rest)
            if best is None or found[0] < best[0]:
                best = (found[0], [np.float32(scale)] + found[1])
        return best

    return tuple(search(STAGES[bits], x)[1])


def quantize(w, hessian=None, *, bits, seed=1):
    scales = _scales(bits)

    def encode(x):
        return _encode(np.ascontiguousarray(x).reshape(-1, 8), bits, scales).reshape(x.shape)

    return incoherent.quantize(w, hessian, 8, encode, seed), w.size * bits + 32  # one FP32 scale
