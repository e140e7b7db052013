"""The programs of examples/, as a reader runs them: test_examples.py <folder of programs> <model.nwc>."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

FOLDER, MODEL = pathlib.Path(sys.argv[1]), sys.argv[2]


def run(name, *args, code=0, text=None):
    done = subprocess.run([FOLDER / name, *args], input=text, capture_output=True, text=True, timeout=300, errors="replace")
    if done.returncode != code:
        raise AssertionError(f"{name} {args}: exit code {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}")
    return done


class Examples(unittest.TestCase):
    def test_decode_tensor(self):
        self.assertRegex(run("decode_tensor", MODEL).stdout, r"\d+ x \d+, \d\.\d+ bits per weight, mean square 0\.\d+, decoded")
        one = run("decode_tensor", MODEL, "model.layers.0.mlp.down_proj.weight").stdout
        self.assertTrue(one.startswith("model.layers.0.mlp.down_proj.weight: 192 x 512, "), one)
        self.assertIn("nothing", run("decode_tensor", MODEL, "nothing", code=1).stderr)

    def test_layer_by_layer(self):
        lines = run("layer_by_layer", MODEL).stdout.splitlines()
        self.assertGreater(sum("lengths of the products" in line for line in lines), 4, lines)
        buffer, whole = [int(word) for word in lines[-1].split() if word.isdigit()]
        self.assertLess(buffer, whole)

    def test_open_anywhere(self):
        lines = run("open_anywhere", MODEL).stdout.splitlines()
        self.assertEqual([line.split(":")[0] for line in lines], ["from memory", "through callbacks", "from a descriptor"])
        self.assertEqual(len({line.split(":")[1] for line in lines}), 1, lines)

    def test_own_threads(self):
        self.assertRegex(run("own_threads", MODEL).stdout, r"^\d+ weights, decoded in [1-9]\d* tasks on 3 threads")

    def test_own_memory(self):
        used, pieces, planned, decoder = map(int, re.findall(r"\d+", run("own_memory", MODEL, "64").stdout))
        self.assertGreater(pieces, 4)
        self.assertLessEqual(used, planned - decoder + 64 * pieces)
        self.assertGreater(used, (planned - decoder) // 2)
        self.assertIn("cannot allocate", run("own_memory", MODEL, "1", code=1).stderr)

    @unittest.skipUnless((FOLDER / "vulkan_buffer").exists(), "built without Vulkan")
    def test_vulkan_buffer(self):
        if os.environ.get("NWC_REQUIRE_VULKAN") != "1" and subprocess.run(
                [FOLDER / "vulkan_buffer", MODEL], capture_output=True, text=True).stderr.startswith("no Vulkan"):
            self.skipTest("no Vulkan device")
        said = run("vulkan_buffer", MODEL).stdout
        self.assertRegex(said, r"^\d+ tensors, \d+ bytes, mean square 0\.\d+, decoded by vulkan .* program's buffer")

    def test_chat(self):
        done = run("chat", MODEL, text="What is a whale?\nAnd a ship?\n")
        self.assertEqual(done.stdout.count("> "), 3)
        self.assertEqual(done.stderr, "")
        self.assertGreater(len(done.stdout), 40)

    def test_keep_sequence(self):
        with tempfile.TemporaryDirectory() as folder:
            state = pathlib.Path(folder) / "state"
            first = run("keep_sequence", MODEL, state).stdout.splitlines()
            again = run("keep_sequence", MODEL, state).stdout.splitlines()
            self.assertEqual(first[0], "reads the prompt")
            self.assertEqual(first[1:], again, "the same text, without the prompt's being read")
            state.write_bytes(state.read_bytes()[:-1])
            damaged = run("keep_sequence", MODEL, state)
            self.assertEqual(damaged.stdout.splitlines(), first)
            self.assertIn("state", damaged.stderr)

    def test_all_say_what_they_are_called_with_and_what_is_wrong(self):
        names = sorted(p.name for p in FOLDER.iterdir() if p.is_file() and os.access(p, os.X_OK))
        self.assertGreater(len(names), 6)
        for name in names:
            self.assertIn("usage: ", run(name, code=2).stderr)
            more = {"keep_sequence": ["state"], "own_memory": ["1"]}.get(name, [])
            self.assertIn("missing.nwc", run(name, "missing.nwc", *more, code=1).stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
