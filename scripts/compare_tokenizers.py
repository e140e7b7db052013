#!/usr/bin/env python3
"""Compares nwc's tokenizers with others: llama.cpp's vectors, and Hugging Face's tokenizers on random strings.

usage: compare_tokenizers.py [--tool FILE] [--vocabularies FOLDER] [--json FILE...] [--trained TEXT] [--strings N]
       [--seed N]

  --vocabularies  the folder `models` of llama.cpp with its ggml-vocab-*.gguf and their .inp and .out files (the source
                  distribution of the Python package llama-cpp-python has it: pip download --no-deps --no-binary :all:
                  llama-cpp-python, then vendor/llama.cpp/models)
  --json          tokenizer.json files
  --trained       tokenizers that are trained on this text, with every pre-tokenizer, normalizer, model and option that
                  nwc knows
  --strings       random strings for each tokenizer (default 5000)
  --tool          tokenize_lines (default build/release/bin/tokenize_lines; cmake --build ... --target tokenize_lines)

Every string is made into tokens as it is, unless it has the text of a special token in it, and with special tokens
parsed and added. Needs `pip install tokenizers unicodedata2==16.0.0`. Exit code 1: something differs.

What is known to differ, and is not nwc's doing or meant so, is passed over:
  - Where there is a normalizer, or a split at punctuation (BERT, Falcon), strings with characters that tokenizers knows from older tables
    of Unicode than nwc (16.0). Which they are is asked of tokenizers, character by character.
  - A byte token that is written out in the text of a Unigram model, such as <0x41>: it is in the vocabulary, so that
    tokenizers finds it. nwc, and SentencePiece, take it for the text that it is.
"""
import argparse
import glob
import json
import os
import random
import subprocess
import sys
import tempfile

import unicodedata2 as unicodedata
from tokenizers import Tokenizer, normalizers, pre_tokenizers

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, os.path.join(ROOT, "scripts", "fixtures"))
SEPARATOR = "\n__ggml_vocab_test__\n"


def run_tool(tool, path, texts, *options):
    lines = "".join(text.encode().hex() + "\n" for text in texts)
    done = subprocess.run([tool, path, *options], input=lines, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return done.stderr.strip()
    answers = []
    for line in done.stdout.split("\n")[:-1]:
        answers.append(line if line.startswith("error") else [int(word) for word in line.split()])
    return answers


def report(name, texts, expected, found, limit=3):
    """-> number of differences"""
    if isinstance(found, str):
        print(f"{name}: {found}")
        return len(texts)
    wrong = [i for i in range(len(texts)) if expected[i] != found[i]]
    print(f"{name}: {len(texts)} strings, {len(wrong)} differ")
    for i in wrong[:limit]:
        print(f"    {texts[i]!r}\n      expected {expected[i]}\n      found    {found[i]}")
    return len(wrong)


def compare_vocabularies(tool, folder):
    differences = 0
    for path in sorted(glob.glob(os.path.join(folder, "ggml-vocab-*.gguf"))):
        name = os.path.basename(path)
        if not os.path.exists(path + ".inp"):
            found = run_tool(tool, path, ["Hello, world"])
            print(f"{name}: no vectors, " + (found if isinstance(found, str) else "it opens"))
            continue
        with open(path + ".inp", encoding="utf-8", newline="") as f:
            texts = f.read().split(SEPARATOR)
        with open(path + ".out", encoding="ascii") as f:
            expected = [[int(word) for word in line.split()] for line in f.read().split("\n")]
        expected = expected[: len(texts)]
        differences += report(name, texts, expected, run_tool(tool, path, texts))
    return differences


def random_strings(count, seed, extra=()):
    """Text-like mixtures of scripts, spaces, digits and marks, and any characters of Unicode."""
    from make_tokenizer_fixtures import ATOMS, FOREIGN

    rng = random.Random(seed)
    letters = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    ranges = [(0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0xDFF),
              (0xE00, 0xEFF),
              (0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2100, 0x218F), (0x3000, 0x30FF),
              (0x4E00, 0x4FFF),
              (0xAC00, 0xAD00), (0xFB00, 0xFFEF), (0x1D400, 0x1D7FF), (0x1F300, 0x1F6FF)]
    words = ("the of and We'll I'VE don't 123 4567 x=y; {a:[1,2]} http://a.b/c?d=e foo_bar CamelCaseXYZ isn't "
             "ABCdef").split()
    strings = []
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(1, 12)):
            kind = rng.random()
            if kind < 0.25:
                parts.append(rng.choice(ATOMS))
            elif kind < 0.4:
                parts.append(rng.choice(words) + rng.choice(["", " ", "  ", "\n"]))
            elif kind < 0.5:
                parts.append(rng.choice(FOREIGN))
            elif kind < 0.6 and extra:
                parts.append(rng.choice(extra))
            elif kind < 0.85:
                first, last = rng.choice(ranges)
                chars = [chr(rng.randint(first, last)) for _ in range(rng.randint(1, 6))]
                parts.append("".join(c for c in chars if unicodedata.category(c) not in ("Cn", "Cs")))
            else:
                parts.append("".join(rng.choice(letters) for _ in range(rng.randint(1, 4))))
        strings.append("".join(parts))
    return strings


def odd_characters():
    """Characters that tokenizers and Unicode 16 do not agree on."""
    bert = pre_tokenizers.BertPreTokenizer()
    nfd, nfkc, nfkd, marks, lower = (getattr(normalizers, name)() for name in ("NFD", "NFKC", "NFKD", "StripAccents",
                                                                               "Lowercase"))
    clean = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=False, strip_accents=True, lowercase=False)
    odd = set()
    for code in range(0x80, 0x110000):
        if 0xD800 <= code < 0xE000:
            continue
        c = chr(code)
        category = unicodedata.category(c)
        agreed = (nfd.normalize_str(c) == unicodedata.normalize("NFD", c)
                  and nfkc.normalize_str(c) == unicodedata.normalize("NFKC", c))
        agreed = agreed and nfkd.normalize_str(c) == unicodedata.normalize("NFKD", c)
        agreed = agreed and (marks.normalize_str(c) == "") == (category[0] == "M")
        agreed = agreed and lower.normalize_str(c) == c.lower()
        # After another mark it is reordered by its combining class.
        for mark in ("\u0301", "\u05b0", "\u0345"):
            agreed = agreed and nfd.normalize_str("a" + mark + c) == unicodedata.normalize("NFD", "a" + mark + c)
        if not category.startswith("Z"):
            decomposed = unicodedata.normalize("NFD", c)
            kept = "".join(d for d in decomposed if unicodedata.category(d) not in ("Mn", "Cc", "Cf", "Co")
                           and d != "\ufffd")
            agreed = agreed and clean.normalize_str(c) == kept
        agreed = agreed and (len(bert.pre_tokenize_str("a" + c)) == 2) == (category[0] == "P") or category[0] == "Z"
        if not agreed:
            odd.add(c)
    return odd


def compare_json(tool, path, count, seed, odd):
    tokenizer = Tokenizer.from_file(path)
    with open(path, encoding="utf-8") as f:
        data = json.load(f)
    model = data["model"]["type"]
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    texts = random_strings(count, seed, added[:200])
    splits_at_punctuation = '"Punctuation"' in json.dumps(data["pre_tokenizer"])
    if data["normalizer"] is not None or model == "WordPiece" or splits_at_punctuation:
        texts = [text for text in texts if not odd.intersection(text)]
    if model == "Unigram":
        texts = [text for text in texts if "<0x" not in text]
    specials = [t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special]
    plain = [text for text in texts if not any(s in text for s in specials)]
    differences = 0
    tokenizer.encode_special_tokens = True
    expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in plain]
    differences += report(os.path.basename(path), plain, expected, run_tool(tool, path, plain))
    tokenizer.encode_special_tokens = False
    expected = [tokenizer.encode(text, add_special_tokens=True).ids for text in texts]
    found = run_tool(tool, path, texts, "--special", "--add-special")
    return differences + report(os.path.basename(path) + ", special tokens parsed and added", texts, expected, found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tool", default=os.path.join(ROOT, "build", "release", "bin", "tokenize_lines"))
    parser.add_argument("--vocabularies")
    parser.add_argument("--json", nargs="*", default=[])
    parser.add_argument("--trained", metavar="TEXT")
    parser.add_argument("--strings", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    differences = 0
    odd = odd_characters() if args.json or args.trained else set()
    print(f"{len(odd)} characters are passed over where there is a normalizer or a split at punctuation")
    if args.vocabularies:
        differences += compare_vocabularies(args.tool, args.vocabularies)
    for path in args.json:
        differences += compare_json(args.tool, path, args.strings, args.seed, odd)
    if args.trained:
        from trained_tokenizers import trained_tokenizers

        with tempfile.TemporaryDirectory() as folder:
            for name, tokenizer in trained_tokenizers(args.trained):
                path = os.path.join(folder, name + ".json")
                tokenizer.save(path)
                differences += compare_json(args.tool, path, args.strings, args.seed, odd)
    print(f"{differences} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
