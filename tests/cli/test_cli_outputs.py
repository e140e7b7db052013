#!/usr/bin/env python3
"""Where the nwc tool's results go: files, special files, streams that fail, ends by signal.
Usage: test_cli_outputs.py PATH_OF_NWC [unittest options]"""
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time

from cli_case import BAD_FILE, FAILURE, MODEL, NWC, OK, ROOT, USAGE, CliCase, main

TRAIN = ["--preset", "linear", "--levels", 4, "--batch", 64, "--max-chunks", 4000, "--steps", 4]


class Outputs(CliCase):
    def setUp(self):
        self.work = self.tmp / self.id().rpartition(".")[2]
        self.work.mkdir()

    def writers(self):
        """Every command that writes a file, without the file's name, and that name's option."""
        return [(["compress", MODEL, "--bits", 4, "-e", 1, "-q"], "-o"),
                (["decompress", self.file, "-q", "--format", "safetensors"], "-o"),
                (["decompress", self.file, "-q", "--format", "gguf"], "-o"),
                (["train", MODEL, *TRAIN, "-q"], "-o"),
                (["train", MODEL, *TRAIN, "-q", "-o", self.work / "codec.nwcc"], "--checkpoint")]

    def left(self):
        return sorted(f.name for f in self.work.iterdir())

    def test_what_is_no_plain_file_is_refused_before_the_work_and_stays(self):
        fifo, there = self.work / "fifo", self.work / "socket"
        os.mkfifo(fifo)
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(str(there))
        (self.work / "link").symlink_to("fifo")
        (self.work / "folder").mkdir()
        (self.work / "lost").symlink_to("nowhere/file")
        before = self.left()
        for command, option in self.writers():
            for name, word in [("fifo", "FIFO"), ("link", "FIFO"), ("socket", "socket"), ("folder", "folder"),
                               ("no/file", "no/"), ("lost", "nowhere"), ("/dev/null", "device")]:
                start = time.monotonic()
                done = self.check(USAGE, *command, option, self.work / name)
                self.assertIn(name, done.stderr)
                self.assertIn(word, done.stderr)
                self.assertEqual(self.left(), before)
                self.assertLess(time.monotonic() - start, 5)
        self.assertTrue(stat.S_ISFIFO(fifo.lstat().st_mode))
        self.assertTrue(stat.S_ISSOCK(there.lstat().st_mode))
        self.assertTrue(stat.S_ISCHR(os.stat("/dev/null").st_mode))

    def test_what_is_mounted_over_is_refused_before_the_work(self):
        target = self.work / "target"
        for name in ["target", "other"]:
            (self.work / name).write_bytes(b"old")
        enter = ["unshare", "-rm", "sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"', self.work / "other",
                 target]
        if subprocess.run([*enter, "true"], capture_output=True).returncode != 0:
            self.skipTest("no mounts here")
        done = subprocess.run([*enter, NWC, "compress", MODEL, "--calib", "none", "-v", "-o", target], capture_output=True, text=True)
        self.assertEqual(done.returncode, USAGE, done.stderr)
        self.assertIn("mounted", done.stderr)
        self.assertEqual(target.read_bytes(), b"old")

    def test_links_are_followed_and_permissions_kept(self):
        for i, (command, option) in enumerate(self.writers()):
            plain, target, link = (self.work / f"{i}{name}" for name in ["plain", "target", "link"])
            self.check(OK, *command, option, plain)
            target.write_bytes(b"old")
            target.chmod(0o640)
            link.symlink_to(target.name)
            self.check(OK, *command, option, link)
            self.assertTrue(link.is_symlink())
            self.assertEqual(target.read_bytes(), plain.read_bytes())
            self.assertEqual(stat.S_IMODE(target.stat().st_mode), 0o640)
            self.assertEqual([name for name in self.left() if "partial" in name], [])

    def test_an_input_is_never_the_output(self):
        model, nwc_file = self.work / "m", self.work / "a.nwc"
        shutil.copytree(MODEL, model)
        shutil.copy(self.file, nwc_file)
        weights, codec, text = model / "model.safetensors", self.work / "c.nwcc", self.work / "text.txt"
        shutil.copy(ROOT / "codecs/linear.nwcc", codec)
        shutil.copy(self.text, text)
        (self.work / "link").symlink_to("m/model.safetensors")
        os.link(weights, self.work / "hard")
        compress = ["compress", "--bits", 4, "-e", 1]
        cases = [([*compress, weights], weights), ([*compress, weights], self.work / "m/../m/./model.safetensors"),
                 ([*compress, weights], self.work / "link"), ([*compress, weights], self.work / "hard"),
                 ([*compress, self.work / "link"], weights), ([*compress, model], weights),
                 ([*compress, model], self.work / "hard"), ([*compress, model], model / "config.json"),
                 ([*compress, model, "--codec", codec], codec), ([*compress, model, "--calib", text], text),
                 ([*compress, model, "--card", text], text), (["decompress", nwc_file], nwc_file),
                 (["decompress", model], weights), (["train", model, *TRAIN], weights),
                 (["train", model, *TRAIN, "--init", codec], codec)]
        for option in ["--log", "--checkpoint"]:
            cases.append((["train", model, *TRAIN, "-o", self.work / "n.nwcc", option, weights], None))
        before = {f: f.read_bytes() for f in self.work.rglob("*") if f.is_file()}
        for command, output in cases:
            done = self.check(USAGE, *command, *(["-o", output] if output else []))
            self.assertRegex(done.stderr, "is (the|a file of the) input")
            self.assertEqual({f: f.read_bytes() for f in self.work.rglob("*") if f.is_file()}, before)
        self.check(USAGE, "train", model, *TRAIN, "-o", self.work / "n", "--log", self.work / "n")
        # What an earlier run left in the folder is no input.
        for _ in range(2):
            self.check(OK, *compress, model, "-o", model / "model.nwc")

    def test_a_training_goes_on_over_its_own_checkpoint_but_not_over_its_models(self):
        model, codec = self.work / "m", self.work / "c.nwcc"
        shutil.copytree(MODEL, model)
        self.check(OK, "train", model, *TRAIN, "-o", codec, "--log", self.work / "log.jsonl")
        self.check(OK, "train", "--resume", self.work / "c.nwck", "-o", codec)
        weights = model / "model.safetensors"
        before = weights.read_bytes()
        for options in (["-o", weights], ["-o", self.work / "c.nwck"], ["-o", codec, "--log", weights]):
            done = self.check(USAGE, "train", "--resume", self.work / "c.nwck", *options)
            self.assertRegex(done.stderr, "is the (input|output)|is a file of the input|is named like")
        self.assertEqual(weights.read_bytes(), before)
        fifo = self.work / "log"
        os.mkfifo(fifo)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        self.check(OK, "train", model, *TRAIN, "-o", codec, "--log", fifo)
        self.assertEqual(json.loads(os.read(reader, 65536).splitlines()[-1])["step"], 4)
        os.close(reader)
        self.assertTrue(stat.S_ISFIFO(fifo.stat().st_mode))

    def test_names_of_250_bytes(self):
        for command, option in self.writers():
            path = self.work / ("n" * 250)
            self.check(OK, *command, option, path)
            self.assertGreater(path.stat().st_size, 0)
            self.check(FAILURE, *command, option, self.work / ("n" * 256))

    def test_a_measurement_that_cannot_be_made_is_refused_before_the_work(self):
        short, out = self.work / "one.txt", self.work / "a.nwc"
        short.write_text("a")
        compress = ["compress", "-v", "--bits", 4, "-o", out]
        for args, code, word in [([MODEL, "--card", short], USAGE, "one.txt"),
                                 ([MODEL / "model.safetensors", "--card", self.text], 3, "model"),
                                 ([MODEL, "--recovery", "on"], USAGE, "--calib")]:
            done = self.check(code, *compress, *args)
            self.assertIn(word, done.stderr)
            self.assertNotIn("pass", done.stderr)
            self.assertFalse(out.exists())
        for args in ([], ["--reference", MODEL, "--text", self.text]):  # the first lacks options, the second a card
            done = self.check(FAILURE if args else USAGE, "verify", self.file, "--quality", *args)
            self.assertNotIn("every checksum", done.stdout)
        done = self.check(USAGE, "eval", MODEL, "--reference", MODEL, "--text", self.text, "--write-card")
        self.assertIn("no .nwc model file", done.stderr)

    def test_a_calibration_that_cannot_be_kept_is_refused_before_it_is_made(self):
        cache = self.work / "cache"
        compress = ["compress", MODEL, "--bits", 4, "-e", 1, "--calib", self.text, "-o", self.work / "x",
                    "--calib-cache"]
        self.check(OK, *compress, cache)
        folder, = cache.iterdir()
        for file in folder.iterdir():
            file.unlink()
        (folder / "calibration.json").mkdir()
        done = self.check(USAGE, *compress, cache)
        self.assertRegex(done.stderr, "calibration.json: is a folder")
        self.assertEqual(sorted(f.name for f in folder.iterdir()), ["calibration.json", "lock"])
        self.assertIn("text.txt", self.check(FAILURE, *compress, self.text).stderr)

    def test_stdout_that_fails_is_an_error_with_a_reason(self):
        commands = [["--help"], ["--version"], ["run", "--help"], ["info", self.file], ["info", self.file, "--json"],
                    ["run", self.file, "-p", "A", "-n", 3], ["run", self.file, "-p", "A", "-n", 3, "--json"],
                    ["run", self.file, "--plan"], ["verify", self.file, "--no-speed"],
                    ["eval", self.file, "--text", self.text, "--tokens", 20],
                    ["compress", MODEL, "--estimate", "-e", 1, "-o", self.work / "x"],
                    ["decompress", self.file, "-o", self.work / "x"], ["train", MODEL, *TRAIN, "-o", self.work / "y"]]

        def close_stdout():
            os.close(1)

        for command in commands:
            reader, writer = os.pipe()
            os.close(reader)
            with os.fdopen(writer, "wb") as pipe, open("/dev/full", "wb") as full:
                for label, options in [("pipe", {"stdout": pipe}), ("full", {"stdout": full}),
                                       ("closed", {"stdout": None, "preexec_fn": close_stdout})]:
                    done = self.check(FAILURE, *command, **options)
                    self.assertRegex(done.stderr, r"(stdout|write).*: (Broken|No space|Bad file)", (label, command))

    def test_a_closed_stdout_does_not_leak_into_the_output(self):
        plain, other = self.work / "a.safetensors", self.work / "b.safetensors"
        self.check(OK, "decompress", self.file, "-o", plain)
        self.check(FAILURE, "decompress", self.file, "-o", other, stdout=None, preexec_fn=lambda: os.close(1))
        self.assertEqual(other.read_bytes(), plain.read_bytes())

    def test_a_limit_of_file_sizes_is_an_error_and_leaves_nothing(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))

        for command, option in self.writers():
            done = self.check(FAILURE, *command, option, self.work / "x", preexec_fn=limit)
            self.assertIn("large", done.stderr)
            self.assertEqual(self.left(), [])

    def test_names_that_stand_for_something_else(self):
        for command, options in self.writers():
            self.assertIn("stdout", self.check(USAGE, *command, options, "-").stderr)
        for name in ["x.nwc", "x.bin", "x.PT"]:
            self.assertIn("--format", self.check(USAGE, "decompress", self.file, "-o", self.work / name).stderr)
        self.check(OK, "decompress", self.file, "-o", self.work / "x.GGUF", "-q")
        self.assertEqual((self.work / "x.GGUF").read_bytes()[:4], b"GGUF")
        self.assertEqual(self.left(), ["x.GGUF"])
        (self.work / "questions").write_text("\n")
        self.assertIn("no questions", self.check(USAGE, "eval", self.file, "--choices", self.work / "questions").stderr)
        (self.work / "m.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        self.assertIn("LFS", self.check(BAD_FILE, "compress", self.work / "m.safetensors", "-o",
                                        self.work / "x").stderr)

    def test_no_output_is_named_like_something_else(self):
        for command, names in [(["compress", MODEL, "--bits", 4], ["x.gguf", "x.GGUF", "x.safetensors", "x.nwcc",
                                                                   "x.bin"]),
                               (["compress", MODEL, "--estimate"], ["x.gguf"]),
                               (["train", MODEL, *TRAIN], ["x.nwc", "x.gguf"]),
                               (["train", MODEL, *TRAIN, "--checkpoint", self.work / "x.nwc"], ["x.nwcc"]),
                               (["decompress", self.file], ["x.nwc", "x.json"])]:
            for name in names:
                done = self.check(USAGE, *command, "-o", self.work / name)
                self.assertIn("is named like", done.stderr)
                self.assertEqual(done.stdout, "")
        self.assertEqual(list(self.work.iterdir()), [])
        self.check(OK, "compress", MODEL, "--min-elements", 99999999, "-o", self.work / "a name without an ending")

    def test_signals_leave_nothing_behind(self):
        weights = self.work.with_suffix(".safetensors")
        data = os.urandom(4 << 20)
        values = b"".join(data[i:i + 1] + b"\x3c" for i in range(len(data)))  # bf16 around 0.01
        quarter = len(values) // 4
        tensors = {f"w{i}": {"dtype": "BF16", "shape": [1024, 1024], "data_offsets": [i * quarter, (i + 1) * quarter]}
                   for i in range(4)}
        header = json.dumps(tensors).encode()
        weights.write_bytes(struct.pack("<Q", len(header)) + header + values)
        slow = [(["compress", weights, "--bits", 4, "-e", 3, "-o", self.work / "x.nwc"], []),
                (["decompress", weights, "--format", "folder", "-o", self.work / "folder"], []),
                (["train", MODEL, "--preset", "linear", "--steps", 1000000, "-o", self.work / "x.nwcc",
                  "--checkpoint-steps",
                  20, "--checkpoint", self.work / "x.nwck"], ["x.nwck"])]
        for numbers in [[signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]]:
            for command, kept in slow:
                process = subprocess.Popen([NWC, *map(str, command), "-q"], stdout=subprocess.DEVNULL,
                                           stderr=subprocess.PIPE, text=True)
                while process.poll() is None and not self.left():
                    time.sleep(0.005)
                for number in numbers:
                    process.send_signal(number)
                    time.sleep(0.05)
                _, error = process.communicate(timeout=60)
                done = kept if command[0] == "train" else [command[-1].name]  # it may have been faster than the signal
                self.assertIn(self.left(), [done] if process.returncode == 0 else [[], kept], (numbers, command, error))
                for name in self.left():
                    shutil.rmtree(self.work / name) if name == "folder" else (self.work / name).unlink()

    def test_a_command_that_does_not_come_to_an_end_is_ended(self):
        fifo = self.work / "log"
        os.mkfifo(fifo)  # nobody reads: opening it waits for ever
        process = subprocess.Popen([NWC, *map(str, ["train", MODEL, *TRAIN, "-o", self.work / "x", "--log", fifo])],
                                   stderr=subprocess.PIPE, text=True)
        self.assertIn("training on", process.stderr.readline())
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        self.assertEqual(process.returncode, -signal.SIGTERM)

    def test_ignored_signals_stay_ignored(self):
        def ignore():
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does

        process = subprocess.Popen([NWC, "compress", MODEL, "--calib", "none", "-q", "-o", self.work / "x"], stdout=subprocess.DEVNULL,
                                   preexec_fn=ignore)
        while process.poll() is None and not self.left():
            time.sleep(0.005)
        process.send_signal(signal.SIGHUP)
        self.assertEqual(process.wait(60), 0)

    def test_a_result_larger_than_the_source_is_said(self):
        self.check(OK, "decompress", self.file, "--dtype", "f16", "-o", self.work / "m.safetensors")
        compress = ["compress", "-e", 1, "-o", self.work / "x.nwc"]
        self.assertNotIn("larger than", self.check(OK, *compress, self.work / "m.safetensors").stderr)
        rows, blocks = 512, 512 // 32
        q4_0 = b"".join(struct.pack("<e", 0.01) + os.urandom(16) for _ in range(rows * blocks))
        text = lambda s: struct.pack("<Q", len(s)) + s
        head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text(b"general.architecture") + struct.pack("<I",
                                                                                                    8) + text(b"none")
        head += text(b"blk.0.attn_q.weight") + struct.pack("<IQQIQ", 2, 32 * blocks, rows, 2, 0)
        (self.work / "q.gguf").write_bytes(head + bytes(-len(head) % 32) + q4_0)
        done = self.check(OK, *compress, self.work / "q.gguf", "--bits", 8)
        self.assertRegex(done.stderr, r"larger than the source.* quantized at 4\.50 bits")


if __name__ == "__main__":
    main()
