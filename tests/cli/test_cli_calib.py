"""What `nwc compress` calibrates with: by itself, by name, by several texts, and what it says where it cannot."""
import json
import os
import pathlib
import re
import shutil
import struct
import tempfile
import unittest

from cli_case import BAD_FILE, MODEL, OK, ROOT, USAGE, CliCase, main

FAST = ["-e", 1, "--calib-tokens", 1024]


def cut_model(folder, layers):
    """MODEL's first layers: as good as nothing as a model, and quickly calibrated."""
    folder.mkdir()
    for file in MODEL.glob("*.json"):
        shutil.copy(file, folder)
    config = json.loads((MODEL / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
    data = (MODEL / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header, values, kept = json.loads(data[8 : 8 + size]), b"", {}
    for name, tensor in header.items():
        layer = re.search(r"layers\.(\d+)\.", name)
        if name == "__metadata__" or (layer and int(layer[1]) >= layers):
            continue
        begin, end = tensor["data_offsets"]
        kept[name] = {**tensor, "data_offsets": [len(values), len(values) + end - begin]}
        values += data[8 + size + begin : 8 + size + end]
    text = json.dumps(kept).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + values)
    return folder


class Calib(CliCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.tmp = pathlib.Path(cls.folder.name)
        cls.text = cls.tmp / "text.txt"
        cls.text.write_text((ROOT / "models/sample.txt").read_text()[:4000])
        cls.model = cut_model(cls.tmp / "model", 1)

    def setUp(self):
        self.work = self.tmp / self.id().rsplit(".", 1)[-1]
        self.work.mkdir()
        self.cache = ["--calib-cache", self.work / "cache"]
        self.out = self.work / "x.nwc"

    def compress(self, *args):
        target = [] if "--kld" in args else ["--bits", 3]
        return self.json("compress", self.model, *target, *FAST, *self.cache, *args, "-o", self.out)

    def test_a_model_calibrates_itself_unless_told_otherwise(self):
        done = self.check(OK, "compress", self.model, "--bits", 3, *FAST, *self.cache, "--json", "-o", self.out, as_is=True)
        self.assertEqual(json.loads(done.stdout)["calibration"]["text"], "self")
        self.assertIn(" calib=self calib_tokens=1024 ", self.json("info", self.out)["provenance"]["settings"])
        content = self.out.read_bytes()
        self.assertGreater(json.loads(done.stdout)["predicted_kld"], 0)
        self.check(OK, "compress", self.model, "--bits", 3, "-e", 1, "--calib", "none", "-o", self.out)
        self.assertNotEqual(self.out.read_bytes(), content)
        report = self.compress("--calib", "self", "-t", 1)  # the text and the calibration are there
        self.assertEqual(self.out.read_bytes(), content)
        self.assertEqual((report["calibration"]["text"], report["calibration"]["tokens"]), ("self", 1024))
        folder = pathlib.Path(report["calibration"]["folder"])
        kept = next(folder.glob("text-*.tokens"))
        # A text that is damaged is written again, and so is all that follows from it: the same at one thread.
        kept.write_bytes(kept.read_bytes()[:-1])
        (folder / "calibration.json").unlink()
        for moments in folder.glob("*.safetensors"):
            moments.unlink()
        self.compress("--calib", "self", "-t", 1)
        self.assertEqual(self.out.read_bytes(), content)

    def test_another_seed_is_another_text(self):
        reports, files = [], []
        for seed in (1, 2, 2):
            reports.append(self.compress("--calib", "self", "--seed", seed))
            files.append(self.out.read_bytes())
        self.assertNotEqual(reports[0]["calibration"]["hash"], reports[1]["calibration"]["hash"])
        self.assertNotEqual(files[0], files[1])
        self.assertEqual(files[1], files[2])
        self.assertIn(" calib_seed=2", self.json("info", self.out)["provenance"]["settings"])

    def test_a_divergence_is_measured_on_more_text_of_the_same_hand(self):
        report = self.compress("--calib", "self", "--kld", 0.05, "--card-tokens", 512)
        self.assertEqual(report["quality"]["text"], "the model's own text")
        self.assertLess(abs(report["quality"]["kld_mean"] / 0.05 - 1), 0.25)
        texts = sorted(p.read_bytes() for p in pathlib.Path(report["calibration"]["folder"]).glob("text-*.tokens"))
        self.assertEqual(len(texts), 2)
        self.assertNotEqual(texts[0][16:2000], texts[1][16:2000])

    def test_texts_share_the_tokens(self):
        one, two = self.work / "1.txt", self.work / "2.txt"
        one.write_text(self.text.read_text())
        two.write_text((ROOT / "models/sample.txt").read_text()[4000:8000])
        both = self.compress("--calib", one, "--calib", two)
        self.assertEqual(both["calibration"]["text"], [str(one), str(two)])
        self.assertEqual(both["calibration"]["tokens"], 1024)
        self.assertEqual(self.compress("--calib", self.work)["calibration"]["hash"], both["calibration"]["hash"])
        self.assertNotEqual(self.compress("--calib", one)["calibration"]["hash"], both["calibration"]["hash"])

    def test_words_that_do_not_go_together_are_refused(self):
        empty = self.work / "empty"
        empty.mkdir()
        for args, said in [(["--calib", "self", "--calib", self.text], "stands alone"),
                           (["--calib", "none", "--calib", "none"], "stands alone"),
                           (["--calib", empty], "has no .txt files"),
                           (["--calib", "none", "--recovery", "on"], "needs calibration"),
                           (["--calib", "none", "--calib-tokens", 64], "without effect")]:
            done = self.check(USAGE, "compress", self.model, *args, "-o", self.out)
            self.assertRegex(done.stderr, said)
        self.check(1, "compress", self.model, "--calib", self.work / "missing.txt", "-o", self.out)
        self.assertFalse(self.out.exists())

    def test_what_cannot_write_is_not_calibrated_and_says_so(self):
        bare = self.work / "bare.safetensors"
        shutil.copy(self.model / "model.safetensors", bare)
        done = self.check(OK, "compress", bare, "-e", 1, "-o", self.out, as_is=True)
        self.assertNotRegex(done.stderr, "not calibrated")  # there is no model to speak of
        self.check(BAD_FILE, "compress", bare, "-e", 1, "--calib", "self", "-o", self.out)

    @unittest.skipUnless(os.path.isdir("/proc"), "needs a file system that never has room, which Linux's /proc is")
    def test_a_disk_that_is_too_small_is_not_filled(self):
        cache = ["--calib-cache", "/proc/nwc"]
        done = self.check(OK, "compress", self.model, "-e", 1, *cache, "-o", self.out, as_is=True)
        self.assertRegex(done.stderr, "not calibrated: calibration would take .* 0 B are free; --calib-cache")
        done = self.check(BAD_FILE, "compress", self.model, "-e", 1, *cache, "--calib", self.text, "-o", self.out)
        self.assertRegex(done.stderr, "--calib none does without")

    def test_an_estimate_counts_the_text(self):
        estimate = self.json("compress", self.model, *FAST, *self.cache, "--calib", "self", "--estimate", "-o", self.out)
        self.assertGreater(estimate["seconds_writing"], 0)
        self.assertGreater(estimate["seconds_calibrating"], 0)
        self.compress("--calib", "self")
        again = self.json("compress", self.model, *FAST, *self.cache, "--calib", "self", "--estimate", "-o", self.out)
        self.assertEqual((again["seconds_writing"], again["seconds_calibrating"]), (0, 0))


if __name__ == "__main__":
    main()
