"""The only calibration in a folder given to `nwc compress --calib-cache` (trainer/calib/calibration_cache.h)."""
import json
import pathlib

import numpy as np

import tensors


class Calibration:
    def __init__(self, folder):
        found = sorted(pathlib.Path(folder).glob("*/calibration.json"))
        if len(found) != 1:
            raise FileNotFoundError(f"{folder} holds {len(found)} calibrations, not one")
        self._folder = found[0].parent
        index = json.loads((self._folder / "calibration.json").read_text())
        self.hash = index["hash"]
        self._entries = {t["name"]: t for t in index["tensors"]}

    def _read(self, name, suffix):
        entry = self._entries.get(name)
        if entry is None:
            return None
        file = tensors.Safetensors(self._folder / entry["file"])
        key = (entry.get("hessian", name) if suffix == "hessian" else name) + "." + suffix
        return file.read(key) if key in file.names() else None

    def hessian(self, name):
        """E[x x^T] [n][n], or None."""
        return self._read(name, "hessian")

    def fisher(self, name):
        """E[omega x x^T] [n][n], tokens weighted by their Fisher information, or None."""
        return self._read(name, "fisher")

    def cost(self, name, error):
        """KL divergence in nats per token that an error [m][n] of this tensor costs to second order, or None."""
        fisher, rows = self._read(name, "fisher"), self._read(name, "row_importance")
        if fisher is None or rows is None:
            return None
        return 0.5 * float(np.einsum("r,ri,ri->", rows, error @ fisher, error, dtype="f8", optimize=True))
