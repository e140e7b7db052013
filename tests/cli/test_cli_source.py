#!/usr/bin/env python3
"""What a .nwc file keeps of its source, what is made of it, and records of later versions. Usage: test_cli_source.py
PATH_OF_NWC [unittest options]"""
import json
import struct
import zlib

from cli_case import BAD_FILE, MODEL, OK, USAGE, CliCase, main


def patch_model_record(data, at, value):
    """The .nwc file with one byte of its MODEL section changed and all checksums right."""
    data = bytearray(data)
    count, = struct.unpack_from("<I", data, 24)
    for entry in range(64, 64 + 48 * count, 48):
        kind, _, offset, size = struct.unpack_from("<IIQQ", data, entry)
        if kind == 2:
            data[offset + at] = value
            struct.pack_into("<I", data, entry + 32, zlib.crc32(data[offset:offset + size]))
    struct.pack_into("<I", data, 28, zlib.crc32(data[64:64 + 48 * count]))
    struct.pack_into("<I", data, 60, zlib.crc32(data[:60]))
    return bytes(data)


class CliSource(CliCase):
    def test_decompress_to_folder(self):
        out = self.tmp / "folder"
        report = self.json("decompress", self.file, "-o", f"{out}/")
        self.assertEqual((report["format"], report["notes"]), ("folder", []))
        self.assertEqual(report["bytes"], sum(f.stat().st_size for f in out.iterdir()))
        for name in ["config.json", "tokenizer.json", "README.md"]:
            self.assertEqual((out / name).read_bytes(), (MODEL / name).read_bytes())
        result = self.json("eval", out, "--reference", self.file, "--text", self.text)
        self.assertLess(result["kld_mean"], 1e-4)  # BF16 where the codec's weights are rounded
        before = sorted(f.name for f in out.iterdir())
        self.assertIn("not empty", self.check(USAGE, "decompress", self.file, "-o", out).stderr)
        self.assertEqual(sorted(f.name for f in out.iterdir()), before)
        self.check(OK, "decompress", self.file, "-o", self.tmp / "wide", "--format", "folder", "--dtype", "f32")
        self.assertEqual(json.loads((self.tmp / "wide/config.json").read_text())["torch_dtype"], "float32")

    def test_source_is_kept_unless_told_otherwise(self):
        names = [f["name"] for f in self.json("info", self.file)["source"]["files"]]
        self.assertEqual(names, ["README.md", "config.json", "tokenizer.json"])
        self.assertIn("tokenizer.json", self.check(OK, "info", self.file, "--no-entropy").stdout)
        bare = self.tmp / "bare.nwc"
        self.check(OK, "compress", MODEL, "--bits", 4, "--no-source", "-o", bare)
        self.assertNotIn("source", self.json("info", bare))
        self.assertLess(bare.stat().st_size, self.file.stat().st_size)
        done = self.check(OK, "decompress", bare, "-o", f"{self.tmp}/made/")  # from the records
        self.assertEqual(self.json("eval", self.tmp / "made", "--text", self.text)["tokens"],
                         self.json("eval", bare, "--text", self.text)["tokens"], done.stderr)

    def test_records_of_a_later_version_stop_sessions_only(self):
        later = self.tmp / "later.nwc"
        for at, value, says in [(0, 9, "record version 9"), (44, 9, "rope_scaling is 9")]:
            later.write_bytes(patch_model_record(self.file.read_bytes(), at, value))
            self.assertIn(says, self.check(OK, "info", later, "--no-entropy").stdout)
            self.assertIn(says, self.json("info", later, "--no-entropy")["model_error"])
            self.assertIn(says, self.check(OK, "verify", later).stderr)
            self.assertIn(says, self.check(BAD_FILE, "run", later, "-p", "a").stderr)
            self.assertIn(says, self.check(BAD_FILE, "decompress", later, "-o", self.tmp / "never.gguf").stderr)
            self.check(OK, "decompress", later, "-o", self.tmp / "later.safetensors")
            self.check(OK, "decompress", later, "-o", f"{self.tmp}/later-{at}/")
        later.write_bytes(patch_model_record(self.file.read_bytes(), 4,
                                             255))  # end tokens and shapes do not fit any more
        self.check(OK, "decompress", later, "-o", self.tmp / "later.safetensors")


if __name__ == "__main__":
    main()
