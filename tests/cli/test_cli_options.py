#!/usr/bin/env python3
"""What the values of the nwc tool's options mean: zeros, numbers that are none, and files that are none.
Usage: test_cli_options.py PATH_OF_NWC [unittest options]"""
import json
import os
import re
import shutil
import socket
import subprocess

from cli_case import BAD_FILE, FAILURE, MODEL, NWC, OK, USAGE, CliCase, main

COMMANDS = ["train", "compress", "decompress", "info", "verify", "eval", "run"]


class Options(CliCase):
    def needed(self, command):
        """The arguments without which the command is a usage error anyway."""
        out = self.tmp / "never"
        return {"train": [MODEL, "-o", out], "compress": [MODEL, "-o", out], "decompress": [self.file, "-o", out],
                "eval": [self.file, "--text", self.text], "run": [self.file, "-p", "A", "-n", 1]}.get(command,
                                                                                                      [self.file])

    def test_no_number_is_nan_or_infinite(self):
        found = 0
        for command in COMMANDS:
            options = re.findall(r"(--[a-z-]+) FLOAT", self.check(OK, command, "--help").stdout)
            found += len(options)
            for option in options:
                for value in ["nan", "-nan", "inf", "-inf", "1e999"]:
                    done = self.check(USAGE, command, *self.needed(command), f"{option}={value}")
                    self.assertIn(option, done.stderr)
                    self.assertEqual(done.stdout, "")
        self.assertGreater(found, 10)
        for option in ["--memory", "--size"]:
            command = "run" if option == "--memory" else "compress"
            self.check(USAGE, command, *self.needed(command), option, "nan")
        self.assertFalse((self.tmp / "never").exists())

    def test_shells_complete_commands_options_and_values(self):
        script = self.check(OK, "completion", "bash").stdout

        def completed(*words):
            quoted = " ".join(f"'{word}'" for word in words)
            asked = f'{script}\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _nwc; echo "${{COMPREPLY[@]}}"'
            return subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True).stdout.split()

        self.assertEqual(completed("nwc", "com"), ["compress", "completion"])
        self.assertEqual(completed("nwc", "compress", "--feedback", ""), ["none", "ldlq"])
        self.assertEqual(completed("nwc", "eval", "--ref"), ["--reference"])
        for command in COMMANDS:
            self.assertIn("--json", completed("nwc", command, "--"))
        zsh = self.check(OK, "completion", "zsh").stdout
        self.assertTrue(zsh.startswith("#compdef nwc\n"))
        self.assertIn("'*--feedback[", zsh)
        self.assertIn(":value:(none ldlq)'", zsh)
        self.check(USAGE, "completion", "fish")

    def test_whole_numbers_are_decimal_and_fit(self):
        found = 0
        for command in COMMANDS:
            options = re.findall(r"(--[a-z-]+) UINT", self.check(OK, command, "--help").stdout)
            found += len(options)
            for option in options:
                for value in ["-1", "18446744073709551616", "99999999999999999999999", "0x10", "010", "+1", "1.5",
                              "1e3", ""]:
                    done = self.check(USAGE, command, *self.needed(command), f"{option}={value}")
                    self.assertIn(option, done.stderr)
                    self.assertEqual(done.stdout, "")
        self.assertGreater(found, 20)
        run = ["run", self.file, "-p", "It was", "-n", 8, "-q", "--seed"]
        self.assertNotEqual(self.check(OK, *run, 2**64 - 1).stdout, self.check(OK, *run, 0).stdout)

    def test_multiple_choice_ignores_no_option(self):
        questions = self.tmp / "questions"
        questions.write_text(json.dumps({"context": "It", "choices": [" was", " zebra"], "answer": 0}))
        choices = ["eval", self.file, "--choices", questions]
        self.check(OK, *choices)
        for option in [["--text", self.text], ["--reference", MODEL], ["--context", 64], ["--tokens", 9],
                       ["--write-card"]]:
            self.assertIn(option[0], self.check(USAGE, *choices, *option).stderr)

    def test_no_option_is_without_effect(self):
        compress, run = ["compress", MODEL, "--estimate", "-o", self.tmp / "never"], ["run", self.file, "-p", "A",
                                                                                      "-n", 1]
        for args in [[*compress, "--calib-tokens", 64], [*compress, "--damping", 1],
                     [*compress, "--allocation-damping", 1],
                     [*compress, "--recovery-epochs", 2],
                     [*compress, "--card-tokens", 64], ["verify", self.file, "--reference", MODEL],
                     ["verify", self.file, "--text", self.text],
                     [*run, "--temperature", 1, "--greedy"], ["verify", self.file, "--device", "any"],
                     ["eval", self.file, "--text", self.text, "--device", "any"],
                     [*run, "--backend", "cpu", "--device", "any"]]:
            option = [arg for arg in args if str(arg).startswith("--")][-1]
            self.assertIn(option, self.check(USAGE, *args).stderr)

    def test_a_named_device_that_is_not_there_is_said(self):
        for args in [["verify", self.file], ["run", self.file, "-p", "A", "-n", 1, "-q"]]:
            done = self.check(OK, *args, "--backend", "auto", "--device", "no such device")
            self.assertRegex(done.stderr, "warning: .*the CPU decodes.*no such device")

    def test_the_help_fits_a_terminal(self):
        for command in [[], *([c] for c in COMMANDS)]:
            for line in self.check(OK, *command, "--help").stdout.splitlines():
                self.assertLessEqual(len(line), 100, line)

    def test_zero_is_a_value(self):
        run = ["run", self.file, "-p", "It was", "--no-echo", "-q"]
        greedy = self.check(OK, *run, "-n", 8, "--greedy").stdout
        draw = [*run, "-n", 8, "--temperature", 1, "--top-k", 0, "--seed", 2]
        self.assertEqual(self.check(OK, *draw, "--top-p", 0).stdout, greedy)
        self.assertNotEqual(self.check(OK, *draw, "--top-p", 1).stdout, greedy)
        self.assertEqual(self.check(OK, *run, "-n", 0, "--ignore-eos").stdout, "\n")
        result = self.json(*run, "-n", 0)
        self.assertEqual((result["text"], result["tokens"], result["stop"]), ("", [], "max_tokens"))
        self.assertEqual(self.check(OK, "run", self.file, "-p", "It was", "-q", "-n", 0).stdout, "It was\n")
        for args in [["run", "--memory", 0], ["run", "--context", 0], ["eval", "--memory", 0], ["eval", "--context", 0],
                     ["eval", "--tokens", 0], ["compress", "--size", 0], ["compress", "--kld", 0],
                     ["compress", "--bits", 0], ["compress", "--calib-tokens", 0], ["compress", "--recovery-tokens", 0],
                     ["compress", "--recovery-epochs", 0], ["compress", "--rdo", -1], ["train", "--steps", 0],
                     ["train", "--batch", 0], ["train", "--levels", 0], ["train", "--max-chunks", 0],
                     ["run", "--warn-above", -1]]:
            done = self.check(USAGE, args[0], *self.needed(args[0]), *args[1:])
            self.assertIn(args[1].strip("-"), done.stderr)
            self.assertEqual(done.stdout, "")
        # Where 0 stands for something else, the help says for what.
        for command in COMMANDS:
            self.assertRegex(self.check(OK, command, "--help").stdout,
                             r"--threads UINT.*\n? *Threads.* 0: one per core")

    def test_a_prompt_beyond_the_context_is_refused_before_anything_is_printed(self):
        for args, numbers in [(["-p", "a long enough prompt for one", "--context", 1], ["1"]),
                              (["--prompt-file", self.text, "--context", 20], ["20"])]:
            done = self.check(BAD_FILE, "run", self.file, *args)
            self.assertEqual(done.stdout, "")
            self.assertRegex(done.stderr, r"prompt has \d+ tokens")
            for number in numbers:
                self.assertRegex(done.stderr, rf"\b{number}\b")
        # It may fill the context. Then there is no room for an answer, which is no error.
        self.assertEqual(self.json("run", self.file, "-p", "A", "-n", 1, "--context", 1)["tokens"], [])
        self.assertEqual(len(self.json("run", self.file, "-p", "A", "-n", 1, "--context", 2)["tokens"]), 1)

    def test_errors_have_a_text(self):
        plain = self.tmp / "bare.safetensors"
        self.check(OK, "decompress", self.file, "-o", plain)
        for model in [plain, MODEL / "model.safetensors"]:
            done = self.check(BAD_FILE, "run", model, "-p", "A")
            self.assertRegex(done.stderr, r"nwc run: [^:]+: .*\S")
        no_tokenizer = self.tmp / "no-tokenizer"
        shutil.copytree(MODEL, no_tokenizer, ignore=shutil.ignore_patterns("tokenizer*"))
        done = self.check(BAD_FILE, "run", no_tokenizer, "-p", "A")
        self.assertRegex(done.stderr, r"nwc run: [^:]+: .*tokenizer")
        self.assertEqual(done.stdout, "")

    def test_special_tokens_of_the_prompt(self):
        # The end-of-text token of this model, as its tokenizer writes it.
        tokenizer = json.loads((MODEL / "tokenizer.json").read_text())
        special = [t for t in tokenizer["added_tokens"] if t["special"]][0]
        prompt = special["content"] + "It was"
        count = lambda *options: self.json("run", self.file, "-n", 1, *options)["prompt_tokens"]
        plain = count("-p", "It was")
        self.assertGreater(count("-p", prompt), plain + 1)
        self.assertEqual(count("-p", prompt, "--special"), plain + 1)

    def test_the_prompt_may_come_from_stdin(self):
        args = ["run", self.file, "-n", 4, "--greedy", "-q"]
        done = subprocess.run([NWC, *map(str, args), "--prompt-file", "-"], input="It was", capture_output=True,
                              text=True)
        self.assertEqual(done.stdout, self.check(OK, *args, "-p", "It was").stdout)

    def test_inputs_that_are_no_files_neither_hang_nor_puzzle(self):
        fifo, there, folder = self.tmp / "in.fifo", self.tmp / "in.socket", self.tmp / "in.folder"
        os.mkfifo(fifo)
        folder.mkdir()
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(str(there))
        out = self.tmp / "never"
        inputs = [["info"], ["verify"], ["decompress", "-o", out], ["compress", "-o", out], ["run", "-p", "A"],
                  ["train", "-o", out], ["eval", "--text", self.text], ["eval", self.file, "--text"],
                  ["eval", self.file, "--choices"], ["eval", self.file, "--text", self.text, "--reference"],
                  ["compress", MODEL, "-o", out, "--calib"], ["compress", MODEL, "-o", out, "--card"],
                  ["compress", MODEL, "-o", out, "--codec"], ["train", MODEL, "-o", out, "--init"],
                  ["train", "-o", out, "--resume"], ["run", self.file, "--prompt-file"]]
        for command in inputs:
            for path, kind in [(fifo, "FIFO"), (there, "socket"), (folder, "folder|directory|config.json")]:
                done = subprocess.run([NWC, *map(str, [*command, path])], capture_output=True, text=True, timeout=20)
                self.assertIn(done.returncode, [FAILURE, USAGE, BAD_FILE], (command, done))
                self.assertRegex(done.stderr, kind, command)
                self.assertIn(path.name, done.stderr)
                self.assertEqual(done.stdout, "")
        self.assertFalse(out.exists())


if __name__ == "__main__":
    main()
