"""AWQ-style scaling (Lin et al. 2024): W diag(s) is rounded to nearest, s = E[x^2]^(alpha/2), alpha by grid search on
tr(E H E^T), then the clipping ratio by diag(H). The scales cost nothing here: AWQ folds them into the layer before,
which is generous where that layer cannot take them (grouped queries)."""
import numpy as np

import feedback
import rtn

ALPHAS = np.linspace(0, 1, 21)


def quantize(w, hessian=None, *, bits, group=128, symmetric=False):
    if hessian is None:
        return rtn.quantize(w, bits=bits, group=group, symmetric=symmetric)
    magnitude = np.sqrt(np.maximum(np.diag(hessian), 1e-12 * np.diag(hessian).max()))
    best, best_error, cost = None, np.inf, 0
    for alpha in ALPHAS:
        s = magnitude ** alpha
        s = (s / np.sqrt(s.max() * s.min())).astype("f4")
        # Errors of W s are divided by s when they act: diag(H) / s^2 is their weight in the clipping search.
        scaled = np.asarray(hessian) / np.outer(s, s)
        decoded, cost = rtn.quantize(w * s, scaled, bits=bits, group=group, symmetric=symmetric, weighted=True)
        decoded /= s
        error = feedback.proxy_error(w, decoded, hessian)
        if error < best_error:
            best, best_error = decoded, error
    return best, cost
