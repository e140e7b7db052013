"""nwc compress --imatrix: importance matrices of llama.cpp, for models that nwc runs and for others."""
import json
import pathlib
import struct
import tempfile

from cli_case import BAD_FILE, OK, USAGE, CliCase, main
from test_cli_calib import cut_model

COLUMNS = {"attn_q": 192, "attn_k": 192, "attn_v": 192, "attn_output": 192, "ffn_gate": 192, "ffn_up": 192, "ffn_down": 512}


def entries(columns=COLUMNS):
    """Mean squares: one column of sixteen has large inputs."""
    return [(f"blk.0.{name}.weight", [64.0 if i % 16 == 3 else 1.0 + i % 4 for i in range(n)])
            for name, n in columns.items()]


def dat(matrices, calls=4):
    out = struct.pack("<i", len(matrices))
    for name, v in matrices:
        out += struct.pack("<i", len(name)) + name.encode()
        out += struct.pack(f"<ii{len(v)}f", calls, len(v), *(calls * x for x in v))
    return out + struct.pack("<ii", 2, 8) + b"text.txt"


def gguf(matrices, count=512.0, kind="imatrix"):
    text = lambda s: struct.pack("<Q", len(s)) + s.encode()  # noqa: E731
    keys = [text("general.type") + struct.pack("<I", 8) + text(kind),
            text("imatrix.chunk_count") + struct.pack("<II", 4, 2),
            text("imatrix.datasets") + struct.pack("<IIQ", 9, 8, 1) + text("text.txt")]
    directory, data = b"", b""
    for name, v in matrices:
        for suffix, shape, numbers in ((".in_sum2", (len(v), 1), [count * x for x in v]), (".counts", (1, 1), [count])):
            directory += text(name + suffix) + struct.pack("<IQQIQ", 2, *shape, 0, len(data))
            data += struct.pack(f"<{len(numbers)}f", *numbers)
            data += bytes(-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, 2 * len(matrices), len(keys)) + b"".join(keys) + directory
    return head + bytes(-len(head) % 32) + data


class Imatrix(CliCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.tmp = pathlib.Path(cls.folder.name)
        cls.model = cut_model(cls.tmp / "model", 1)
        cls.unknown = cut_model(cls.tmp / "unknown", 1)
        config = json.loads((cls.unknown / "config.json").read_text())
        (cls.unknown / "config.json").write_text(json.dumps({**config, "architectures": ["XForCausalLM"], "model_type": "x"}))
        cls.dat, cls.gguf = cls.tmp / "m.dat", cls.tmp / "m.gguf"
        cls.dat.write_bytes(dat(entries()))
        cls.gguf.write_bytes(gguf(entries()))

    def compress(self, model, out, *args):
        done = self.check(OK, "compress", model, "--bits", 3, "-e", 1, *args, "--json", "-o", self.tmp / out, as_is=True)
        return json.loads(done.stdout)

    def test_both_forms_give_the_same_file_which_says_so(self):
        report = self.compress(self.model, "1.nwc", "--imatrix", self.dat)
        self.compress(self.model, "2.nwc", "--imatrix", self.gguf, "-t", 1)
        self.compress(self.model, "3.nwc", "--calib", "none")
        one, two, three = ((self.tmp / f"{i}.nwc").read_bytes() for i in (1, 2, 3))
        self.assertEqual(one, two)
        self.assertNotEqual(one, three)
        said = report["imatrix"]
        self.assertEqual((said["covered"], said["uncovered"]), (7, ["model.embed_tokens.weight"]))
        self.assertEqual((said["texts"], said["chunks"], said["unused_entries"]), (["text.txt"], 2, 0))
        self.assertNotIn("calibration", report)
        provenance = self.json("info", self.tmp / "1.nwc")["provenance"]
        self.assertEqual(provenance["calibration"], said["hash"])
        self.assertIn(" calib=imatrix", provenance["settings"])
        self.assertIn("7 of 8 matrices covered; without: model.embed_tokens.weight",
                      self.check(OK, "compress", self.model, "--imatrix", self.dat, "-e", 1, "-o", self.tmp / "4.nwc", as_is=True).stdout)

    def test_a_model_that_nwc_does_not_run(self):
        report = self.compress(self.unknown, "u.nwc", "--imatrix", self.gguf)
        self.assertEqual(report["imatrix"]["covered"], 7)
        self.assertLess(abs(report["bpw_coded"] - 3), 0.02)
        bits = {t["name"]: t.get("bpw", 0) for t in report["tensors"]}
        free = {t["name"]: t.get("bpw", 0) for t in self.compress(self.unknown, "n.nwc", "--calib", "none")["tensors"]}
        # One step for its matrices, half of it for the embedding, in place of equal rates.
        self.assertLess(max(free.values()) - min(b for b in free.values() if b > 0), 0.3)
        self.assertGreater(bits["model.embed_tokens.weight"], free["model.embed_tokens.weight"] + 0.1)
        estimate = self.json("compress", self.unknown, "--imatrix", self.gguf, "--estimate", "-o", self.tmp / "e.nwc", "--calib", "none")
        self.assertEqual(estimate["imatrix"], report["imatrix"])
        self.assertFalse((self.tmp / "e.nwc").exists())

    def test_what_does_not_fit_is_said(self):
        def refused(code, says, content, *args, model=self.model):
            bad = self.tmp / "bad.gguf"
            bad.write_bytes(content)
            out = self.tmp / "bad.nwc"
            done = self.check(code, "compress", model, "--imatrix", bad, *args, "-o", out, as_is=True)
            self.assertRegex(done.stderr, says)
            self.assertFalse(out.exists())

        good = gguf(entries())
        refused(USAGE, "--imatrix stands in for calibration", good, "--calib", "self")
        refused(USAGE, "--calib-tokens is without effect with --imatrix", good, "--calib-tokens", 64)
        refused(USAGE, "--recovery on needs calibration", good, "--recovery", "on")
        refused(USAGE, r'"blk.0.attn_q.weight" has 64 columns.*\[192, 192\].*another model', gguf(entries({**COLUMNS, "attn_q": 64})))
        refused(USAGE, 'none of the model.*"a".*embed_tokens', gguf([("a", [1.0])]))
        refused(BAD_FILE, 'general.type is "model"', gguf(entries(), kind="model"))
        refused(BAD_FILE, "bad.gguf", good[:-40])
        refused(BAD_FILE, "read as a .dat file", b"no matrix at all")
        refused(BAD_FILE, "value 0 is nan", dat([("blk.0.attn_q.weight", [float("nan")])]))
        self.check(USAGE, "compress", self.model, "--imatrix", self.tmp / "missing.dat", "-o", self.tmp / "x.nwc", as_is=True)


if __name__ == "__main__":
    main()
