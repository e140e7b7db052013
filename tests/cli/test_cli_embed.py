#!/usr/bin/env python3
"""Encoders on the command line: embeddings of texts and of pictures, how far those of a compressed model are from the
original's, and what is no input.
Usage: test_cli_embed.py PATH_OF_NWC [unittest options]"""
import json
import math
import pathlib
import struct
import tempfile
import unittest
import zlib

from cli_case import BAD_FILE, OK, ROOT, USAGE, main, nwc

FIXTURES = ROOT / "tests/fixtures/encoders"
MASK = 2**64 - 1


def numbers(name, count, mean, scale):
    """The fixtures' weights, as tests/scripts/make_family_fixtures.py says."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 & MASK
    for i in range(count):
        z = seed + i * 0x9E3779B97F4A7C15 & MASK
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
        z ^= z >> 31
        yield mean + scale * (2 * (z >> 40) / 2**24 - 1)


def write_model(folder, name):
    fixture = json.loads((FIXTURES / f"{name}.json").read_text())
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(fixture["config"]))
    if "preprocessor" in fixture:
        (folder / "preprocessor_config.json").write_text(json.dumps(dict(
            fixture["preprocessor"], size=dict(shortest_edge=20), do_center_crop=True, resample=3)))
    header, data = {}, b""
    for tensor in fixture["tensors"]:
        count = math.prod(tensor["shape"])
        values = struct.pack(f"<{count}f", *numbers(tensor["name"], count, tensor["mean"], tensor["scale"]))
        header[tensor["name"]] = dict(dtype="F32", shape=tensor["shape"], data_offsets=[len(data), len(data) + len(values)])
        data += values
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def png(width, height, kind=2):
    """A gradient; kind 2: RGB, 6: RGBA."""
    channels = 3 if kind == 2 else 4
    rows = b"".join(b"\0" + bytes((x * 7 + y * (c + 3)) % 256 for x in range(width) for c in range(channels))
                    for y in range(height))
    out = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)), (b"IDAT", zlib.compress(rows)),
                       (b"IEND", b"")):
        out += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return out


def vocabulary():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "sat", "dog", "##s"]
    return dict(version="1.0", truncation=None, padding=None, added_tokens=[
        dict(id=i, content=words[i], single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
        for i in range(4)], normalizer=dict(type="BertNormalizer", clean_text=True, handle_chinese_chars=True,
                                            strip_accents=None, lowercase=True),
        pre_tokenizer=dict(type="BertPreTokenizer"), post_processor=dict(
            type="TemplateProcessing", single=[dict(SpecialToken=dict(id="[CLS]", type_id=0)),
                                               dict(Sequence=dict(id="A", type_id=0)),
                                               dict(SpecialToken=dict(id="[SEP]", type_id=0))],
            pair=[dict(Sequence=dict(id="A", type_id=0)), dict(Sequence=dict(id="B", type_id=1))],
            special_tokens={"[CLS]": dict(id="[CLS]", ids=[2], tokens=["[CLS]"]),
                            "[SEP]": dict(id="[SEP]", ids=[3], tokens=["[SEP]"])}),
        decoder=dict(type="WordPiece", prefix="##", cleanup=True),
        model=dict(type="WordPiece", unk_token="[UNK]", continuing_subword_prefix="##", max_input_chars_per_word=100,
                   vocab={word: i for i, word in enumerate(words)}))


class Embed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.tmp = pathlib.Path(cls.folder.name)
        cls.text, cls.image = cls.tmp / "text", cls.tmp / "image"
        write_model(cls.text, "bert")
        (cls.text / "tokenizer.json").write_text(json.dumps(vocabulary()))
        write_model(cls.image, "dinov2")
        cls.pictures = cls.tmp / "pictures"
        cls.pictures.mkdir()
        (cls.pictures / "a.png").write_bytes(png(40, 30))
        (cls.pictures / "b.PNG").write_bytes(png(23, 64, kind=6))

    def check(self, code, *args):
        done = nwc(*args)
        self.assertEqual(done.returncode, code, f"nwc {' '.join(map(str, args))}\n{done.stdout}\n{done.stderr}")
        return done

    def json(self, *args):
        return json.loads(self.check(OK, *args, "--json", "-q").stdout)

    def test_texts(self):
        out = self.json("embed", self.text, "--text", "a cat sat", "--text", "a dog", "--weights", "f32")
        self.assertEqual(out["size"], 32)
        self.assertEqual([len(e["embedding"]) for e in out["embeddings"]], [32, 32])
        self.assertNotEqual(out["embeddings"][0]["embedding"], out["embeddings"][1]["embedding"])
        long = self.json("embed", self.text, "--text", "cat " * 100)  # cut, and its end kept
        self.assertEqual(long["cut"], 1)
        lines = self.tmp / "lines.txt"
        lines.write_text("a cat sat\n\na dog\n")
        self.assertEqual(self.json("embed", self.text, "--text-file", lines, "--weights", "f32")["embeddings"],
                         out["embeddings"])
        table = self.check(OK, "embed", self.text, "--text", "a cat", "--text", "a dog", "-q").stdout
        self.assertIn("cosine similarity", table)

    def test_pictures(self):
        one = self.json("embed", self.image, "--image", self.pictures / "a.png")
        self.assertEqual(len(one["embeddings"][0]["embedding"]), 32)
        self.assertTrue(all(math.isfinite(x) for x in one["embeddings"][0]["embedding"]))
        broken = self.tmp / "broken.png"
        whole = (self.pictures / "a.png").read_bytes()
        for content in (b"", b"not a picture", whole[:60], whole[:16] + bytes(8) + whole[24:]):
            broken.write_bytes(content)
            done = self.check(BAD_FILE, "embed", self.image, "--image", broken, "-q")
            self.assertIn("broken.png", done.stderr)
            self.assertEqual(done.stdout, "")

    def test_compressed_ones_are_measured(self):
        for folder, inputs in ((self.text, ["--text", self.tmp / "sentences.txt"]), (self.image, ["--images", self.pictures])):
            (self.tmp / "sentences.txt").write_text("a cat sat\na dog sat\ncats\n")
            coded = folder.with_suffix(".nwc")
            self.check(OK, "compress", folder, "--bits", 6, "--min-elements", 64, "-o", coded, "-q")
            out = self.json("eval", coded, "--reference", folder, *inputs)
            self.assertEqual(out["inputs"], 3 if folder == self.text else 2)
            self.assertGreater(out["cosine_mean"], 0.95)
            self.assertLess(out["cosine_min"], 1)
            same = self.json("eval", folder, "--reference", folder, *inputs)
            self.assertGreater(same["cosine_min"], 0.999999)

    def test_pairs_find_the_same_label(self):
        vision, texts = self.tmp / "vision", self.tmp / "texts"
        write_model(vision, "clip_vision")
        write_model(texts, "clip_text")
        (texts / "tokenizer.json").write_text(json.dumps(vocabulary()))
        config = json.loads((texts / "config.json").read_text())
        (texts / "config.json").write_text(json.dumps(dict(config, eos_token_id=3)))  # [SEP]
        for folder in (vision, texts):
            self.check(OK, "compress", folder, "--bits", 4, "--min-elements", 64, "-o", folder.with_suffix(".nwc"), "-q")
        words = ["a cat", "a dog", "sat sat cats", "dog a a a"]
        labels = self.tmp / "labels.txt"
        labels.write_text("\n".join(words) + "\n")
        out = self.json("eval", vision.with_suffix(".nwc"), "--reference", vision, "--images", self.pictures, "--labels",
                        labels, "--text-model", texts.with_suffix(".nwc"), "--text-reference", texts)

        def chosen(of_pictures, of_texts, *precision):
            pictures = self.json("embed", of_pictures, "--image", self.pictures / "a.png", "--image",
                                 self.pictures / "b.PNG", *precision)
            names = self.json("embed", of_texts, *(x for word in words for x in ("--text", word)), *precision)

            def cosine(a, b):
                return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
            return [max(range(len(words)), key=lambda i: cosine(p["embedding"], names["embeddings"][i]["embedding"]))
                    for p in pictures["embeddings"]]

        self.assertEqual(out["labels"], len(words))
        self.assertEqual(out["reference_chosen"], chosen(vision, texts, "--weights", "f32"))
        self.assertEqual(out["chosen"], chosen(vision.with_suffix(".nwc"), texts.with_suffix(".nwc")))
        same = sum(a == b for a, b in zip(out["chosen"], out["reference_chosen"])) / 2
        self.assertEqual(out["same_top_label"], same)

    def test_pictures_calibrate(self):
        coded, cache = self.tmp / "calibrated.nwc", self.tmp / "cache"
        args = ["compress", self.image, "--bits", 6, "--min-elements", 64, "-o", coded, "--calib-cache", cache]
        out = self.json(*args, "--calib", self.pictures, "--calib-tokens", 100)
        self.assertEqual(out["calibration"]["images"], 2)
        found = self.json(*args, "--calib", self.pictures / "b.PNG", "--calib", self.pictures / "a.png")
        self.assertNotEqual(found["calibration"]["hash"], out["calibration"]["hash"])  # in another order
        self.assertGreater(self.json("eval", coded, "--reference", self.image, "--images", self.pictures)["cosine_mean"],
                           0.95)
        empty = self.tmp / "empty"
        empty.mkdir(exist_ok=True)
        self.assertIn("no .png file", self.check(USAGE, *args, "--calib", empty, "-q").stderr)
        self.assertIn("config.json", self.check(BAD_FILE, *args, "--calib", self.image / "config.json", "-q").stderr)
        self.assertIn("fine-tuning", self.check(BAD_FILE, *args, "--calib", self.pictures, "--recovery", "on", "-q").stderr)
        self.assertIn("no .txt files", self.check(USAGE, "compress", self.text, "-o", coded, "--calib", self.pictures,
                                                  "-q").stderr)

    def test_what_does_not_belong_together(self):
        self.assertIn("encoder of images", self.check(BAD_FILE, "embed", self.image, "--text", "a", "-q").stderr)
        self.assertIn("encoder of texts",
                      self.check(BAD_FILE, "embed", self.text, "--image", self.pictures / "a.png", "-q").stderr)
        self.check(USAGE, "embed", self.text, "-q")
        self.check(USAGE, "eval", self.text, "--text", self.text / "config.json", "-q")
        self.assertIn("embed", self.check(BAD_FILE, "run", self.text, "-p", "a", "-q", "--backend", "cpu").stderr)


if __name__ == "__main__":
    main()
