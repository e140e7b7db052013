#!/usr/bin/env python3
"""Conversations on the command line. Usage: test_cli_chat.py PATH_OF_NWC [unittest options]"""
import json
import shutil

from cli_case import BAD_FILE, MODEL, OK, USAGE, CliCase, main

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
HINT = "this model has a chat template"


class CliChat(CliCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.instruct = cls.tmp / "instruct"
        shutil.copytree(MODEL, cls.instruct)
        (cls.instruct / "chat_template.jinja").write_text(CHATML)

    def chat(self, code, *args, **options):
        return self.check(code, "run", self.instruct, "--chat", "--temperature", 0, *args, **options)

    def test_file_keeps_the_template(self):
        out = self.tmp / "chat.nwc"
        self.check(OK, "compress", self.instruct, "--bits", 4, "-o", out)
        chat = self.json("info", out, "--no-entropy")["chat"]
        self.assertEqual(chat["template"], CHATML)
        self.assertEqual(chat["format"]["name"], "chatml")
        self.assertEqual(chat["format"]["stop"], ["<|im_end|>"])
        self.assertIn("chat template: chatml", self.check(OK, "info", out, "--no-entropy").stdout)
        answer = self.check(OK, "run", out, "--chat", "-p", "Once upon a time", "-n", 4)
        self.assertNotIn("Once upon", answer.stdout)

    def test_one_answer(self):
        done = self.chat(OK, "-p", "Who was it?", "-n", 6)
        self.assertNotIn("Who was it", done.stdout)
        self.assertNotIn("im_start", done.stdout)
        result = json.loads(self.chat(OK, "-p", "Who was it?", "-n", 6, "--json").stdout)
        self.assertEqual(result["text"] + "\n", done.stdout)
        self.assertEqual(result["stop"], "max_tokens")
        longer = json.loads(self.chat(OK, "-p", "Who was it?", "-n", 6, "--json", "--system", "Be brief.").stdout)
        self.assertGreater(longer["prompt_tokens"], result["prompt_tokens"])
        # The same as its text as a plain prompt.
        text = "<|im_start|>user\nWho was it?<|im_end|>\n<|im_start|>assistant\n"
        plain = self.check(OK, "run", self.instruct, "-p", text, "--special", "--temperature", 0, "-n", 6, "--no-echo")
        self.assertEqual(plain.stdout, done.stdout)
        self.assertNotIn(HINT, plain.stderr)

    def test_conversation_from_stdin(self):
        first = self.chat(OK, "-p", "Who was it?", "-n", 6).stdout
        done = self.chat(OK, "-n", 6, input="Who was it?\n\n/clear\nWho was it?\n/exit\nnever\n", stdin=None)
        self.assertEqual(done.stdout, 2 * first)
        # A second turn is what the whole conversation as one text is.
        done = self.chat(OK, "-n", 6, input="Who was it?\nAnd who else?", stdin=None)
        self.assertTrue(done.stdout.startswith(first))
        text = ("<|im_start|>user\nWho was it?<|im_end|>\n<|im_start|>assistant\n" + first[:-1] +
                "<|im_end|>\n<|im_start|>user\nAnd who else?<|im_end|>\n<|im_start|>assistant\n")
        plain = self.check(OK, "run", self.instruct, "-p", text, "--special", "--temperature", 0, "-n", 6, "--no-echo")
        self.assertEqual(done.stdout[len(first):], plain.stdout)

    def test_full_context(self):
        done = self.chat(BAD_FILE, "-p", "word " * 100, "--context", 32)
        self.assertIn("context of 32 tokens is full", done.stderr)
        done = self.chat(OK, "-p", "Hi", "--context", 64, "--ignore-eos")
        self.assertIn("--context", done.stderr)

    def test_stop_strings(self):
        text = json.loads(self.chat(OK, "-p", "Who was it?", "-n", 12, "--json").stdout)["text"]
        stop = text[4:7]
        done = json.loads(self.chat(OK, "-p", "Who was it?", "-n", 12, "--json", "--stop", "@@@", "--stop",
                                    stop).stdout)
        self.assertEqual((done["text"], done["stop"]), (text[:text.find(stop)], "stop_string"))

    def test_what_cannot_be(self):
        self.assertIn("chat template", self.check(BAD_FILE, "run", self.file, "--chat", "-p", "Hi").stderr)
        other = self.tmp / "other"
        shutil.copytree(MODEL, other)
        (other / "chat_template.jinja").write_text("{{ messages }}")
        self.assertIn("--special", self.check(BAD_FILE, "run", other, "--chat", "-p", "Hi").stderr)
        self.assertIn("question", self.chat(USAGE, "--json").stderr)
        self.check(USAGE, "run", self.instruct, "--system", "x", "-p", "Hi")
        self.check(USAGE, "run", self.instruct, "--chat", "--special", "-p", "Hi")

    def test_hint_without_chat(self):
        self.assertIn(HINT, self.check(OK, "run", self.instruct, "-p", "Once", "-n", 1).stderr)
        self.assertNotIn(HINT, self.check(OK, "run", self.file, "-p", "Once", "-n", 1).stderr)


if __name__ == "__main__":
    main()
