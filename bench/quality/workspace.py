"""One model's files: reference weights, the template of candidates, what counts beside the coded tensors,
evaluation."""
import functools
import json
import os
import pathlib
import subprocess

import numpy as np

import hessians
import tensors


CODECS = pathlib.Path(__file__).resolve().parents[2] / "codecs"


class ToolError(RuntimeError):
    def __init__(self, done):
        super().__init__(f"{' '.join(map(str, done.args))}: exit code {done.returncode}\n{done.stderr}")
        self.code = done.returncode


class Workspace:
    def __init__(self, model, nwc, folder):
        self.model, self.nwc = model, nwc
        self.folder = pathlib.Path(folder) / model.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self._safetensors = self._once("reference.safetensors", lambda path: self.run(
            "decompress", model.reference, "-o", path, "--dtype", "f32"))
        self.template = self._once("reference.f32.gguf", lambda path: self.run(
            "decompress", model.reference, "-o", path, "--format", "gguf", "--dtype", "f32"))
        self._once("accounting.json", self._write_accounting)
        accounting = json.loads((self.folder / "accounting.json").read_text())
        self.coded = accounting["coded"]              # names of the coded tensors
        self.rest_bits = accounting["rest_bits"]      # raw tensors, directory, model, tokenizer
        self.weights = accounting["weights"]          # of the whole file
        self.coded_weights = accounting["coded_weights"]
        self.reference = tensors.Safetensors(self._safetensors)
        self.calibration_folder = self.folder / "calibration"

    @functools.cached_property
    def calibration(self):
        """What nwc's own calibration measured, made at first use; every calibrated rival works from the same."""
        if not list(self.calibration_folder.glob("*/calibration.json")):
            file = self.folder / "calibration.nwc"
            # The default effort has the tokens of nwc's own rows; the scalar quantizer takes no time.
            self.run("compress", self.model.reference, "--calib", self.model.calibration_text, "--calib-cache",
                     self.calibration_folder, "--activations", "--quantizer", "scalar", "--distillation", "off",
                     "--drift", "off", "-o", file)
            file.unlink()
        return hessians.Calibration(self.calibration_folder)

    def run(self, *args):
        done = subprocess.run([self.nwc, *map(str, args)], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              env={"NWC_CODECS": str(CODECS), **os.environ})
        if done.returncode != 0:
            raise ToolError(done)
        return done.stdout

    def _once(self, name, make):
        path = self.folder / name
        if not path.exists():
            temporary = path.with_name(f"partial-{os.getpid()}-{name}")
            make(temporary)
            os.replace(temporary, path)
        return path

    def _write_accounting(self, path):
        """Everything but the coded tensors and the codec, as nwc stores it."""
        file = self.folder / "accounting.nwc"
        report = json.loads(self.run("compress", self.model.reference, "--bits", 4, "--calib", "none", "-o", file, "--json"))
        file.unlink()
        coded = [t for t in report["tensors"] if t["storage"] == "coded"]
        stored = sum(t["stored_bytes"] + t["padding_bytes"] for t in coded)
        path.write_text(json.dumps({
            "coded": [t["name"] for t in coded], "weights": report["total_weights"],
            "coded_weights": report["coded_weights"],
            "rest_bits": 8 * (report["file_bytes"] - report["codec_bytes"] - stored)}))

    def bpw_file(self, coded_bits):
        return (coded_bits + self.rest_bits) / self.weights

    def coded_bpw(self, bpw_file):
        """Bits per coded weight that make a file of this rate."""
        return (bpw_file * self.weights - self.rest_bits) / self.coded_weights

    def evaluate(self, path):
        """Of the model's text; "texts" has the same of each of its further texts."""
        result = self._evaluate_on(path, self.model.text)
        if self.model.more_texts:
            result["texts"] = {name: self._evaluate_on(path, text) for name, text in self.model.more_texts}
        return result

    def _evaluate_on(self, path, text):
        report = json.loads(self.run("eval", path, "--reference", self.model.reference, "--text", text,
                                     "--tokens", self.model.tokens, "--json"))
        keys = ("kld_mean", "kld_se", "kld_low", "kld_high", "kld_p99", "ppl", "ppl_reference", "same_top", "tokens")
        return {key: report[key] for key in keys}

    def evaluate_tensors(self, decoded):
        """decoded: name -> matrix, for some or all of the coded tensors."""
        path = self.folder / f"candidate-{os.getpid()}.gguf"
        try:
            tensors.GgufTemplate(self.template).write(path, {k: np.asarray(v, "f4") for k, v in decoded.items()})
            return self.evaluate(path)
        finally:
            path.unlink(missing_ok=True)
