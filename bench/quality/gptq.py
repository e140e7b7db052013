"""GPTQ (Frantar et al. 2023): fixed-rate grids with error feedback.

Two variants per tensor, the better one by tr(E H E^T) is taken: columns in their order with scales fitted when a group
begins, to the weights as the feedback has left them; or columns by falling diag(H) (act-order) with scales fitted
beforehand (static groups), which needs no stored order."""
import numpy as np

import feedback
import grids
import rtn


def _in_order(w, hessian, bits, group, symmetric):
    u = feedback.factor(hessian)
    current = {}

    def begin(s, targets):
        current["grid"], current["start"] = grids.fit(targets, bits, symmetric), s.start

    return feedback.ldlq(w, u, lambda s, t: current["grid"].round(t), outer=group or w.shape[1], begin=begin)


def _act_order(w, hessian, bits, group, symmetric):
    order = np.argsort(-np.diag(hessian), kind="stable")
    importance = np.diag(hessian).astype("f4")
    fitted = [None] * w.shape[1]
    for s in grids.groups(w.shape[1], group):
        grid = grids.fit(w[:, s], bits, symmetric, importance[s])
        fitted[s] = [grid] * (s.stop - s.start)
    u = feedback.factor(hessian[np.ix_(order, order)])
    out = np.empty_like(w, "f4")
    out[:, order] = feedback.ldlq(w[:, order], u, lambda s, t: fitted[order[s.start]].round(t))
    return out


def quantize(w, hessian=None, *, bits, group=128, symmetric=False):
    if hessian is None:
        return rtn.quantize(w, bits=bits, group=group, symmetric=symmetric)
    candidates = [f(w, hessian, bits, group, symmetric) for f in (_in_order, _act_order)]
    out = min(candidates, key=lambda c: feedback.proxy_error(w, c, hessian))
    return out, grids.storage_bits(*w.shape, bits, group, symmetric)
