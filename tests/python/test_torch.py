"""Weights into torch: tensors, state dicts, modules. Skipped, with a message, where torch is not installed."""
import unittest

import numpy

import nwc
from support import MODEL, Case, compress, decompress, needs_torch, torch, transformers, write_model

UP = "model.layers.0.mlp.up_proj.weight"


@needs_torch
class Torch(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.make_file()
        cls.model = nwc.open(cls.file)

    def test_types_and_memory(self):
        tensor = self.model[UP]
        full = torch.from_numpy(tensor.to_numpy())
        self.assertEqual(tensor.to_torch().dtype, torch.bfloat16)
        for dtype in (torch.float32, torch.float16, torch.bfloat16, "f16", "bfloat16"):
            made = tensor.to_torch(dtype)
            self.assertTrue(torch.equal(made, full.to(made.dtype)), dtype)
        out = torch.full((512, 192), 7.0)
        self.assertIs(tensor.to_torch(out=out), out)
        self.assertTrue(torch.equal(out, full))
        turned = torch.empty(192, 512, dtype=torch.float16).t()  # not contiguous: by way of a copy
        self.assertTrue(torch.equal(tensor.to_torch(out=turned), full.half()))
        double = torch.empty(512, 192, dtype=torch.float64)
        self.assertTrue(torch.equal(tensor.to_torch(out=double), full.double()))
        for wrong in (torch.empty(192, 512), torch.empty(512, 192, device="meta"), numpy.empty((512, 192))):
            with self.assertRaises(nwc.InvalidArgument):
                tensor.to_torch(out=wrong)
        with self.assertRaises(nwc.InvalidArgument):
            tensor.to_torch(torch.int8)

    def module(self, folder, **options):
        return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", **options).eval()

    def test_state_dict(self):
        folder = decompress(self.file, self.tmp / "plain")
        state = self.model.state_dict()
        module = self.module(folder)
        wanted = {name: value for name, value in module.state_dict().items() if name != "lm_head.weight"}
        self.assertEqual(set(state), set(wanted))
        for name, value in state.items():
            self.assertTrue(torch.equal(value, wanted[name]), name)
        self.assertEqual({value.dtype for value in self.model.state_dict(torch.float16).values()}, {torch.float16})

    def test_load_state_dict(self):
        config = transformers.AutoConfig.from_pretrained(MODEL)
        wanted = self.module(decompress(self.file, self.tmp / "wanted"))
        for dtype in (torch.float32, torch.bfloat16):
            module = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)  # its head is the embedding
            addresses = {name: value.data_ptr() for name, value in module.named_parameters()}
            self.assertEqual(nwc.load_state_dict(self.file, module), ([], []))
            self.assertEqual({name: value.data_ptr() for name, value in module.named_parameters()}, addresses)
            for name, value in module.named_parameters():
                self.assertTrue(torch.equal(value.bfloat16(), wanted.get_parameter(name)), name)
        with torch.device("meta"):
            empty = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        nwc.load_state_dict(self.model, empty)
        self.assertTrue(torch.equal(empty.lm_head.weight, wanted.lm_head.weight))
        self.assertEqual(empty.lm_head.weight.data_ptr(), empty.model.embed_tokens.weight.data_ptr())
        self.assertIsInstance(empty.lm_head.weight, torch.nn.Parameter)

    def test_what_does_not_fit(self):
        module = torch.nn.Linear(3, 4)
        before = module.weight.clone()
        with self.assertRaises(nwc.StateDictMismatch) as caught:
            nwc.load_state_dict(self.file, module)
        self.assertIn("weight is missing in the file", str(caught.exception))
        self.assertIn("more", str(caught.exception))
        result = nwc.load_state_dict(self.file, module, strict=False)
        self.assertEqual(result.missing_keys, ["weight", "bias"])
        self.assertEqual(len(result.unexpected_keys), 56)
        compress({"weight": numpy.zeros((4, 4), numpy.float32), "bias": numpy.zeros(4, numpy.float32)}, self.tmp / "other.nwc")
        with self.assertRaises(nwc.StateDictMismatch) as caught:
            nwc.load_state_dict(self.tmp / "other.nwc", module, strict=False)
        self.assertIn("weight is [4, 4] in the file and [4, 3] in the module", str(caught.exception))
        self.assertTrue(torch.equal(module.weight, before))

    def test_modules_without_a_configuration(self):
        torch.manual_seed(1)
        module = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.BatchNorm1d(96), torch.nn.Linear(96, 64))
        module[2].num_batches_tracked += 5
        nwc.compress(module, self.tmp / "module.nwc", 8)
        other = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.BatchNorm1d(96), torch.nn.Linear(96, 64))
        nwc.load_state_dict(self.tmp / "module.nwc", other)
        self.assertEqual(int(other[2].num_batches_tracked), 5)
        self.assertTrue(torch.equal(other[0].bias, module[0].bias))
        self.assertLess(float((other[0].weight - module[0].weight).detach().abs().max()), 0.01)
        tied = torch.nn.ModuleDict({"a": torch.nn.Linear(64, 64, bias=False), "b": torch.nn.Linear(64, 64, bias=False)})
        tied["b"].weight = tied["a"].weight
        nwc.compress(tied, self.tmp / "tied.nwc", 8)
        with nwc.open(self.tmp / "tied.nwc") as model:
            self.assertEqual(list(model), ["a.weight"])
        self.assertEqual(nwc.load_state_dict(self.tmp / "tied.nwc", tied), ([], []))

    def test_forms_of_checkpoints(self):
        """Families whose checkpoints hold tensors in another form than a file does."""
        for family in ("gpt2", "gpt_neox", "granite_moe", "gpt_oss"):
            with self.subTest(family):
                write_model(self.tmp / family, f"families/{family}")
                compress(self.tmp / family, self.tmp / f"{family}.nwc", 6, min_elements=256)
                folder = decompress(self.tmp / f"{family}.nwc", self.tmp / f"{family}-plain")
                import safetensors.torch
                wanted = safetensors.torch.load_file(folder / "model.safetensors")
                for source in (self.tmp / f"{family}.nwc", (self.tmp / f"{family}.nwc").read_bytes()):
                    with nwc.open(source) as model:
                        state = model.state_dict()
                    self.assertEqual(set(state), set(wanted))
                    for name, value in state.items():
                        self.assertTrue(torch.equal(value, wanted[name]), name)


if __name__ == "__main__":
    unittest.main()
