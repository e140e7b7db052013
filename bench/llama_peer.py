#!/usr/bin/env python3
"""llama.cpp's side of bench/peer.py: speed, memory and KL divergence of a GGUF file, as one line of JSON.

The wheel xllamacpp holds an extension module that exports llama.cpp's C interface; llama-cpp-py-sync holds its
declarations for cffi. peer.py says how to install them.
"""
import argparse
import importlib.util
import json
import os
import sys
import time

INSTALL = "python3 -m venv V && V/bin/pip install xllamacpp==2026.10.11549 llama-cpp-py-sync==0.11739 cffi numpy"
try:
    import numpy as np
    from llama_cpp_py_sync._cffi_bindings import ffi

    lib = ffi.dlopen(os.path.join(os.path.dirname(importlib.util.find_spec("xllamacpp").origin), "xllamacpp.abi3.so"))
except (ImportError, AttributeError, OSError) as error:
    sys.exit(f"llama.cpp's wheels do not load ({error}): {INSTALL}, then --python V/bin/python")
if lib.llama_context_default_params().n_ctx != 512 or lib.llama_context_default_params().n_batch != 2048:
    sys.exit(f"declarations and library do not fit each other: {INSTALL}")


@ffi.callback("void(enum ggml_log_level, const char *, void *)")
def log_errors(level, text, _user):
    if level == 4:
        sys.stderr.write(ffi.string(text).decode(errors="replace"))


class Model:
    def __init__(self, path, context, threads, batch=512):
        lib.llama_log_set(log_errors, ffi.NULL)
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        if self.model == ffi.NULL:
            sys.exit(f"llama.cpp cannot load {path}")
        p = lib.llama_context_default_params()
        p.n_ctx, p.n_batch, p.n_ubatch = context, max(batch, context), batch
        p.n_threads = p.n_threads_batch = threads
        self.context = lib.llama_init_from_model(self.model, p)
        if self.context == ffi.NULL:
            sys.exit("llama.cpp cannot make a context")
        self.vocab = lib.llama_model_get_vocab(self.model)
        self.size = lib.llama_vocab_n_tokens(self.vocab)

    def tokenize(self, text):
        raw = text.encode()
        ids = ffi.new("llama_token[]", len(raw) + 16)
        return list(ids[0 : lib.llama_tokenize(self.vocab, raw, len(raw), ids, len(raw) + 16, False, False)])

    def clear(self):
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)

    def eval(self, ids, position, wanted="last"):
        """Logits of the last or of all ids, [n][vocabulary], in llama.cpp's memory: valid until the next call."""
        batch = lib.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, position + i, 1, 0
            batch.logits[i] = wanted == "all" or i == len(ids) - 1
        status = lib.llama_decode(self.context, batch)
        lib.llama_batch_free(batch)
        if status != 0:
            sys.exit(f"llama_decode failed: {status}")
        at = range(len(ids)) if wanted == "all" else [len(ids) - 1]
        view = lambda i: np.frombuffer(ffi.buffer(lib.llama_get_logits_ith(self.context, i), 4 * self.size), np.float32)
        return [view(i) for i in at]


def log_softmax(logits):
    x = logits.astype(np.float64)
    x -= x.max()
    return x - np.log(np.exp(x).sum())


def peak_bytes():
    # Not getrusage: its peak begins with that of the process that started this one.
    with open("/proc/self/status", encoding="ascii") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM:"))


def speed(o):
    """The same steps as a process of `nwc-bench tokens`: two tokens and a first one drawn, then what is timed."""
    base = peak_bytes()  # the interpreter and its modules
    begin = time.perf_counter()
    m = Model(o.model, o.prompt + o.generate + 8, o.threads)
    ids = [(7 * i + 11) % (m.size - 300) + 200 for i in range(o.prompt)]
    m.eval(ids[:2], 0)
    int(m.eval(ids[2:3], 2)[-1].argmax())
    first = time.perf_counter() - begin
    m.clear()
    m.eval(ids[:32], 0)
    m.clear()
    begin = time.perf_counter()
    last = m.eval(ids, 0)
    prompt = time.perf_counter() - begin
    begin = time.perf_counter()
    for i in range(o.generate):
        last = m.eval([int(last[-1].argmax())], o.prompt + i)
    generation = time.perf_counter() - begin
    return {
        "first_token_seconds": first,
        "prompt": o.prompt / prompt,
        "generation": o.generate / generation,
        "peak_bytes": peak_bytes() - base,
    }


def divergence(o):
    """KL divergence of the reference's predictions from the model's, windows apart from each other, like nwc eval."""
    models = [Model(path, o.context + 1, o.threads) for path in (o.reference, o.model)]
    with open(o.text, encoding="utf-8") as file:
        ids = models[0].tokenize(file.read())
    front = [lib.llama_vocab_bos(models[0].vocab)] if lib.llama_vocab_get_add_bos(models[0].vocab) else []
    step, kld, nll = o.context - len(front), [], [0.0, 0.0]
    for at in range(0, len(ids) - 1, step):
        window = front + ids[at : at + step]
        begin = max(1, len(front))  # the first token that is predicted
        if len(window) <= begin or len(kld) >= o.tokens:
            break
        for m in models:
            m.clear()
        both = list(zip(*(m.eval(window, 0, "all") for m in models)))
        for i in range(begin, len(window)):
            p, q = (log_softmax(x) for x in both[i - 1])
            kld.append(float((np.exp(p) * (p - q)).sum()))
            for side, x in enumerate((p, q)):
                nll[side] -= x[window[i]]
            if len(kld) == o.tokens:
                break
    n = len(kld)
    return {
        "kld_mean": float(np.mean(kld)),
        "kld_se": float(np.std(kld, ddof=1) / n**0.5),
        "ppl": float(np.exp(nll[1] / n)),
        "ppl_reference": float(np.exp(nll[0] / n)),
        "tokens": n,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["speed", "kld"])
    parser.add_argument("model")
    parser.add_argument("--reference")
    parser.add_argument("--text")
    for name, value in ("threads", 1), ("prompt", 512), ("generate", 128), ("context", 512), ("tokens", 2048):
        parser.add_argument("--" + name, type=int, default=value)
    o = parser.parse_args()
    print(json.dumps(speed(o) if o.command == "speed" else divergence(o)))


main()
