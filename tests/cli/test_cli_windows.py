#!/usr/bin/env python3
"""The tool on Windows, or under Wine: names in every script, both separators, files that appear whole, the cache.
Usage: NWC_EMULATOR=wine test_cli_windows.py PATH_OF_NWC.EXE [unittest options]"""
import hashlib
import json
import os
import pathlib
import shutil
import unittest

from cli_case import BAD_FILE, FAILURE, MODEL, OK, ROOT, USAGE, CliCase, main

NAME = "modèle 日本 ✓"


def sha256(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


class Windows(CliCase):
    def setUp(self):
        self.work = self.tmp / f"{self.id().rpartition('.')[2]} {NAME}"
        self.work.mkdir()

    def left(self):
        return sorted(f.name for f in self.work.iterdir())

    def test_a_model_goes_to_nwc_and_back_under_any_name(self):
        model = self.work / NAME / MODEL.name  # whose name is in the file
        shutil.copytree(MODEL, model)
        file = self.work / f"{NAME}.nwc"
        self.check(OK, "compress", model, "--bits", 4, "-o", file, "-q")
        self.assertEqual(sha256(file), sha256(self.file))  # from a folder with a plain name
        self.check(OK, "verify", file)
        self.assertAlmostEqual(self.json("info", file)["bpw_coded"], 4, delta=0.01)
        gguf, folder = self.work / f"{NAME}.gguf", self.work / f"{NAME} back"
        self.check(OK, "decompress", file, "-o", gguf, "-q")
        self.check(OK, "decompress", file, "-o", str(folder) + "/", "-q")
        self.assertIn("config.json", [f.name for f in folder.iterdir()])
        again = self.work / "again.nwc"
        self.check(OK, "compress", folder, "--bits", 4, "-o", again, "-q")
        self.assertEqual(self.left(), sorted([NAME, file.name, gguf.name, folder.name, again.name]))

    def test_backslashes_separate_and_slashes_begin_paths(self):
        file = self.work / "a.nwc"
        shutil.copy(self.file, file)
        backslashes = str(file).replace("/", "\\")
        self.assertEqual(self.json("info", backslashes)["codec"], self.json("info", file)["codec"])
        self.check(OK, "decompress", backslashes, "-o", str(self.work).replace("/", "\\") + "\\out.gguf", "-q")
        self.assertEqual(self.left(), ["a.nwc", "out.gguf"])

    def test_an_output_replaces_what_was_there(self):
        file = self.work / "a.nwc"
        for bits in (3, 4):
            self.check(OK, "compress", MODEL, "--bits", bits, "-o", file, "-q")
            self.assertEqual(self.left(), ["a.nwc"])
        self.assertEqual(sha256(file), sha256(self.file))

    def test_an_empty_folder_is_filled_and_a_full_one_refused(self):
        folder = self.work / "out"
        folder.mkdir()
        self.check(OK, "decompress", self.file, "-o", f"{folder}/", "-q")
        self.assertIn("config.json", [f.name for f in folder.iterdir()])
        done = self.check(USAGE, "decompress", self.file, "-o", f"{folder}/", "-q")
        self.assertIn("not empty", done.stderr)

    def test_the_calibration_is_kept_and_used_again(self):
        cache = self.work / "cache"
        env = {"LOCALAPPDATA": str(cache)}
        options = ["--bits", 3, "--calib", ROOT / "models/calibration.txt", "--calib-tokens", 1024, "--json", "-q"]
        reports = []
        for name in ("a.nwc", "b.nwc"):
            cache.mkdir(exist_ok=True)
            done = self.check(OK, "compress", MODEL, *options, "--calib-cache", cache, "-o", self.work / name, env=env)
            reports.append(json.loads(done.stdout))
        self.assertEqual(reports[0]["calibration"]["folder"], reports[1]["calibration"]["folder"])
        self.assertEqual(sha256(self.work / "a.nwc"), sha256(self.work / "b.nwc"))

    def test_the_model_runs_and_speaks_utf8(self):
        file = self.work / f"{NAME}.nwc"
        shutil.copy(self.file, file)
        options = ["--prompt", "The café", "--tokens", 8, "--temperature", 0, "--json", "-q"]
        run = json.loads(self.check(OK, "run", file, *options).stdout)
        self.assertGreater(run["process"]["peak_bytes"], 1 << 20)
        streamed = json.loads(self.check(OK, "run", file, *options, "--mode", "streamed").stdout)
        self.assertEqual(run["text"], streamed["text"])
        evaluated = self.json("eval", file, "--text", self.text, "--reference", MODEL, "--tokens", 200)
        self.assertLess(evaluated["kld_mean"], 0.1)

    def test_errors_name_the_file_and_leave_nothing(self):
        done = self.check(FAILURE, "info", self.work / f"{NAME}.nwc")
        self.assertIn(NAME, done.stderr)
        self.assertIn("No such file", done.stderr)
        damaged = self.work / "damaged.nwc"
        bytes_ = bytearray(self.file.read_bytes())
        bytes_[len(bytes_) // 2] ^= 1
        damaged.write_bytes(bytes_)
        self.assertIn("CRC-32", self.check(BAD_FILE, "verify", damaged).stderr)
        self.check(USAGE, "compress", MODEL, "-o", self.work / "no" / "such.nwc")
        self.check(USAGE, "compress", MODEL, "-o", self.work)
        same = self.check(USAGE, "decompress", self.file, "-o", self.file)
        self.assertIn("itself", same.stderr)
        self.assertEqual(self.left(), ["damaged.nwc"])

    def test_lines_end_as_everywhere(self):
        done = self.check(OK, "info", self.file, text=False)
        self.assertNotIn(b"\r", done.stdout)
        self.assertIn(b"0.2", self.check(OK, "--version", text=False).stdout)


if __name__ == "__main__":
    if not os.environ.get("NWC_EMULATOR") and os.name != "nt":
        raise SystemExit("NWC_EMULATOR must name what runs Windows programs here")
    main()
