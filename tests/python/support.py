"""What the tests of the Python package share: models made of the fixtures, and compressed files."""
import contextlib
import json
import math
import pathlib
import shutil
import subprocess
import tempfile
import unittest
import warnings

import numpy

import nwc
from nwc import _compress, _tool

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/gutenlm-2.6m"
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")

try:
    import torch
    import transformers
except ImportError:
    torch = transformers = None
needs_torch = unittest.skipIf(torch is None, "torch and transformers are not installed: NWC_TORCH_PYTHON names a Python that has "
                                             "them (scripts/test_python.sh)")


def numbers(name, count, mean, scale):
    """The fixtures' weights, as tests/scripts/make_family_fixtures.py says."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    with numpy.errstate(over="ignore"):
        z = numpy.uint64(seed) + numpy.arange(count, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z = z ^ (z >> numpy.uint64(31))
    u = (z >> numpy.uint64(40)).astype(numpy.float32) / numpy.float32(2**24)
    return numpy.float32(mean) + numpy.float32(scale) * (numpy.float32(2) * u - numpy.float32(1))


def write_model(folder, fixture):
    """The folder of a fixture, "families/llama" or "encoders/bert_mean"."""
    made = json.loads((ROOT / f"tests/fixtures/{fixture}.json").read_text())
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(made["config"]))
    if "preprocessor" in made:
        (folder / "preprocessor_config.json").write_text(json.dumps(made["preprocessor"]))
    tensors = {t["name"]: numbers(t["name"], math.prod(t["shape"]), t["mean"], t["scale"]).reshape(t["shape"])
               for t in made["tensors"]}
    with open(folder / "model.safetensors", "wb") as file:
        _compress.write_safetensors(file, tensors, {"format": "pt"})
    return tensors


def compress(*args, **options):
    """nwc.compress without calibration and without the warnings of models that lack a tokenizer."""
    options.setdefault("calib", "none")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nwc.compress(*args, **options)


def decompress(file, folder):
    done = subprocess.run([_tool.path(), "decompress", file, "-o", f"{folder}/"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


class Case(unittest.TestCase):
    """A folder of its own, and in `file` a small language model with a chat template at 4 bits."""

    @classmethod
    def setUpClass(cls):
        cls.stack = contextlib.ExitStack()
        cls.addClassCleanup(cls.stack.close)
        cls.tmp = pathlib.Path(cls.stack.enter_context(tempfile.TemporaryDirectory(prefix="nwc-test-")))

    @classmethod
    def make_file(cls):
        folder = cls.tmp / "instruct"
        shutil.copytree(MODEL, folder)
        (folder / "chat_template.jinja").write_text(CHATML)
        cls.file = cls.tmp / "model.nwc"
        cls.report = compress(folder, cls.file, 4, effort=1)
