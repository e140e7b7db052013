"""Folders for transformers: logits are those of the decompressed weights. Skipped, with a message, where torch or
transformers are not installed."""
import json
import shutil
import unittest
import warnings

import nwc
from support import ROOT, Case, decompress, needs_torch, torch, transformers, write_model

if torch is not None:
    import nwc.transformers
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

FAMILIES = ("llama", "qwen3", "gemma3", "phi3", "gpt2", "gpt_neox", "qwen2_moe", "granite_moe", "gpt_oss")


def save(source, out, **options):
    options.setdefault("calib", "none")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nwc.transformers.save(source, out, 5, **options)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@needs_torch
class Transformers(Case):
    tokens = [[(7 * i * i + 3 * i + 5) % 94 + 1 for i in range(20)]]

    def output(self, model):
        with torch.no_grad():
            made = model(torch.tensor(self.tokens))
        return made.logits if "logits" in made else made.last_hidden_state

    def check(self, name, auto, fixture):
        write_model(self.tmp / name, fixture)
        out = self.tmp / f"{name}-nwc"
        save(self.tmp / name, out, min_elements=256)
        plain = decompress(out / "model.nwc", self.tmp / f"{name}-plain")
        model = auto.from_pretrained(out).eval()
        wanted = self.output(auto.from_pretrained(plain).eval())
        self.assertTrue(torch.equal(self.output(model), wanted))
        self.assertLess((out / "model.nwc").stat().st_size, (self.tmp / name / "model.safetensors").stat().st_size / 2)
        again = self.tmp / f"{name}-again"
        model.save_pretrained(again)
        self.assertEqual(files(again)["model.nwc"], files(out)["model.nwc"])
        self.assertTrue(torch.equal(self.output(auto.from_pretrained(again).eval()), wanted))
        half = auto.from_pretrained(out, dtype=torch.float16)
        self.assertEqual({value.dtype for value in half.parameters()}, {torch.float16})
        return model, out

    def test_families(self):
        for family in FAMILIES:
            with self.subTest(family):
                self.check(family, transformers.AutoModelForCausalLM, f"families/{family}")

    def test_encoder(self):
        self.check("bert", transformers.AutoModel, "encoders/bert_mean")

    def test_changed_models(self):
        model, out = self.check("changed", transformers.AutoModelForCausalLM, "families/llama")
        with torch.no_grad():
            model.model.layers[1].mlp.up_proj.weight[3, 4] += 1
        with self.assertRaises(nwc.InvalidArgument) as caught:
            model.save_pretrained(self.tmp / "no")
        self.assertIn("model.layers.1.mlp.up_proj.weight has changed", str(caught.exception))
        self.assertFalse((self.tmp / "no").exists())
        save(model, self.tmp / "new", min_elements=256)  # compresses what the model holds now
        loaded = transformers.AutoModelForCausalLM.from_pretrained(self.tmp / "new")
        value = model.model.layers[1].mlp.up_proj.weight[3, 4].detach()
        self.assertLess(abs(float(loaded.model.layers[1].mlp.up_proj.weight[3, 4].detach()) - float(value)), 0.3)
        model.dequantize()
        model.save_pretrained(self.tmp / "full")
        full = transformers.AutoModelForCausalLM.from_pretrained(self.tmp / "full")
        self.assertTrue(torch.equal(self.output(full), self.output(model)))
        self.assertNotIn("quantization_config", json.loads((self.tmp / "full/config.json").read_text()))

    def test_what_is_wrong_with_a_folder(self):
        _, out = self.check("right", transformers.AutoModelForCausalLM, "families/llama")
        load = transformers.AutoModelForCausalLM.from_pretrained

        def changed(name):
            shutil.copytree(out, self.tmp / name)
            return self.tmp / name

        folder = changed("missing")
        (folder / "model.nwc").unlink()
        with self.assertRaises(nwc.InputOutputError):
            load(folder)
        folder = changed("short")
        (folder / "model.nwc").write_bytes((out / "model.nwc").read_bytes()[:9000])
        with self.assertRaises(nwc.Truncated):
            load(folder)
        folder = changed("other")
        write_model(self.tmp / "gpt", "families/gpt2")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nwc.compress(self.tmp / "gpt", folder / "model.nwc", 5, calib="none", min_elements=256)
        with self.assertRaises(nwc.InvalidFile) as caught:
            load(folder)
        self.assertIn("other names", str(caught.exception))
        folder = changed("damaged")
        data = bytearray((out / "model.nwc").read_bytes())
        data[-len(data) // 3] ^= 1
        (folder / "model.nwc").write_bytes(data)
        with self.assertRaises(nwc.InvalidFile):
            load(folder)
        folder = changed("outside")
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"]["file"] = "../right-nwc/model.nwc"
        (folder / "config.json").write_text(json.dumps(config))
        with self.assertRaises(nwc.InvalidArgument):
            load(folder)
        folder = changed("wider")
        config = json.loads((folder / "config.json").read_text())
        config["intermediate_size"] *= 2
        (folder / "config.json").write_text(json.dumps(config))
        with self.assertRaises(nwc.StateDictMismatch) as caught:
            load(folder)
        self.assertIn("in the model", str(caught.exception))
        with self.assertRaises(nwc.InvalidArgument):
            save(self.tmp / "right", out)  # there is one already
        with self.assertRaises(nwc.Unsupported):
            save(out, self.tmp / "twice")
        with self.assertRaises(nwc.InputOutputError):
            save(ROOT / "tests", self.tmp / "none")
        self.assertEqual([path.name for path in self.tmp.iterdir() if "partial" in path.name or path.name == "none"], [])


if __name__ == "__main__":
    unittest.main()
