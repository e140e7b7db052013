"""Random Hadamard transform (Tseng et al. 2024, QuIP#): W -> A W B^T with A, B = Hadamard matrix * random signs /
sqrt(n).

Orders 2^k * {1, 12, 20, 28, 36, ...}: Sylvester's doubling of Paley's constructions. The signs come from a seed: no
bits.
"""
import functools

import numpy as np


def _paley_one(q):
    """Order q + 1, q a prime = 3 mod 4."""
    residues = {x * x % q for x in range(1, q)}
    jacobsthal = np.array([[0 if i == j else 1 if (j - i) % q in residues else -1 for j in range(q)] for i in range(q)])
    s = np.zeros((q + 1, q + 1), int)
    s[0, 1:], s[1:, 0], s[1:, 1:] = 1, -1, jacobsthal
    return s + np.eye(q + 1, dtype=int)


def _paley_two(q):
    """Order 2 (q + 1), q a prime = 1 mod 4."""
    residues = {x * x % q for x in range(1, q)}
    c = np.zeros((q + 1, q + 1), int)
    c[0, 1:] = c[1:, 0] = 1
    c[1:, 1:] = [[0 if i == j else 1 if (j - i) % q in residues else -1 for j in range(q)] for i in range(q)]
    return np.kron(c, [[1, 1], [1, -1]]) + np.kron(np.eye(q + 1, dtype=int), [[1, -1], [-1, -1]])


_ODD = {1: lambda: np.ones((1, 1), int), 12: lambda: _paley_one(11), 20: lambda: _paley_one(19),
        28: lambda: _paley_two(13), 36: lambda: _paley_two(17), 44: lambda: _paley_one(43), 60: lambda: _paley_two(29)}


@functools.lru_cache(maxsize=None)
def _base(n):
    """(order of the dense factor, its matrix): n = order * 2^k."""
    for order in sorted(_ODD):
        rest = n // order
        if n % order == 0 and rest & (rest - 1) == 0:
            return order, _ODD[order]().astype("f4")
    raise ValueError(f"no Hadamard matrix of order {n} is built here")


def transform(x, transpose=False):
    """x [rows][n] times the orthonormal Hadamard matrix of order n (or its transpose), along the last axis."""
    rows, n = x.shape
    order, dense = _base(n)
    y = x.reshape(rows, n // order, order) @ (dense if transpose else dense.T)
    step = 1
    while step < n // order:
        y = y.reshape(rows, n // order // (2 * step), 2, step, order)
        y = np.stack((y[:, :, 0] + y[:, :, 1], y[:, :, 0] - y[:, :, 1]), axis=2)
        step *= 2
    return (y.reshape(rows, n) / np.sqrt(n)).astype(x.dtype)


class Incoherence:
    """The transform of one tensor and its inverse."""

    def __init__(self, m, n, seed):
        rng = np.random.default_rng(seed)
        self.left = rng.choice(np.array([-1, 1], "f4"), m)
        self.right = rng.choice(np.array([-1, 1], "f4"), n)

    def forward(self, w):
        w = transform(np.asarray(w, "f4") * self.right)
        return np.ascontiguousarray(transform(np.ascontiguousarray(w.T) * self.left).T)

    def inverse(self, w):
        w = np.ascontiguousarray((transform(np.ascontiguousarray(w.T), True) * self.left).T)
        return transform(w, True) * self.right

    def hessian(self, h):
        h = transform(np.asarray(h, "f8") * self.right)
        return transform(np.ascontiguousarray(h.T) * self.right)
