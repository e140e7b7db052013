#!/usr/bin/env python3
"""What cannot be taken over from a model folder is said, kept in the file, and never stops the weights.
Usage: test_cli_left_out.py PATH_OF_NWC [unittest options]"""
import json
import pathlib
import shutil
import tempfile

from cli_case import BAD_FILE, MODEL, OK, CliCase, main

EXACT = ["--min-elements", "99999999"]  # every tensor is stored as it is: fast


class LeftOut(CliCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(dir=self.tmp)
        self.addCleanup(folder.cleanup)
        self.own = pathlib.Path(folder.name)
        self.out = self.own / "x.nwc"

    def model(self, config=None, tokenizer=None):
        """A copy of the included model with other keys in its side files."""
        folder = self.own / "m"
        shutil.copytree(MODEL, folder)
        for name, change in (("config.json", config), ("tokenizer.json", tokenizer)):
            content = json.loads((folder / name).read_text())
            if change is not None:
                change(content)
                (folder / name).write_text(json.dumps(content))
        return folder

    def expect_left_out(self, folder, part, why):
        """Said by compress, run, eval and info, once; the file knows it too."""
        said = self.check(OK, "compress", folder, "-q", "-o", self.out, *EXACT).stderr
        self.assertEqual(said.count(why), 1, said)
        self.assertIn(f"{part} left out", said)
        for source in (folder, self.out):
            for command in (["run", source, "-p", "It is", "-n", "1", "--backend", "cpu"],
                            ["eval", source, "--text", self.text, "--tokens", "20"]):
                done = self.check(BAD_FILE, *command)
                self.assertIn(f"no {part}", done.stderr)
                self.assertIn(why, done.stderr)
                self.assertEqual(done.stdout, "")
        key = "left_out.model" if part == "model description" else "left_out.tokenizer"
        for source in (folder, self.out):
            info = json.loads(self.check(OK, "info", source, "--json", "--no-entropy").stdout)
            self.assertIn(why, info["provenance"][key])

    def test_calibration_says_what_it_misses(self):
        for change, why in (({"model_type": "mamba2"}, "mamba2"),
                            ({"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}, "mixtral")):
            with self.subTest(change):
                folder = self.model(config=lambda config: config.update(change))
                done = self.check(BAD_FILE, "compress", folder, "-q", "-o", self.out, "--calib", self.text,
                                  "--calib-cache", self.own / "cache")
                self.assertIn(why, done.stderr)
                self.assertFalse(self.out.exists())
                self.check(OK, "compress", folder, "-q", "-o", self.out, *EXACT)
                self.out.unlink()
                shutil.rmtree(folder)

    def test_a_tokenizer_with_an_unknown_regular_expression(self):
        split = {"type": "Split", "pattern": {"Regex": "\\d{7}"}, "behavior": "Isolated", "invert": False}
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}

        def change(tokenizer):
            tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
        self.expect_left_out(self.model(tokenizer=change), "tokenizer", "regular expression")

    def test_a_tokenizer_larger_than_the_embedding(self):
        def change(tokenizer):
            tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 1024, "content": "<more>"})
        self.expect_left_out(self.model(tokenizer=change), "tokenizer", "1025 tokens")

    def test_a_tokenizer_of_another_form(self):
        folder = self.model()
        (folder / "tokenizer.json").rename(folder / "tokenizer.model")
        self.expect_left_out(folder, "tokenizer", "tokenizer.model")

    def test_a_model_that_cannot_run(self):
        def change(config):
            config["rope_scaling"] = {"rope_type": "mrope", "factor": 4.0}
        self.expect_left_out(self.model(config=change), "model description", "mrope")

    def test_a_damaged_config(self):
        folder = self.model()
        (folder / "config.json").write_text("{")
        self.expect_left_out(folder, "model description", "config.json: invalid JSON")

    def test_what_is_repaired_is_said_and_runs(self):
        def change(config):
            config.update(eos_token_id=[-1, 0, 99999], unheard_of=float("nan"))
        folder = self.model(config=change)
        (folder / "generation_config.json").write_text("")
        said = self.check(OK, "compress", folder, "-q", "-o", self.out, *EXACT).stderr
        for part in ("[-1,99999] ignored", "generation_config.json", "unheard_of", "NaN"):
            self.assertEqual(said.count(part), 1, said)
        provenance = json.loads(self.check(OK, "info", self.out, "--json", "--no-entropy").stdout)["provenance"]
        self.assertIn("-1", provenance["repaired.end_tokens"])
        self.assertIn("unheard_of", provenance["guessed.config"])
        self.check(OK, "run", self.out, "-p", "It is", "-n", "2", "--backend", "cpu")
        self.assertEqual(self.check(OK, "compress", MODEL, "-q", "-o", self.out, *EXACT).stderr.count("left out"), 0)

    def test_a_missing_shard_is_an_error(self):
        folder = self.model()
        (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
        done = self.check(BAD_FILE, "compress", folder, "-o", self.out)
        self.assertIn("model-00002-of-00002.safetensors is missing", done.stderr)
        self.assertFalse(self.out.exists())


if __name__ == "__main__":
    main()
