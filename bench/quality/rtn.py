"""Round to nearest in groups (as Q4_0, Q8_0 and most runtimes do), with the clipping ratio searched for each group."""
import numpy as np

import grids


def quantize(w, hessian=None, *, bits, group=32, symmetric=False, weighted=False):
    """weighted: the clipping search weighs columns with diag(H), as llama.cpp's importance matrix does."""
    importance = np.diag(hessian).astype("f4") if weighted and hessian is not None else None
    out = np.empty_like(w, "f4")
    for s in grids.groups(w.shape[1], group):
        grid = grids.fit(w[:, s], bits, symmetric, None if importance is None else importance[s])
        out[:, s] = grid.round(w[:, s])
    return out, grids.storage_bits(*w.shape, bits, group, symmetric)
