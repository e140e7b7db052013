#!/usr/bin/env python3
"""What a user is told before, while and after the nwc tool works, and what it leaves behind.
Usage: test_cli_flow.py PATH_OF_NWC [unittest options]"""
import json
import os
import pathlib
import re

from cli_case import MODEL, OK, ROOT, USAGE, CliCase, main

TEXT = ROOT / "models/calibration.txt"
CALIBRATE = ["--calib", TEXT, "--calib-tokens", 1024]


class Flow(CliCase):
    def setUp(self):
        self.work = self.tmp / self.id().rpartition(".")[2]
        self.work.mkdir()
        self.cache = self.work / "xdg"
        self.env = {"XDG_CACHE_HOME": str(self.cache)}

    def run_json(self, *args):
        return json.loads(self.check(OK, *args, "--json", "-q", env=self.env).stdout)

    def compress(self, *args):
        return self.run_json("compress", MODEL, "-e", 1, *args)

    def left(self):
        return sorted(str(f.relative_to(self.work)) for f in self.work.rglob("*"))

    def test_an_estimate_writes_nothing_and_counts_every_pass(self):
        plain = self.compress("--bits", 3, "-o", self.work / "x.nwc", "--estimate")
        self.assertEqual(plain["seconds_calibrating"], 0)
        whole = self.run_json("compress", MODEL, "-e", 6, "--kld", 0.05, *CALIBRATE, "-o", self.work / "x.nwc",
                              "--estimate")
        self.assertEqual(self.left(), [])
        parts = [whole["seconds_" + part] for part in ["calibrating", "coding", "fine_tuning", "measuring"]]
        self.assertGreater(min(parts), 0)
        self.assertAlmostEqual(sum(parts), whole["seconds"], delta=1e-6 * whole["seconds"])
        self.assertGreater(whole["cache_bytes"], 10 << 20)
        self.assertTrue(any("files" in text for text in whole["assumes"]))
        text = self.check(OK, "compress", MODEL, "-e", 1, *CALIBRATE, "-o", self.work / "x.nwc", "--estimate", "-q",
                          env=self.env).stdout
        self.assertRegex(text, r"for calibration(.|\n)*assumed: ")
        self.assertEqual(self.left(), [])

    def test_the_estimate_of_the_cache_is_what_it_takes(self):
        estimate = self.compress(*CALIBRATE, "-o", self.work / "x.nwc", "--estimate")
        report = self.compress(*CALIBRATE, "-o", self.work / "x.nwc")
        self.assertAlmostEqual(report["calibration"]["bytes"] / estimate["cache_bytes"], 1, delta=0.05)
        # With the calibration there, its time is not counted again, and the quality is predicted.
        again = self.compress(*CALIBRATE, "-o", self.work / "y.nwc", "--estimate")
        self.assertEqual(again["seconds_calibrating"], 0)
        self.assertAlmostEqual(again["predicted_kld"] / report["predicted_kld"], 1, delta=0.3)

    def test_a_calibration_serves_every_file_of_a_model_and_text(self):
        first = self.compress("--bits", 3, *CALIBRATE, "-o", self.work / "a.nwc")
        root = self.cache / "nwc/calibration"
        self.assertEqual(pathlib.Path(first["calibration"]["folder"]).parent, root)
        times = {f: f.stat().st_mtime_ns for f in root.rglob("*.safetensors")}
        self.assertTrue(times)
        second = self.compress("--bits", 4, *CALIBRATE, "-o", self.work / "b.nwc")
        self.assertEqual(first["calibration"]["folder"], second["calibration"]["folder"])
        self.assertEqual({f: f.stat().st_mtime_ns for f in root.rglob("*.safetensors")}, times)
        # Other tokens are another calibration; beyond the limit the one that was not used for longest goes.
        third = self.compress("--calib", TEXT, "--calib-tokens", 600, "-o", self.work / "c.nwc")
        self.assertEqual(len(list(root.iterdir())), 2)
        self.compress("--calib", TEXT, "--calib-tokens", 600, "--calib-cache-size", "1M", "-o", self.work / "c.nwc")
        self.assertEqual([str(f) for f in root.iterdir()], [third["calibration"]["folder"]])
        self.assertEqual(sorted(f.name for f in self.work.iterdir()), ["a.nwc", "b.nwc", "c.nwc", "xdg"])

    def test_a_divergence_is_measured_on_text_that_calibration_has_not_used(self):
        out, wanted = self.work / "k.nwc", 0.05
        args = ["compress", MODEL, "-e", 1, "--kld", wanted, *CALIBRATE, "--card-tokens", 400, "-o", out, "-q"]
        text = self.check(OK, *args, env=self.env).stdout
        measured = float(re.search(r"which calibration has not used: KL divergence ([\d.]+)", text).group(1))
        self.assertLess(abs(measured / wanted - 1), 0.26)
        info = self.run_json("info", out)
        card = info["quality"]
        bits = float(re.search(r"bits=([\d.]+)", info["provenance"]["settings"]).group(1))
        self.assertAlmostEqual(bits, info["bpw_coded"], delta=0.03)
        self.assertAlmostEqual(float(card["kld_mean"]), measured, delta=1e-5)
        begin = int(card["text_begin"])
        self.assertGreater(begin, 0.7 * TEXT.stat().st_size)
        part = self.work / "part.txt"
        part.write_bytes(TEXT.read_bytes()[begin:])
        again = self.run_json("eval", out, "--reference", MODEL, "--text", part, "--tokens", 400)
        self.assertAlmostEqual(again["kld_mean"], measured, delta=1e-4)
        confirmed = self.run_json("verify", out, "--quality", "--reference", MODEL, "--text", TEXT)
        self.assertTrue(confirmed["quality"]["matches"])
        # What is calibrated on is the text before that part, and no other: the same as without --kld.
        self.assertEqual(len(list((self.cache / "nwc/calibration").iterdir())), 1)
        self.compress("--bits", 3, *CALIBRATE, "-o", self.work / "b.nwc")
        self.assertEqual(len(list((self.cache / "nwc/calibration").iterdir())), 1)

    def test_a_divergence_out_of_reach_leaves_the_output_as_it_was(self):
        out = self.work / "k.nwc"
        out.write_bytes(b"keep")
        done = self.check(USAGE, "compress", MODEL, "-e", 1, "--kld", 1e-13, "--card", self.text, "--card-tokens", 300,
                          "-o", out, "-q", env=self.env)
        self.assertRegex(done.stderr, r"least KL divergence that this codec reaches .* bits per weight")
        self.assertEqual(out.read_bytes(), b"keep")
        self.assertEqual(self.left(), ["k.nwc"])

    def test_progress_only_grows_and_names_its_stages(self):
        done = self.check(OK, "compress", MODEL, "-e", 1, *CALIBRATE, "--bits", 3, "--card", self.text, "--card-tokens",
                          300, "-o", self.work / "p.nwc", env={**self.env, "NWC_PROGRESS_SECONDS": "0"})
        lines = [re.match(r"nwc: +(\d+) % ([a-z][^,]*)", line) for line in done.stderr.splitlines()]
        shown = [(int(m.group(1)), m.group(2)) for m in lines if m]
        self.assertGreater(len(shown), 20)
        self.assertEqual([p for p, _ in shown], sorted(p for p, _ in shown))
        self.assertLessEqual(shown[-1][0], 100)
        stages = list(dict.fromkeys(stage for _, stage in shown))
        self.assertEqual(stages[:4], ["calibrating", "reading the model", "fitting tables", "coding"])
        self.assertIn("comparing with the original", stages)
        quiet = self.check(OK, "verify", self.work / "p.nwc", "-q", env={**self.env, "NWC_PROGRESS_SECONDS": "0"})
        self.assertEqual(quiet.stderr, "")

    def test_progress_for_programs(self):
        done = self.check(OK, "compress", MODEL, "-e", 1, "--bits", 3, "-o", self.work / "j.nwc", "--progress-json", "--json",
                          env={**self.env, "NWC_PROGRESS_SECONDS": "0"})
        steps = [json.loads(line) for line in done.stderr.splitlines()]
        self.assertGreater(len(steps), 5)
        fractions = [step["fraction"] for step in steps]
        self.assertEqual(fractions, sorted(fractions))
        self.assertTrue(0 <= fractions[0] and fractions[-1] <= 1)
        self.assertIn("coding", [step["stage"] for step in steps])
        self.assertEqual({frozenset(step) for step in steps}, {frozenset(("fraction", "stage", "detail"))})

    def test_the_cpu_needs_no_vulkan(self):
        for args in [["run", self.file, "-p", "A", "-n", 1], ["run", self.file, "--plan"],
                     ["eval", self.file, "--text", self.text],
                     ["verify", self.file], ["info", self.file]]:
            done = self.check(OK, *args, "--backend", "cpu", "-q", env={"LD_DEBUG": "files"})
            self.assertIn("libnwc", done.stderr)  # the loader says what it loads
            self.assertNotIn("libvulkan", done.stderr, args)

    def test_the_plan_counts_what_the_process_takes_beside_the_session(self):
        plan = self.json("run", self.file, "--plan", "--mode", "streamed", "--backend", "cpu")
        self.assertGreater(plan["process"]["beside_session_bytes"], 1 << 20)
        done = self.json("run", self.file, "-p", "A", "-n", 4, "--mode", "streamed", "--backend", "cpu", "-t", 2,
                         "--warn-above", 0)  # the measurement for the warning takes memory of its own
        process = done["process"]
        self.assertGreater(process["beside_session_bytes"], 1 << 20)
        # Allocator, stacks of threads and pages of code that are touched later.
        tolerance = 8 << 20
        expected = done["plan"]["total_bytes"] + process["beside_session_bytes"]
        self.assertLess(process["peak_bytes"], expected + tolerance)
        text = self.check(OK, "run", self.file, "--plan", "--backend", "cpu").stdout
        self.assertRegex(text, r"process.*beside")


if __name__ == "__main__":
    main()
