#!/usr/bin/env python3
"""nwc_llama in a prebuilt llama.cpp: the same model as the GGUF file that nwc writes, and clear errors.
Usage: PEER/venv/bin/python test_llama_bridge.py PATH_OF_NWC LIBNWC_LLAMA.SO [unittest options]; skipped (77) where
integrations/llama.cpp/setup_peer.sh has not been run."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NWC, LIBRARY = sys.argv[1], sys.argv[2]
sys.path.insert(0, str(ROOT / "integrations" / "llama.cpp"))
try:
    import numpy as np
    from nwc_llama import NwcError, ffi, llama, load, make_context, tokenize, write
except ImportError as error:
    print(f"skipped: {error}; integrations/llama.cpp/setup_peer.sh puts what is needed in ~/.cache/nwc/llama-peer")
    sys.exit(77)
if LIBRARY == "none":
    print("skipped: llama.h was not found when the build was configured")
    sys.exit(77)

MODEL = ROOT / "models" / "gutenlm-2.6m"
TEXT = "It was a dark and stormy night, and the captain said to the men that"
nwc = ffi.dlopen(LIBRARY)


def run(*arguments):
    subprocess.run([NWC, *map(str, arguments)], check=True, capture_output=True)


def load_gguf(path):
    model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
    assert model != ffi.NULL, path
    return model


def results(model):
    """Logits of every token of a text, and a greedy continuation."""
    context = make_context(model, 256, threads=1)
    tokens = tokenize(model, TEXT)
    batch = llama.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, True
    assert llama.llama_decode(context, batch) == 0
    size = 4 * llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    logits = b"".join(bytes(ffi.buffer(llama.llama_get_logits_ith(context, i), size)) for i in range(len(tokens)))
    llama.llama_batch_free(batch)
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    text = write(model, context, TEXT, 24)
    llama.llama_free(context)
    llama.llama_model_free(model)
    return np.frombuffer(logits, np.float32), text


class Bridge(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.tmp = pathlib.Path(cls.folder.name)
        cls.file = cls.tmp / "m.nwc"
        run("compress", MODEL, "--bits", 4, "--calib", "none", "-e", 1, "-o", cls.file)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def check_same(self, file, kind):
        gguf = self.tmp / "m.gguf"
        run("decompress", file, "-o", gguf, "--type", kind)
        logits, text = results(load_gguf(gguf))
        own_logits, own_text = results(load(nwc, file, kind))
        self.assertTrue(np.isfinite(logits).all())
        self.assertTrue(np.array_equal(logits, own_logits))
        self.assertEqual(text, own_text)
        self.assertGreater(len(text), 10)

    def test_same_model_as_the_gguf_file(self):
        for kind in ["f16", "f32", "q8_0", "q4_k_m"]:
            with self.subTest(kind):
                self.check_same(self.file, kind)

    def test_same_model_from_a_gguf_source(self):
        run("decompress", self.file, "-o", self.tmp / "source.gguf", "--type", "f16")
        run("compress", self.tmp / "source.gguf", "--bits", 5, "--calib", "none", "-e", 1, "-o", self.tmp / "g.nwc")
        self.check_same(self.tmp / "g.nwc", "q8_0")

    def test_progress_and_cancelling(self):
        seen = []

        @ffi.callback("bool(float, void *)")
        def progress(share, _user):
            seen.append(share)
            return len(seen) < stop

        params = ffi.new("struct llama_model_params *", llama.llama_model_default_params())
        params.progress_callback = progress
        stop = 10**6
        llama.llama_model_free(load(nwc, self.file, params=params))
        self.assertEqual((seen, seen[-1]), (sorted(seen), 1.0))
        stop = 5
        seen.clear()
        with self.assertRaisesRegex(NwcError, "cancelled"):
            load(nwc, self.file, params=params)

    def test_errors(self):
        damaged = self.tmp / "damaged.nwc"
        data = bytearray(self.file.read_bytes())
        data[len(data) // 2] ^= 1
        damaged.write_bytes(data)
        plain = self.tmp / "plain.nwc"
        run("decompress", self.file, "-o", self.tmp / "plain.safetensors")
        run("compress", self.tmp / "plain.safetensors", "--bits", 4, "--calib", "none", "-e", 1, "-o", plain)
        unknown = self.tmp / "unknown.nwc"
        self.make_unknown_architecture(unknown)
        libc = "libc.so.6"
        for path, options, says in [
            (self.tmp / "none.nwc", {}, "none.nwc.*No such file"),
            (MODEL / "config.json", {}, "not an nwc file"),
            (damaged, {}, r'tensor "blk\.\d+\.[a-z_.]+"'),
            (plain, {}, "no section SOURCE.*model description"),
            (unknown, {}, "llama.cpp .*unknown model architecture.*mystery"),
            (self.file, {"kind": "q9"}, "no type \"q9\""),
            (self.file, {"library": "/none/libllama.so"}, "/none/libllama.so.*NWC_LLAMA_LIBRARY"),
            (self.file, {"library": libc}, "no function llama_model_default_params.*built for ggml [0-9.]+"),
        ]:
            with self.subTest(says):
                with self.assertRaisesRegex(NwcError, "(?s)" + says):
                    load(nwc, path, **options)

    def test_another_version_is_refused(self):
        source = self.tmp / "other.c"
        source.write_text("""
            #include <stdbool.h>
            struct params { void* devices; void* one_more; void* overrides; int gpu_layers, split_mode; char rest[200]; };
            struct params llama_model_default_params(void) { struct params p = {0}; p.gpu_layers = -1; p.split_mode = 1; return p; }
            void* llama_model_load_from_file_ptr(void* file, struct params p) { (void)file, (void)p; return 0; }
            const char* ggml_version(void) { return "9.8.7"; }
        """)
        library = self.tmp / "libother.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
        with self.assertRaisesRegex(NwcError, r"found ggml 9\.8\.7, and nwc_llama was built for ggml [0-9.]+"):
            load(nwc, self.file, library=str(library))

    def make_unknown_architecture(self, path):
        import gguf
        writer = gguf.GGUFWriter(self.tmp / "unknown.gguf", "mystery")
        writer.add_tensor("blk.0.attn_q.weight", np.ones((64, 64), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        run("compress", self.tmp / "unknown.gguf", "--bits", 4, "--calib", "none", "-e", 1, "-o", path)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
