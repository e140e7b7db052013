"""Runs the rivals: every tensor under every setting of a method, once; then whole models from them.

The cache: <method>/<setting>.json (result) and <method>/<setting>.npz (decoded tensors as FP16, which is what nwc's own
decoder returns and what the evaluation computes with), both tied to the sources of the method and to the
calibration."""
import concurrent.futures
import hashlib
import inspect
import json
import os
import re

import numpy as np

import feedback
import native

SHARED_SOURCES = ("feedback", "grids", "hadamard", "incoherent", "native")


def _slug(text):
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def label(setting):
    """"3 bit, groups of 32, symmetric"."""
    words = {"bits": "{} bit", "group": "groups of {}", "state_bits": "2^{} states", "code": "{}"}
    parts = [words[k].format(v) for k, v in setting.items() if k in words]
    if "symmetric" in setting:
        parts.append("symmetric" if setting["symmetric"] else "asymmetric")
    return ", ".join(parts)


def _version(method, setting, workspace):
    """Changes with the method's sources, its setting and what it is calibrated on."""
    h = hashlib.sha256(repr((sorted(setting.items()), method.fisher)).encode())
    module = inspect.getmodule(method.quantize)
    for source in (module.__file__, *(native.SOURCE.with_name(f"{name}.py") for name in SHARED_SOURCES), native.SOURCE):
        with open(source, "rb") as f:
            h.update(f.read())
    h.update(workspace.calibration.hash.encode())
    return h.hexdigest()[:16]


def _quantize_tensor(method, setting, workspace, name):
    native.threads = 1
    w = workspace.reference.read(name)
    calibration = workspace.calibration
    hessian = calibration.hessian(name)
    statistics = calibration.fisher(name) if method.fisher else hessian
    decoded, bits = method.quantize(w, statistics if method.calibrated else None, **setting)
    half = decoded.astype("f2")
    error = half.astype("f4") - w
    return half, {"bits": int(bits), "mse": float((error ** 2).mean() / (w ** 2).mean()),
                  "proxy": None if hessian is None else feedback.proxy_error(w, half.astype("f4"), hessian),
                  "cost": calibration.cost(name, error)}


class Runner:
    def __init__(self, workspace, jobs):
        self.workspace, self.jobs = workspace, jobs

    def _paths(self, method, tag):
        folder = self.workspace.folder / _slug(method.name)
        folder.mkdir(exist_ok=True)
        return folder / f"{_slug(tag)}.json", folder / f"{_slug(tag)}.npz"

    def tensors(self, method, setting):
        """Per coded tensor what its storage takes and what its error is; the decoded tensors lie beside, as npz."""
        w = self.workspace
        setting = dict(setting)
        if "state_bits" in inspect.signature(method.quantize).parameters:
            setting.setdefault("state_bits", w.model.trellis_bits)
        version = _version(method, setting, w)
        report_path, data_path = self._paths(method, label(setting) + " tensors")
        if report_path.exists() and data_path.exists():
            report = json.loads(report_path.read_text())
            if report["version"] == version:
                return report["tensors"], data_path
        order = sorted(w.coded, key=lambda name: -int(np.prod(w.reference.shape(name))))
        with concurrent.futures.ProcessPoolExecutor(self.jobs) as pool:
            results = pool.map(_quantize_tensor, *zip(*[(method, setting, w, name) for name in order]))
            done = dict(zip(order, results))
        temporary = data_path.with_name(f"partial-{os.getpid()}.npz")
        np.savez(temporary, **{name: half for name, (half, _) in done.items()})
        os.replace(temporary, data_path)
        report = {"version": version, "tensors": {name: info for name, (_, info) in done.items()}}
        report_path.write_text(json.dumps(report, indent=1))
        return report["tensors"], data_path

    def _model(self, method, tag, version, choices):
        """choices: tensor -> (info, npz path). Evaluates the model made of them."""
        w = self.workspace
        path, _ = self._paths(method, tag)
        if path.exists():
            result = json.loads(path.read_text())
            if result["version"] == version:
                return result
        bits = method.model_bits + sum(info["bits"] for info, _ in choices.values())
        files = {p: np.load(p) for p in {p for _, p in choices.values()}}
        result = {"version": version, "setting": tag, "bpw": w.bpw_file(bits), "bpw_coded": bits / w.coded_weights,
                  "mse": float(np.mean([info["mse"] for info, _ in choices.values()]))}
        result.update(w.evaluate_tensors({name: files[p][name] for name, (_, p) in choices.items()}))
        path.write_text(json.dumps(result, indent=1))
        return result

    def uniform(self, method, setting):
        """Every tensor with the same setting."""
        infos, data = self.tensors(method, setting)
        version = f"{_version(method, setting, self.workspace)} {self.workspace.model.tokens}"
        return self._model(method, label(setting), version, {name: (info, data) for name, info in infos.items()})

    def allocated(self, method, bpw):
        """A setting for each tensor, chosen by sensitivity for a file of this rate; None where it is out of reach."""
        settings = method.settings_for(self.workspace.model)
        table = [self.tensors(method, setting) for setting in settings]
        budget = bpw * self.workspace.weights - self.workspace.rest_bits - method.model_bits
        chosen = allocate({name: [(infos[name]["bits"], infos[name]["cost"]) for infos, _ in table]
                           for name in self.workspace.coded}, budget)
        if chosen is None:
            return None
        version = f"{chosen} {[_version(method, s, self.workspace) for s in settings]}"
        version = hashlib.sha256(version.encode()).hexdigest()[:16] + f" {self.workspace.model.tokens}"
        return self._model(method, f"allocated {bpw}", version,
                           {name: (table[c][0][name], table[c][1]) for name, c in chosen.items()})


def allocate(options, budget):
    """options: name -> [(bits, cost)]. The choices with the least sum of costs on the convex hulls for a slope, the
    slope by bisection, what is left of the budget filled greedily. None without costs or where even the cheapest exceed
    it."""
    if any(cost is None for choices in options.values() for _, cost in choices):
        return None

    def pick(slope):
        return {name: min(range(len(choices)), key=lambda i: choices[i][1] + slope * choices[i][0])
                for name, choices in options.items()}

    def size(chosen):
        return sum(options[name][i][0] for name, i in chosen.items())

    low, high = -60.0, 60.0  # of log2(slope): low spends most bits
    if size(pick(2.0 ** high)) > budget:
        return None
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (low, middle) if size(pick(2.0 ** middle)) <= budget else (middle, high)
    chosen = pick(2.0 ** high)
    left = budget - size(chosen)
    while True:
        gains = [((options[n][c][1] - cost) / (bits - options[n][c][0]), n, i) for n, c in chosen.items()
                 for i, (bits, cost) in enumerate(options[n])
                 if 0 < bits - options[n][c][0] <= left and cost < options[n][c][1]]
        if not gains:
            return chosen
        _, name, i = max(gains)
        left -= options[name][i][0] - options[name][chosen[name]][0]
        chosen[name] = i
