"""The package without torch: files, tensors, errors, compression, what the engine runs."""
import gc
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import unittest
import warnings

import numpy

import nwc
from nwc import _checkpoint, _dtypes, _tool
from support import MODEL, ROOT, Case, compress, decompress, write_model

UP = "model.layers.0.mlp.up_proj.weight"


def bits_of(array):
    return array.view(numpy.uint16) if array.dtype.itemsize == 2 else array


class Files(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.make_file()

    def test_mapping(self):
        with nwc.open(self.file) as model:
            self.assertEqual(len(model), 56)
            self.assertEqual(next(iter(model)), "model.embed_tokens.weight")
            self.assertIn(UP, model)
            self.assertNotIn("x", model)
            self.assertEqual(list(model.keys()), [tensor.name for tensor in model.values()])
            self.assertIsNone(model.get("x"))
            tensor = model[UP]
            self.assertEqual((tensor.shape, tensor.ndim, tensor.size, tensor.dtype), ((512, 192), 2, 512 * 192, "bf16"))
            self.assertEqual(tensor.storage, "coded")
            self.assertAlmostEqual(tensor.bits_per_weight, 8 * tensor.stored_bytes / tensor.size)
            info = model.info
            self.assertEqual(info["file_bytes"], self.file.stat().st_size)
            self.assertEqual(info["weights"], sum(t.size for t in model.values()))
            self.assertEqual(model.properties["hidden_size"], 192)
            self.assertEqual(model.provenance["source"], "instruct")
            self.assertEqual(model.quality_card, {})
            self.assertEqual(model.encoder["kind"], "none")

    def test_weights_are_those_that_decompress_writes(self):
        folder = decompress(self.file, self.tmp / "folder")
        stored = (folder / "model.safetensors").read_bytes()
        with nwc.open(self.file) as model, nwc.open(compress_raw(folder, self.tmp / "again.nwc")) as raw:
            self.assertGreater(len(stored), 2 * model.info["weights"])
            for name, tensor in model.items():
                numpy.testing.assert_array_equal(bits_of(tensor.to_numpy("bf16")), bits_of(raw[name].to_numpy("own")), name)

    def test_types(self):
        tensor = nwc.open(self.file)[UP]
        full = tensor.to_numpy()
        self.assertEqual(full.dtype, numpy.float32)
        numpy.testing.assert_array_equal(tensor.to_numpy(numpy.float16), full.astype(numpy.float16))
        self.assertEqual(tensor.to_numpy("bf16").dtype, _dtypes.numpy_type("bf16"))
        wide = (bits_of(tensor.to_numpy("bf16")).astype(numpy.uint32) << 16).view(numpy.float32)
        numpy.testing.assert_allclose(wide, full, rtol=2**-8)
        numpy.testing.assert_array_equal(numpy.asarray(tensor), full)
        self.assertEqual(numpy.asarray(tensor, dtype=numpy.float64).dtype, numpy.float64)

    def test_slices(self):
        tensor = nwc.open(self.file)[UP]
        full = tensor.to_numpy()
        for key in (3, -1, slice(2, 9), slice(-3, None), slice(None, None, 5), slice(9, 2, -2), slice(7, 3), (4, 5), (slice(1, 4), 2),
                    (slice(None), slice(0, 8, 3)), Ellipsis, (Ellipsis, 0), slice(500, 9999), slice(None, None, -1)):
            numpy.testing.assert_array_equal(tensor[key], full[key], str(key))
        numpy.testing.assert_array_equal(tensor.rows(100, 228), full[100:228])
        self.assertEqual(tensor.rows(5, 5).shape, (0, 192))
        self.assertEqual(len(list(tensor)), 512)
        for key in (512, -513):
            with self.assertRaises(IndexError):
                tensor[key]

    def test_decodes_into_the_callers_memory(self):
        tensor = nwc.open(self.file)[UP]
        out = numpy.full((512, 192), 7, numpy.float16)
        self.assertIs(tensor.to_numpy("f16", out=out), out)
        numpy.testing.assert_array_equal(out, tensor.to_numpy("f16"))
        for wrong in (numpy.empty((512, 192), numpy.float32), numpy.empty((192, 512), numpy.float16), [1, 2],
                      numpy.empty((192, 512), numpy.float16).T, numpy.empty((512, 384), numpy.float16)[:, ::2]):
            with self.assertRaises(nwc.InvalidArgument):
                tensor.to_numpy("f16", out=wrong)
        out.flags.writeable = False
        with self.assertRaises(nwc.InvalidArgument):
            tensor.to_numpy("f16", out=out)

    def test_progress_and_cancel(self):
        tensor = nwc.open(self.file)[UP]
        steps = []
        tensor.to_numpy(progress=lambda done, total: steps.append((done, total)))
        self.assertEqual(steps[-1][0], steps[-1][1])
        with self.assertRaises(nwc.Cancelled) as caught:
            tensor.to_numpy(progress=lambda done, total: False)
        self.assertEqual(caught.exception.status, 43)
        with self.assertRaises(ZeroDivisionError):
            tensor.to_numpy(progress=lambda done, total: 1 / 0)
        tensor.to_numpy()  # is of use as before

    def test_from_memory(self):
        data = self.file.read_bytes()
        with nwc.open(self.file) as model:
            expected = model[UP].to_numpy()
        for source in (data, bytearray(data), memoryview(data)):
            model = nwc.open(source)
            del source
            gc.collect()
            numpy.testing.assert_array_equal(model[UP].to_numpy(), expected)
        held = bytearray(data)
        model = nwc.open(held)
        with self.assertRaises(BufferError):
            held.clear()
        model.close()
        del model
        held.clear()
        with self.assertRaises(nwc.InvalidArgument):
            nwc.open(memoryview(data)[::2])

    def test_closing(self):
        model = nwc.open(self.file)
        tensor = model[UP]
        array = tensor.to_numpy()
        total = float(array.sum())
        session = model.session(backend="cpu", context=64)
        model.close()
        model.close()
        gc.collect()
        self.assertEqual(float(array.sum()), total)
        self.assertEqual(session.logits([1, 2]).shape, (2, 1024))
        session.close()
        for use in (tensor.to_numpy, lambda: model[UP], lambda: model.info, lambda: list(model), lambda: session.logits([1]),
                    lambda: model.generate("a"), lambda: model.tokenize("a"), model.__enter__):
            with self.assertRaises(nwc.Closed):
                use()

    def test_threads(self):
        model = nwc.open(self.file)
        names = [name for name in model if name.endswith("proj.weight")]
        expected = {name: model[name].to_numpy() for name in names}
        wrong = []

        def work(turn):
            for name in names[turn::2] + names[:turn]:
                if not numpy.array_equal(model[name].to_numpy(), expected[name]):
                    wrong.append(name)

        workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.assertEqual(wrong, [])

    def test_other_threads_run_while_one_decodes(self):
        model = nwc.open(self.file, threads=1)
        tensor = model["model.embed_tokens.weight"]
        stop = threading.Event()

        def work():
            while not stop.is_set():
                tensor.to_numpy()

        worker = threading.Thread(target=work)
        worker.start()
        counted = sum(1 for _ in range(200000))
        stop.set()
        worker.join()
        self.assertEqual(counted, 200000)

    def test_errors_of_files(self):
        data = self.file.read_bytes()
        changed = bytearray(data)
        changed[len(data) // 2] ^= 1
        (self.tmp / "changed.nwc").write_bytes(changed)
        (self.tmp / "short.nwc").write_bytes(data[:5000])
        for source, kind in ((self.tmp / "none.nwc", nwc.InputOutputError), (self.tmp, nwc.Error), (b"", nwc.Truncated),
                             (b"PK" + bytes(100), nwc.Unrecognized), (self.tmp / "short.nwc", nwc.Truncated),
                             (MODEL / "model.safetensors", nwc.Unrecognized), ("a\0b", nwc.InvalidArgument)):
            with self.assertRaises(kind) as caught:
                nwc.open(source)
            self.assertIsInstance(caught.exception, nwc.Error)
            self.assertGreater(len(str(caught.exception)), 5)
        with nwc.open(self.tmp / "changed.nwc") as model, self.assertRaises(nwc.InvalidFile):
            for tensor in model.values():
                tensor.to_numpy()
        with self.assertRaises(TypeError):
            nwc.open(5.0)
        with self.assertRaises(OSError):  # what Python's own errors mean
            nwc.open(self.tmp / "none.nwc")
        for size in range(0, 5000, 371):
            with self.assertRaises(nwc.Error):
                nwc.open(data[:size])

    def test_paths_of_any_bytes(self):
        name = os.fsdecode(os.fsencode(self.tmp) + b"/\xff\xfe.nwc")
        with self.assertRaises(nwc.InputOutputError) as caught:
            nwc.open(name)
        str(caught.exception).encode("utf-8")  # the text is one
        shutil.copyfile(self.file, name)
        with nwc.open(pathlib.Path(name)) as model:
            self.assertEqual(len(model), 56)

    def test_errors_of_arguments(self):
        model = nwc.open(self.file)
        tensor = model[UP]
        for call, kind in ((lambda: model["x"], nwc.NotFound), (lambda: model["x"], KeyError), (lambda: model[5], nwc.NotFound),
                           (lambda: tensor.to_numpy("i8"), nwc.InvalidArgument), (lambda: tensor.to_numpy(None), nwc.InvalidArgument),
                           (lambda: tensor.rows(0, 513), nwc.InvalidArgument), (lambda: tensor.rows(-1, 2), nwc.InvalidArgument),
                           (lambda: tensor.rows(3, 2), ValueError), (lambda: nwc.open(self.file, backend="gpu"), nwc.InvalidArgument),
                           (lambda: nwc.open(self.file, threads=999), nwc.InvalidArgument),
                           (lambda: model.session(mode="fast"), nwc.InvalidArgument), (lambda: model.session(context=-1), nwc.InvalidArgument),
                           (lambda: model.session(backend="cpu", memory=1000), nwc.BudgetExceeded),
                           (lambda: numpy.array(tensor, copy=False), ValueError)):
            with self.assertRaises(kind):
                call()
        with self.assertRaises(nwc.NotFound) as caught:
            model["x"]
        self.assertEqual(str(caught.exception), "there is no tensor 'x'")

    def test_every_status_has_a_class(self):
        for status, kind in nwc.errors.BY_STATUS.items():
            error = nwc.errors.make(status, "text")
            self.assertIs(type(error), kind)
            self.assertEqual((error.status, str(error)), (status, "text"))
            self.assertNotEqual(nwc._nwc.status_name(status), "unknown status")
        self.assertEqual([nwc._nwc.dtype_name(i).lower() for i in range(len(_dtypes.NAMES))],
                         [name for name in _dtypes.NAMES])


def compress_raw(folder, out):
    """A file whose tensors are all stored as they are."""
    compress(folder, out, 4, min_elements=2**40)
    return out


class Types(Case):
    def test_every_element_type_of_numpy_bit_for_bit(self):
        random = numpy.random.default_rng(1)
        arrays = {name: random.integers(0, 100, (3, 5)).astype(name)
                  for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool", "float16", "float32",
                               "float64", "complex64")}
        arrays["scalar"] = numpy.float32(7).reshape(())
        arrays["empty"] = numpy.empty((0, 4), numpy.float32)
        arrays["cube"] = random.standard_normal((4, 3, 2)).astype(numpy.float32)
        arrays["big"] = random.standard_normal((64, 64)).astype(">f4")
        compress(arrays, self.tmp / "types.nwc", 4)
        with nwc.open(self.tmp / "types.nwc") as model:
            self.assertEqual(set(model), set(arrays))
            for name, array in arrays.items():
                tensor = model[name]
                self.assertEqual(tensor.shape, array.shape, name)
                if tensor.storage != "coded":
                    numpy.testing.assert_array_equal(tensor.to_numpy("own"), array, name)
            self.assertEqual(model["big"].storage, "coded")
            self.assertLess(abs(model["big"].to_numpy() - arrays["big"]).mean(), 0.1)
            numpy.testing.assert_array_equal(model["cube"][1:3, :, 0], arrays["cube"][1:3, :, 0])
            self.assertEqual(model["scalar"][()], 7)
            with self.assertRaises(TypeError):
                len(model["scalar"])
            with self.assertRaises(nwc.InvalidArgument):
                model["scalar"].rows(0, 1)
            with self.assertRaises(nwc.Unsupported):
                model["int8"].to_numpy()
            with self.assertRaises(nwc.Unsupported):
                model.generate("a")


class Checkpoints(Case):
    def test_names_and_shapes_are_those_that_decompress_writes(self):
        for family in ("gpt2", "gpt_neox", "granite_moe", "gpt_oss", "llama"):
            with self.subTest(family):
                write_model(self.tmp / family, f"families/{family}")
                compress(self.tmp / family, self.tmp / f"{family}.nwc", 6, min_elements=256, effort=1)
                folder = decompress(self.tmp / f"{family}.nwc", self.tmp / f"{family}-plain")
                data = (folder / "model.safetensors").read_bytes()
                header = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])
                header.pop("__metadata__")
                with nwc.open(self.tmp / f"{family}.nwc") as model:
                    made = {name: list(tensor.shape) for name, tensor in _checkpoint.tensors_of(model).items()}
                self.assertEqual(made, {name: tensor["shape"] for name, tensor in header.items()})


class Compress(Case):
    def test_progress_report_and_warnings(self):
        steps = []
        write_model(self.tmp / "llama", "families/llama")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            report = nwc.compress(self.tmp / "llama", self.tmp / "a.nwc", 5, calib="none", min_elements=256,
                                  progress=lambda stage, fraction: steps.append(fraction))
        self.assertIn("tokenizer", " ".join(str(warning.message) for warning in said))
        self.assertEqual(steps, sorted(steps))
        self.assertEqual(steps[-1], 1)
        self.assertEqual(report["file_bytes"], (self.tmp / "a.nwc").stat().st_size)

    def test_stops_and_leaves_nothing(self):
        class Stop(Exception):
            pass

        def stop(stage, fraction):
            raise Stop

        out = self.tmp / "stopped" / "a.nwc"
        out.parent.mkdir()
        for progress, kind in ((lambda stage, fraction: False, nwc.Cancelled), (stop, Stop)):
            with self.assertRaises(kind):
                nwc.compress(MODEL, out, 4, calib="none", progress=progress)
            self.assertEqual(list(out.parent.iterdir()), [])

    def test_errors(self):
        for call, kind in ((lambda: nwc.compress(self.tmp / "none", self.tmp / "a.nwc"), nwc.InputOutputError),
                           (lambda: nwc.compress(MODEL, self.tmp / "a.nwc", 99), nwc.InvalidArgument),
                           (lambda: nwc.compress(MODEL, self.tmp / "a.bin"), nwc.InvalidArgument),
                           (lambda: nwc.compress(MODEL, self.tmp / "none/a.nwc", calib="none"), nwc.InvalidArgument),
                           (lambda: nwc.compress(MODEL, self.tmp / "a.nwc", no_such_option=1), nwc.InvalidArgument),
                           (lambda: nwc.compress(5, self.tmp / "a.nwc"), nwc.InvalidArgument),
                           (lambda: nwc.compress({"a": numpy.array(["text"])}, self.tmp / "a.nwc"), nwc.InvalidArgument),
                           (lambda: nwc.compress({"a": [1, 2]}, self.tmp / "a.nwc"), nwc.InvalidArgument),
                           (lambda: nwc.compress("a\0b", self.tmp / "a.nwc"), nwc.InvalidArgument),
                           (lambda: nwc.compress(ROOT / "README.md", self.tmp / "a.nwc"), nwc.Error)):
            with self.assertRaises(kind):
                call()
        self.assertFalse((self.tmp / "a.nwc").exists())


class Engine(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.make_file()
        cls.model = nwc.open(cls.file)

    def test_generates_what_the_command_generates(self):
        told = subprocess.run([_tool.path(), "run", self.file, "-p", "Once upon a time", "-n", "24", "--temperature", "0",
                               "--backend", "cpu", "-q"], capture_output=True, text=True)
        pieces = []
        written = self.model.generate("Once upon a time", max_tokens=24, on_token=lambda token, text: pieces.append(text))
        self.assertIn(written.text.strip(), told.stdout)
        self.assertEqual("".join(pieces), written.text)
        self.assertEqual((len(written.tokens), written.stop_reason), (24, "max_tokens"))
        self.assertEqual(self.model.generate("Once upon a time", max_tokens=24), written)
        self.assertEqual(self.model.detokenize(written.tokens), written.text)

    def test_stops(self):
        written = self.model.generate("Once upon a time", max_tokens=24)
        stopped = self.model.generate("Once upon a time", max_tokens=24, on_token=lambda token, text: False)
        self.assertEqual((stopped.tokens, stopped.stop_reason), (written.tokens[:1], "callback"))
        word = written.text.split()[2]
        cut = self.model.generate("Once upon a time", max_tokens=24, stop=[word])
        self.assertEqual((cut.text, cut.stop_reason), (written.text[:written.text.index(word)], "stop"))
        with self.assertRaises(ZeroDivisionError):
            self.model.generate("Once", on_token=lambda token, text: 1 / 0)

    def test_logits(self):
        tokens = self.model.tokenize("Once upon a time")
        logits = self.model.logits(tokens)
        self.assertEqual((logits.shape, logits.dtype), ((len(tokens), 1024), numpy.float32))
        self.assertEqual(int(logits[-1].argmax()), self.model.generate(tokens, max_tokens=1).tokens[0])
        with self.model.session(backend="cpu", context=64, weights="f16", mode="resident") as session:
            session.logits(tokens[:2])
            self.assertEqual(session.position, 2)
            last = session.logits(tokens[2:], last=True)
            numpy.testing.assert_allclose(last, logits[-1], atol=0.1)
            session.truncate(1)
            self.assertEqual((session.position, session.plan["mode"], session.plan["weights"]), (1, "resident", "f16"))
            for call, kind in ((lambda: session.logits([99999]), nwc.InvalidArgument), (lambda: session.logits([1] * 65), nwc.LimitExceeded),
                               (lambda: session.logits([-1]), nwc.InvalidArgument), (lambda: session.logits([]), nwc.InvalidArgument),
                               (lambda: session.truncate(9), nwc.InvalidArgument), (lambda: session.embed("a"), nwc.Unsupported),
                               (lambda: session.generate("a", max_tokens=-1), nwc.InvalidArgument)):
                with self.assertRaises(kind):
                    call()

    def test_chat(self):
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
        self.assertEqual(self.model.format_chat(messages), "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho?"
                         "<|im_end|>\n<|im_start|>assistant\n")
        self.assertGreater(len(self.model.chat(messages, max_tokens=5).tokens), 0)
        self.assertGreater(len(self.model.chat("Who?", max_tokens=5).tokens), 0)
        for wrong in ([{"role": "robot", "content": "x"}], [{"role": "user"}], [{"role": "assistant", "content": "x"}]):
            with self.assertRaises(nwc.InvalidArgument):
                self.model.chat(wrong)

    def test_embeddings(self):
        sys.path.insert(0, str(ROOT / "tests/cli"))
        from test_cli_embed import vocabulary
        folder = self.tmp / "bert"
        write_model(folder, "encoders/bert_mean")
        (folder / "tokenizer.json").write_text(json.dumps(vocabulary()))
        compress(folder, self.tmp / "bert.nwc", 8)
        with nwc.open(self.tmp / "bert.nwc") as model:
            self.assertEqual(model.encoder["kind"], "text")
            both = model.embed(["a cat sat", "a dog"])
            self.assertEqual(both.shape, (2, 32))
            numpy.testing.assert_array_equal(model.embed("a dog"), both[1])
            told = json.loads(subprocess.run([_tool.path(), "embed", self.tmp / "bert.nwc", "--text", "a cat sat", "--json"],
                                             capture_output=True, text=True).stdout)
            numpy.testing.assert_allclose(told["embeddings"][0]["embedding"], both[0], rtol=1e-5, atol=1e-6)
            with self.assertRaises(nwc.LimitExceeded):
                model.embed("a cat " * 100)
            with self.assertRaises(nwc.Unsupported):
                model.embed_image(numpy.zeros((3, 24, 24)))
            with self.assertRaises(nwc.Unsupported):
                model.generate("a")

    def test_embedding_of_an_image(self):
        write_model(self.tmp / "vit", "encoders/vit")
        compress(self.tmp / "vit", self.tmp / "vit.nwc", 8)
        with nwc.open(self.tmp / "vit.nwc") as model:
            self.assertEqual(model.embed_image(numpy.zeros((3, 24, 24))).shape, (32,))
            for wrong in (numpy.zeros((3, 24, 25)), numpy.full((3, 24, 24), numpy.nan)):
                with self.assertRaises(nwc.InvalidArgument):
                    model.embed_image(wrong)


class Installation(Case):
    """A copy of the package with parts missing."""

    def check(self, missing, code, *expected):
        package = self.tmp / missing.replace("/", "_") / "nwc"
        shutil.copytree(pathlib.Path(nwc.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
        found = list(package.glob(missing))
        self.assertEqual(len(found), 1)
        found[0].unlink()
        done = subprocess.run([sys.executable, "-c", code], cwd=package.parent, capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(package.parent)})
        for text in expected:
            self.assertIn(text, done.stderr)
        self.assertEqual(done.returncode, 1)

    def test_without_the_library(self):
        self.check("install/lib/libnwc.so*", "import nwc", "MissingLibrary", "libnwc.so", "install the wheel again")

    def test_without_the_extension(self):
        self.check("_nwc.*.so", "import nwc", "MissingLibrary", "install the wheel again")

    def test_without_the_command(self):
        self.check("install/bin/nwc", "import nwc; nwc.compress('a', 'b.nwc')", "MissingLibrary", "bin/nwc is missing")

    def test_command(self):
        done = subprocess.run([pathlib.Path(sys.executable).parent / "nwc", "--version"], capture_output=True, text=True)
        self.assertEqual(done.stdout, f"nwc {nwc.__version__}\n")


if __name__ == "__main__":
    unittest.main()
