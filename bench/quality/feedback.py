"""Error feedback (LDLQ, which is GPTQ's update in another form): H = U D U^T, U unit upper triangular (in blocks).

Block k is quantized from w_k + sum_{j<k} (w_j - q_j) U_jk; the error tr(E H E^T) is then the sum over k of what the
quantizer itself did wrong, weighted by D_k (Chee et al. 2023, QuIP; Tseng et al. 2024, QuIP#, for blocks).
"""
import numpy as np

DAMPING = 0.01  # of the mean of the diagonal, as in GPTQ


def damped(hessian, damping=DAMPING):
    """float64, with dead inputs made harmless."""
    h = np.array(hessian, "f8")
    diagonal = np.arange(len(h))
    mean = h[diagonal, diagonal].mean()
    h[diagonal, diagonal] += damping * mean if mean > 0 else 1.0
    return h


def factor(hessian, block=1):
    """U [n][n] in float32: unit upper triangular in blocks of `block` columns."""
    h = damped(hessian)
    root = np.linalg.cholesky(h[::-1, ::-1])[::-1, ::-1]  # upper, root root^T = h
    if block == 1:
        return (root / np.diag(root)).astype("f4")
    u = np.empty_like(root)
    for k in range(0, len(h), block):
        s = slice(k, k + block)
        u[:, s] = np.linalg.solve(root[s, s].T, root[:, s].T).T
    return u.astype("f4")


def ldlq(weights, u, quantize, block=1, outer=128, begin=None):
    """Quantizes block after block of columns. quantize(slice, target [m][block]) -> [m][block]; begin(slice, targets)
    is called before each `outer` block with what its columns would be as things stand (for scales that follow the
    feedback).
    """
    w = np.asarray(weights, "f4")
    out = np.empty_like(w)
    error = np.empty_like(w)
    n = w.shape[1]
    outer = max(outer // block * block, block)
    for a in range(0, n, outer):
        b = min(a + outer, n)
        base = w[:, a:b] + error[:, :a] @ u[:a, a:b] if a else w[:, a:b].copy()
        if begin is not None:
            begin(slice(a, b), base)
        for k in range(a, b, block):
            s = slice(k, min(k + block, b))
            target = base[:, s.start - a:s.stop - a]
            if k > a:
                target = target + error[:, a:k] @ u[a:k, s]
            out[:, s] = quantize(s, target)
            error[:, s] = w[:, s] - out[:, s]
    return out


def proxy_error(weights, decoded, hessian):
    """tr(E H E^T), undamped."""
    e = np.asarray(weights, "f4") - decoded
    return float(np.einsum("ij,ij->", e @ np.asarray(hessian, "f4"), e, dtype="f8"))
