"""nwc's own rows: real files, real bytes."""
import functools
import hashlib
import json
import re


@functools.lru_cache(maxsize=None)
def _tool(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()[:16]


def row(space, name, options, rate, calibrated=True, seed=1):
    """options: arguments of nwc compress beside --bits and --calib; None: data-free, without --calib, like
    calibrated=False. Another seed than 1 has a calibration of its own, which rivals do not see."""
    arguments = ["--bits", f"{space.coded_bpw(rate):.4f}"]
    arguments += options or []
    if calibrated and options is not None:
        arguments += ["--calib", space.model.calibration_text, "--activations"]
        arguments += ["--seed", seed] if seed != 1 else []
        own = f"-{seed}" if seed != 1 else ""
        cache = ["--calib-cache", space.calibration_folder.with_name(space.calibration_folder.name + own)]
    else:
        arguments += ["--calib", "none"]
        cache = []
    version = f"{_tool(space.nwc)} {' '.join(map(str, arguments))} {space.model.tokens}"
    folder = space.folder / "nwc"
    folder.mkdir(exist_ok=True)
    path = folder / (re.sub(r"[^a-z0-9.]+", "-", f"{name} {rate}{f' seed {seed}' if seed != 1 else ''}".lower()) + ".json")
    if path.exists():
        result = json.loads(path.read_text())
        if result["version"] == version:
            return result
    file = path.with_suffix(".nwc")
    report = json.loads(space.run("compress", space.model.reference, *arguments, *cache, "-o", file, "--json"))
    coded = [t for t in report["tensors"] if t["storage"] == "coded"]
    result = {"method": name, "version": version, "setting": f"{rate:g} bpw", "target": rate, "seed": seed, "bpw": report["bpw_file"],
              "bpw_coded": report["bpw_coded"], "seconds": report["seconds"],
              "mse": sum(t["relative_error"] for t in coded) / len(coded), **space.evaluate(file)}
    path.write_text(json.dumps(result, indent=1))
    return result
