#!/usr/bin/env python3
"""Runs the nwc tool the way a user does. Usage: test_cli.py PATH_OF_NWC [unittest options]"""
import json
import os
import re
import struct
import unittest

from cli_case import BAD_FILE, FAILURE, MODEL, NO_DEVICE, OK, ROOT, USAGE, CliCase, main, nwc


def read_safetensors(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    return header, data[8 + size:]


class Cli(CliCase):
    def test_help_goes_to_stdout_and_usage_errors_to_stderr(self):
        done = self.check(OK, "--help")
        for command in ["train", "compress", "decompress", "info", "verify", "eval", "run"]:
            self.assertIn(command, done.stdout)
            self.assertIn("--json", self.check(OK, command, "--help").stdout)
        self.assertEqual(done.stderr, "")
        for args in [[], ["no-such-command"], ["compress"], ["compress", MODEL, "-o", "x", "--bits", "many"],
                     ["info", "x", "--no-such-option"]]:
            done = self.check(USAGE, *args)
            self.assertEqual(done.stdout, "")
            self.assertNotEqual(done.stderr, "")

    def test_version(self):
        self.assertRegex(self.check(OK, "--version").stdout, r"^nwc \d+\.\d+\.\d+")

    def test_rate_is_met_by_real_bytes(self):
        self.assertAlmostEqual(self.report["bpw_coded"], 4.0, delta=0.02)
        self.assertEqual(self.report["file_bytes"], self.file.stat().st_size)
        parts = sum(t["stored_bytes"] + t["padding_bytes"] for t in self.report["tensors"])
        self.assertEqual(parts + self.report["codec_bytes"] + self.report["metadata_bytes"], self.report["file_bytes"])

    def test_same_bytes_at_any_thread_count(self):
        other = self.tmp / "threads.nwc"
        for threads in [1, 3]:
            self.check(OK, "compress", MODEL, "--bits", 4, "-o", other, "-t", threads)
            self.assertEqual(other.read_bytes(), self.file.read_bytes())

    def test_info(self):
        info = self.json("info", self.file)
        self.assertEqual(info["file_bytes"], self.file.stat().st_size)
        self.assertAlmostEqual(info["bpw_coded"], self.report["bpw_coded"], places=6)
        coded = [t for t in info["tensors"] if t["storage"] == "coded"]
        self.assertEqual(len(coded), 43)
        for t in coded:
            self.assertGreater(t["ideal_bits"], 0)
            self.assertGreater(8 * t["stored_bytes"], t["ideal_bits"])
        self.assertIn("model.norm.weight", {t["name"] for t in info["tensors"] if t["storage"] != "coded"})
        self.assertIn("bits per", self.check(OK, "info", self.file).stdout)
        self.assertIn("linear", self.check(OK, "info", ROOT / "codecs/linear.nwcc").stdout)
        self.assertEqual(len(self.json("info", MODEL)["tensors"]), 56)
        self.assertEqual({t["storage"] for t in self.json("info", MODEL)["tensors"]}, {"BF16"})

    def test_info_of_a_quantized_source_says_its_types_and_bits(self):
        path = ROOT / "tests/fixtures/gguf/types.gguf"
        info = self.json("info", path)
        bits = {"F32": 32, "F16": 16, "BF16": 16, "Q4_0": 4.5, "Q4_1": 5, "Q5_0": 5.5, "Q5_1": 6, "Q8_0": 8.5,
                "Q4_K": 4.5, "Q5_K": 5.5, "Q6_K": 6.5625}
        known = [t for t in info["tensors"] if t["storage"] in bits]
        self.assertGreater(len(known), 5)
        for t in known:
            self.assertAlmostEqual(t["bpw"], bits[t["storage"]], places=6)
            self.assertEqual(t["stored_bytes"], t["weights"] * bits[t["storage"]] / 8)
        self.assertLess(info["file_bytes"], path.stat().st_size)
        self.assertAlmostEqual(info["bpw_file"], 8 * info["file_bytes"] / info["total_weights"], places=6)
        self.assertRegex(self.check(OK, "info", path).stdout, r"Q4_1 +\d+ +5\.0000")

    def test_verify(self):
        report = self.json("verify", self.file)
        self.assertTrue(report["ok"])
        damaged = self.tmp / "damaged.nwc"
        data = bytearray(self.file.read_bytes())
        data[len(data) // 2] ^= 1
        damaged.write_bytes(data)
        done = self.check(BAD_FILE, "verify", damaged)
        self.assertRegex(done.stdout + done.stderr, r"model\.")

    def test_decompress(self):
        out = self.tmp / "out.safetensors"
        for dtype, name in [("original", "BF16"), ("f32", "F32"), ("f16", "F16")]:
            self.check(OK, "decompress", self.file, "-o", out, "--dtype", dtype)
            header, data = read_safetensors(out)
            original, _ = read_safetensors(MODEL / "model.safetensors")
            self.assertEqual({k: v["shape"] for k, v in header.items()}, {k: v["shape"] for k, v in original.items()})
            self.assertEqual({v["dtype"] for v in header.values()}, {name})
            self.assertEqual(max(v["data_offsets"][1] for v in header.values()), len(data))

    def test_decompress_to_gguf(self):
        out = self.tmp / "out.gguf"
        report = self.json("decompress", self.file, "-o", out)
        self.assertEqual((report["format"], report["tensors"]), ("gguf", 56))
        result = self.json("eval", out, "--reference", self.file, "--text", self.text)
        self.assertLess(result["kld_mean"], 1e-5)
        plain = self.tmp / "plain.safetensors"
        self.check(OK, "decompress", self.file, "-o", plain)
        self.check(BAD_FILE, "decompress", plain, "-o", self.tmp / "never.gguf")
        self.assertFalse((self.tmp / "never.gguf").exists())

    def test_decompress_to_quantized_gguf(self):
        out = self.tmp / "quantized.gguf"
        before = None
        for kind, most in [("q8_0", 1e-3), ("q6_k", 1e-3), ("q5_k_m", 0.02), ("q4_k_m", 0.05)]:
            report = self.json("decompress", self.file, "-o", out, "--type", kind)
            self.assertEqual(any("rows are not multiples of 256" in note for note in report["notes"]), kind != "q8_0")
            if before:
                self.assertLess(out.stat().st_size, before)
            before = out.stat().st_size
            self.assertLess(self.json("eval", out, "--reference", self.file, "--text", self.text)["kld_mean"], most)
        for name in ["never.safetensors", "never/"]:
            done = self.check(USAGE, "decompress", self.file, "-o", self.tmp / name, "--type", "q8_0")
            self.assertIn("a type of GGUF files", done.stderr)
            self.assertFalse((self.tmp / name).exists())

    def test_decompress_to_shards(self):
        folder = self.tmp / "shards"
        report = self.json("decompress", self.file, "-o", f"{folder}/", "--max-shard-size", "2M")
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        parts = sorted(folder.glob("model-*.safetensors"))
        self.assertEqual([p.name for p in parts], [f"model-{i + 1:05}-of-{len(parts):05}.safetensors" for i in range(len(parts))])
        self.assertGreater(len(parts), 1)
        self.assertEqual(set(index["weight_map"].values()), {p.name for p in parts})
        total = 0
        for part in parts:
            header, data = read_safetensors(part)
            self.assertLessEqual(len(data), 2 << 20)
            self.assertEqual({index["weight_map"][name] for name in header}, {part.name})
            total += len(data)
        self.assertEqual(index["metadata"]["total_size"], total)
        self.assertEqual(report["bytes"], sum(f.stat().st_size for f in folder.iterdir()))
        self.assertLess(self.json("eval", folder, "--reference", self.file, "--text", self.text)["kld_mean"], 1e-4)
        plain = self.tmp / "cut.safetensors"
        report = self.json("decompress", self.file, "-o", plain, "--max-shard-size", "1M")
        self.assertGreater(report["bytes"], total)
        self.assertFalse(plain.exists())
        self.assertTrue((self.tmp / "cut.safetensors.index.json").exists())
        for name, size in [("x.gguf", "1M"), ("x.safetensors", "0"), ("x.safetensors", "much")]:
            self.check(USAGE, "decompress", self.file, "-o", self.tmp / name, "--max-shard-size", size)

    def test_eval(self):
        result = self.json("eval", self.file, "--reference", MODEL, "--text", self.text)
        for key in ["ppl", "ppl_reference", "kld_mean", "same_top", "tokens", "context"]:
            self.assertIn(key, result)
        self.assertEqual(result["context"], 256)
        self.assertGreater(result["ppl_reference"], 5)
        self.assertLess(result["ppl_reference"], 40)
        self.assertGreater(result["kld_mean"], 0)
        self.assertLess(result["kld_mean"], 0.1)
        self.assertGreater(result["same_top"], 0.8)
        own = self.json("eval", MODEL, "--reference", MODEL, "--text", self.text)
        self.assertEqual(own["kld_mean"], 0)
        self.assertEqual(own["ppl"], own["ppl_reference"])

    def test_run(self):
        args = ["-p", "It was a dark", "-n", 16, "--greedy"]
        streamed = self.json("run", self.file, *args, "--mode", "streamed")
        resident = self.json("run", self.file, *args, "--mode", "resident")
        self.assertEqual(streamed["plan"]["mode"], "streamed")
        self.assertEqual(streamed["tokens"], resident["tokens"])
        self.assertLess(streamed["plan"]["total_bytes"], resident["plan"]["total_bytes"])
        plain = self.check(OK, "run", self.file, *args).stdout
        self.assertEqual(plain, "It was a dark" + resident["text"] + "\n")
        self.assertEqual(self.json("run", self.file, "-p", "A", "-n", 8, "--seed", 5)["tokens"],
                         self.json("run", self.file, "-p", "A", "-n", 8, "--seed", 5)["tokens"])
        self.assertTrue(self.json("run", MODEL, *args)["text"])

    def test_memory_budget_is_hard(self):
        done = self.check(FAILURE, "run", self.file, "-p", "A", "-n", 1, "--memory", "100K")
        self.assertIn("budget", done.stderr)
        self.check(USAGE, "run", self.file, "-p", "A", "--memory", "lots")
        plan = self.json("run", self.file, "--plan", "--mode", "streamed")
        budget = plan["total_bytes"]
        self.assertEqual(self.json("run", self.file, "-p", "A", "-n", 1, "--memory", budget)["stop"], "max_tokens")

    def test_costs_are_predicted_and_a_slow_session_is_warned_about(self):
        for mode in ["resident", "streamed", "fused"]:
            expected = self.json("run", self.file, "--plan", "--mode", mode, "--backend", "cpu")["expected"]
            self.assertEqual(expected["mac_per_weight"], 16)
            self.assertGreater(expected["decode_weights_per_second"], 0)
            self.assertEqual(expected["weights_per_token"] == 0, mode == "resident")
            self.assertGreater(expected["seconds_per_token"], 0)
        text = self.check(OK, "run", self.file, "--plan", "--mode", "streamed").stdout
        self.assertRegex(text, r"expected: .* per token")
        expected = self.json("info", self.file)["expected"]
        self.assertEqual(set(expected["seconds_per_token"]), {"resident", "streamed", "fused"})
        self.assertGreater(expected["decode_seconds"], 0)
        self.assertRegex(self.check(OK, "info", self.file).stdout, r"expected on cpu .*multiply-accumulates per weight")
        self.assertNotIn("expected", self.json("info", MODEL))
        args = ["run", self.file, "-p", "A", "-n", 1, "--mode", "streamed", "--backend", "cpu", "--quiet"]
        self.assertNotIn("warning", self.check(OK, *args).stderr)
        done = self.check(OK, *args, "--warn-above", 1e-9)
        self.assertRegex(done.stderr,
                         r"warning: mode streamed is expected to take .* per token: [\d,]+ weights .* "
                         r"--mode resident \(")
        self.assertRegex(self.check(OK, *args, "--warn-above", 1e-9, "--memory", "3900K").stderr, "give it memory")
        self.assertNotIn("warning", self.check(OK, *args, "--warn-above", 0).stderr)

    def test_bad_files(self):
        bad = self.tmp / "bad"
        for content in [b"", b"GGUF", b"\x89NWC\r\n\x1a\n" + bytes(100), self.file.read_bytes()[:5000],
                        self.file.read_bytes() + b"x"]:
            bad.write_bytes(content)
            for command in ["info", "verify"]:
                done = self.check(BAD_FILE, command, bad)
                self.assertIn("nwc " + command, done.stderr)
        self.check(FAILURE, "info", self.tmp / "missing.nwc")
        out = self.tmp / "never.nwc"
        bad.with_suffix(".safetensors").write_bytes(b"\xff" * 64)
        self.check(BAD_FILE, "compress", bad.with_suffix(".safetensors"), "-o", out)
        self.assertFalse(out.exists())
        self.assertEqual([p.name for p in self.tmp.iterdir() if "tmp" in p.name], [])

    def test_a_tensor_with_nan_keeps_its_bytes_and_is_named(self):
        path, out = self.tmp / "nan.safetensors", self.tmp / "nan.nwc"
        values = struct.pack("<f", float("nan")) * 32 * 256
        header = json.dumps({"the.weight": {"dtype": "F32", "shape": [32, 256],
                                            "data_offsets": [0, len(values)]}}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + values)
        done = self.check(OK, "compress", path, "-q", "-o", out)
        self.assertRegex(done.stderr, r"warning: .*the\.weight.*NaN")
        back = self.tmp / "nan.back.safetensors"
        self.check(OK, "decompress", out, "-o", back)
        self.assertTrue(back.read_bytes().endswith(values))

    def test_a_rate_that_is_not_needed_gives_a_smaller_file(self):
        out = self.tmp / "small.nwc"
        for target in [["--bits", 15], ["--size", "100M"]]:
            done = self.check(OK, "compress", MODEL, *target, "-e", 1, "-q", "-o", out)
            self.assertRegex(done.stderr, r"warning: .*smaller than asked for.* bits per weight")
            self.assertLess(self.json("info", out)["bpw_coded"], 14)
            out.unlink()

    def test_a_size_below_the_smallest_says_the_smallest(self):
        out = self.tmp / "never.nwc"
        done = self.check(USAGE, "compress", MODEL, "--size", "10K", "-e", 1, "-o", out)
        estimate = self.check(USAGE, "compress", MODEL, "--size", "10K", "-e", 1, "-o", out, "--estimate")
        self.assertRegex(estimate.stderr, r"smallest file .* about \d+ bytes")
        smallest = int(re.search(r"(\d+) bytes \(.*10240 bytes asked for", done.stderr).group(1))
        self.assertFalse(out.exists())
        self.check(OK, "compress", MODEL, "--size", smallest, "-e", 1, "-o", out)
        self.assertLessEqual(out.stat().st_size, smallest)
        out.unlink()

    def test_targets(self):
        path = self.tmp / "size.nwc"
        limit = 700 * 1024
        report = self.json("compress", MODEL, "--size", "700K", "-o", path)
        self.assertEqual(report["file_bytes"], path.stat().st_size)
        self.assertLessEqual(path.stat().st_size, limit)
        self.assertGreater(path.stat().st_size, 0.98 * limit)
        estimate = self.json("compress", MODEL, "--size", "700K", "-o", self.tmp / "never.nwc", "--estimate")
        self.assertLess(abs(estimate["file_bytes"] / limit - 1), 0.03)
        self.assertFalse((self.tmp / "never.nwc").exists())
        self.check(USAGE, "compress", MODEL, "--size", "much", "-o", self.tmp / "never.nwc")
        self.check(USAGE, "compress", MODEL, "--kld", 0.05, "-o", self.tmp / "never.nwc")
        wanted = 0.05
        self.check(OK, "compress", MODEL, "--kld", wanted, "--card", self.text, "--card-tokens", 400, "-o", path)
        self.assertLess(abs(float(self.json("info", path)["quality"]["kld_mean"]) / wanted - 1), 0.25)

    def test_calibration(self):
        cache, out = self.tmp / "cache", self.tmp / "calibrated.nwc"
        args = ["compress", MODEL, "--bits", 3, "--calib", self.text, "--calib-cache", cache, "-o", out]
        first = self.json(*args)
        self.assertGreater(first["predicted_kld"], 0)
        content = out.read_bytes()
        self.json(*args, "-t", 1)  # from the cache
        self.assertEqual(out.read_bytes(), content)
        kld = lambda: self.json("eval", out, "--reference", MODEL, "--text", self.text)["kld_mean"]
        calibrated = kld()
        self.json(*args, "--recovery", "on", "--recovery-tokens", 600, "--recovery-epochs", 2)
        self.check(OK, "verify", out)
        recovered = kld()
        self.assertEqual(list(cache.glob("*/recovery")), [])  # of use to an interrupted run only
        self.check(OK, "compress", MODEL, "--bits", 3, "-o", out)
        self.assertLess(calibrated, 0.6 * kld())
        self.assertLess(recovered, calibrated)
        self.check(USAGE, "compress", MODEL, "--recovery", "on", "-o", out)

    def test_distillation(self):
        """Gains are tuned in the finished file: it gets closer to the original and not larger."""
        cache, out = self.tmp / "cache", self.tmp / "distilled.nwc"
        args = ["compress", MODEL, "--bits", 3, "--calib", ROOT / "models/calibration.txt", "--calib-tokens", 2048, "-e", 1,
                "--calib-cache", cache, "-o", out]
        self.assertEqual(self.json(*args)["kld_before_distillation"], 0)
        plain = out.read_bytes()
        report = self.json(*args, "--distillation", "on")
        self.assertLess(report["kld_after_distillation"], report["kld_before_distillation"])
        self.assertIn(" distill_tokens=2048 distill_epochs=2", self.json("info", out)["provenance"]["settings"])
        content = out.read_bytes()
        self.assertLess(len(content), len(plain) + 2000)  # vectors are not deflated
        self.assertEqual(self.json(*args, "--distillation", "on", "-t", 1)["file_bytes"], len(content))
        self.assertEqual(out.read_bytes(), content)
        self.check(OK, "verify", out)
        done = self.check(USAGE, "compress", MODEL, "--distillation", "on", "-o", out)
        self.assertIn("--distillation on needs calibration", done.stderr)

    def test_drift(self):
        """Products make up for the errors of what is coded before them: as large, and closer to the original."""
        cache, out = self.tmp / "cache", self.tmp / "corrected.nwc"
        args = ["compress", MODEL, "--bits", 3, "--calib", ROOT / "models/calibration.txt", "--calib-tokens", 4096, "-e", 1,
                "--calib-cache", cache, "-o", out]
        kld = lambda: self.json("eval", out, "--reference", MODEL, "--text", self.text)["kld_mean"]
        self.json(*args)
        plain = kld()
        self.json(*args, "--drift", "on")
        self.assertLess(kld(), plain)
        self.assertIn(" drift_tokens=4096", self.json("info", out)["provenance"]["settings"])
        content = out.read_bytes()
        self.json(*args, "--drift", "on", "-t", 1)
        self.assertEqual(out.read_bytes(), content)
        self.assertEqual(list(cache.glob("*/recovery")), [])  # of use to an interrupted run only
        self.check(OK, "verify", out)
        done = self.check(USAGE, *args, "--drift", "on", "--recovery", "on")
        self.assertIn("choose one", done.stderr)
        done = self.check(USAGE, "compress", MODEL, "--drift", "on", "-o", out)
        self.assertIn("--drift on needs calibration", done.stderr)

    def test_no_device(self):
        env = {"NWC_VULKAN_LIBRARY": "/nonexistent/libvulkan.so"}
        self.check(NO_DEVICE, "verify", self.file, "--backend", "vulkan", env=env)
        self.check(OK, "verify", self.file, "--backend", "auto", env=env)

    @unittest.skipUnless(os.environ.get("NWC_REQUIRE_VULKAN") == "1", "may have no Vulkan device")
    def test_shader_cache(self):
        for env, args, folder in [({"XDG_CACHE_HOME": str(self.tmp / "xdg")}, [], self.tmp / "xdg/nwc"),
                                  ({}, ["--shader-cache", self.tmp / "own"], self.tmp / "own")]:
            self.check(OK, "info", self.file, "--backend", "vulkan", *args, env=env)
            self.assertEqual([p.suffix for p in folder.iterdir()], [".bin"])
        env = {"XDG_CACHE_HOME": str(self.tmp / "none")}
        self.check(OK, "info", self.file, "--backend", "vulkan", "--shader-cache", "none", env=env)
        self.assertFalse((self.tmp / "none/nwc").exists())

    def test_quality_card(self):
        path = self.tmp / "card.nwc"
        self.check(OK, "compress", MODEL, "--bits", 5, "-o", path, "--card", self.text, "--card-tokens", 500)
        self.check(OK, "verify", path)
        card = self.json("info", path)["quality"]
        self.assertEqual(card["text"], "text.txt")
        self.assertGreater(float(card["kld_mean"]), 0)
        again = self.json("verify", path, "--quality", "--reference", MODEL, "--text", self.text)
        self.assertTrue(again["quality"]["matches"])

    def test_train_resume_and_use(self):
        first, second = self.tmp / "a.nwcc", self.tmp / "b.nwcc"
        base = ["--preset", "linear", "--levels", 8, "--batch", 256, "--max-chunks", 20000, "--eval-every", 0]
        self.check(OK, "train", MODEL, "-o", first, "--steps", 60, *base, "--log", self.tmp / "log.jsonl")
        lines = [json.loads(line) for line in (self.tmp / "log.jsonl").read_text().splitlines()]
        self.assertTrue(lines)
        content = (self.tmp / "log.jsonl").read_bytes()
        done = self.check(OK, "train", "--resume", self.tmp / "a.nwck", "-o", first, "--log", self.tmp / "log.jsonl",
                          "--json")
        self.assertIn("has ended after 60 steps", done.stderr)
        self.assertEqual(len(json.loads(done.stdout)["levels"]), 8)
        self.assertEqual((self.tmp / "log.jsonl").read_bytes(), content)
        self.check(OK, "train", MODEL, "-o", second, "--steps", 60, *base, "-t", 1)
        self.assertEqual(first.read_bytes(), second.read_bytes())
        self.check(OK, "compress", MODEL, "--codec", first, "--bits", 4, "-o", self.tmp / "own.nwc")
        self.check(OK, "verify", self.tmp / "own.nwc")


if __name__ == "__main__":
    main()
