#!/usr/bin/env python3
"""device_check.sh: packs, runs what it packed from another place, and keeps the results of parts beside one that hangs.

Usage: test_device_check.py REPOSITORY BUILD [unittest's arguments]
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

REPOSITORY, BUILD = (pathlib.Path(a) for a in sys.argv[1:3])
sys.path.insert(0, str(REPOSITORY / "scripts"))
sys.dont_write_bytecode = True
import device_check_host  # noqa: E402

SCRIPT = REPOSITORY / "scripts/device_check.sh"


class Programs(unittest.TestCase):
    def test_one_that_hangs_is_ended_with_what_it_started(self):
        with tempfile.TemporaryDirectory() as folder:
            mark = pathlib.Path(folder) / "mark"
            start = time.monotonic()
            outcome = device_check_host.run_program(
                ["sh", "-c", f"echo begun; trap '' TERM; (sleep 20; touch {mark}) & sleep 20"], dict(os.environ), 1)
            self.assertIsNone(outcome.code)
            self.assertEqual(outcome.text, "timed out")
            self.assertEqual(outcome.out, "begun\n")
            self.assertLess(time.monotonic() - start, 15)
            self.assertFalse(mark.exists())

    def test_exit_codes_and_output_are_kept(self):
        outcome = device_check_host.run_program(["sh", "-c", "echo out; echo err >&2; exit 3"], dict(os.environ), 10)
        self.assertEqual((outcome.code, outcome.out, outcome.err), (3, "out\n", "err\n"))


class Rehearsal(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        folder = pathlib.Path(cls.temporary.name)
        packed = subprocess.run([SCRIPT, "pack", folder / "packed", "--build", BUILD, "--quick"], capture_output=True,
                                text=True)
        assert packed.returncode == 0, packed.stdout + packed.stderr
        # Elsewhere: nothing may lead back to where it was made.
        cls.folder = (folder / "packed").rename(folder / "elsewhere")

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def run_check(self, *arguments, env=None):
        out = self.folder / "out"
        result = subprocess.run([self.folder / "device_check.sh", "run", self.folder, "--out", out, *arguments],
                                capture_output=True, text=True, cwd="/", env=dict(os.environ, **(env or {})))
        return result, json.loads((out / "device_check.json").read_text()), out

    def test_the_folder_is_small_and_whole(self):
        size = sum(f.stat().st_size for f in self.folder.rglob("*") if f.is_file())
        self.assertLess(size, 48 << 20)
        self.assertTrue((self.folder / "lib-system/libvulkan.so.1").exists())
        tests = (self.folder / "tests.txt").read_text().split()
        self.assertIn("test_kernel_variants", tests)
        for name in ["nwc", "nwc-bench", *tests]:
            self.assertTrue((self.folder / "bin" / name).exists(), name)

    def test_every_part_passes(self):
        result, found, out = self.run_check("--rehearse", "--minutes", "25")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        parts = {p["name"]: p for p in found["parts"]}
        self.assertEqual(list(parts), ["device", "verify", "tests", "decode", "fused", "attention", "choices",
                                       "tokens", "tokens-large", "nvcomp", "variants"])
        self.assertGreater(parts["device"]["report"]["devices"][0]["max_storage_range"], 0)
        disabled = {d["disabled"] for d in parts["device"]["report"]["decoders"]}
        self.assertIn("ballot", disabled)
        self.assertEqual({f["different_values"] for f in parts["verify"]["files"]}, {0})
        self.assertEqual(len(parts["verify"]["files"]), 2)
        for name in ("tests", "variants"):
            self.assertEqual({t["result"] for t in parts[name]["tests"]} - {"skipped"}, {"passed"})
        self.assertTrue(any("ratio_device_copy" in r for r in parts["decode"]["records"]))
        self.assertTrue(any("ratio_f16_product" in r for r in parts["fused"]["records"]))
        self.assertTrue(any(r["name"] == "tensor to packed in device memory" for r in parts["decode"]["records"]))
        self.assertTrue(any(r["name"] == "packed product" for r in parts["fused"]["records"]))
        choices = {r["choice"] for r in parts["choices"]["records"]}
        self.assertEqual(choices, {"products", "tiles a workgroup: 1", "tiles a workgroup: 2", "streamed",
                                   "streamed without queues"})
        self.assertTrue(any(r["name"] == "packed product by dots of 128" for r in parts["choices"]["records"]))
        self.assertTrue(any("64 pieces" in r["name"] for r in parts["attention"]["records"]))
        self.assertEqual(len(parts["tokens"]["records"]), 4)  # fused, and resident as q8
        self.assertEqual(sorted(f.name for f in out.iterdir()), [f"device_check.{e}" for e in ("json", "log", "txt")])

    def test_parts_that_find_no_time_are_said(self):
        result, found, _ = self.run_check("--rehearse", "--minutes", "0.05", "--only", "decode", "--only", "nvcomp")
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        self.assertEqual([p["name"] for p in found["parts"]], ["decode", "nvcomp"])
        self.assertTrue(all(p["problems"] for p in found["parts"]))

    def test_without_a_gpu_it_says_what_it_tried(self):
        result, found, _ = self.run_check(env={"NWC_VULKAN_LIBRARY": "/nonexistent/libvulkan.so"})
        self.assertEqual(result.returncode, 4, result.stdout + result.stderr)
        self.assertIn("no GPU was found", result.stdout)
        self.assertIn("/nonexistent", found["drivers"][0]["why"])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)
