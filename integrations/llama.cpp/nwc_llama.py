#!/usr/bin/env python3
"""A .nwc file in a prebuilt llama.cpp of PyPI, in a few lines: loads it and writes a text.

setup: integrations/llama.cpp/setup_peer.sh; usage: PEER/venv/bin/python nwc_llama.py libnwc_llama.so MODEL.nwc PROMPT

The extension module of xllamacpp has llama.cpp's C interface; llama-cpp-py-sync has declarations of it for cffi.
"""
import importlib.util
import pathlib
import sys

from llama_cpp_py_sync._cffi_bindings import ffi

ffi.cdef("""
typedef struct { uint32_t struct_size; const char *type; const char *library; uint32_t threads; } nwc_llama_options;
void nwc_llama_options_init(nwc_llama_options *options);
struct llama_model *nwc_llama_load(const char *path, const nwc_llama_options *options, const struct llama_model_params *p);
const char *nwc_llama_error(void);
const char *nwc_llama_notes(void);
const char *nwc_llama_version(void);
""")
LLAMA_PATH = str(pathlib.Path(importlib.util.find_spec("xllamacpp").origin).parent / "xllamacpp.abi3.so")
llama = ffi.dlopen(LLAMA_PATH)


@ffi.callback("void(enum ggml_log_level, const char *, void *)")
def silent(_level, _text, _user):
    pass


llama.llama_log_set(silent, ffi.NULL)
llama.llama_backend_init()


class NwcError(Exception):
    pass


def load(nwc, path, kind="f16", threads=0, params=None, library=LLAMA_PATH):
    """A llama_model of the .nwc file. nwc: ffi.dlopen("libnwc_llama.so"); params: llama_model_params or None."""
    strings = [ffi.new("char[]", text.encode()) for text in (kind, library)]
    options = ffi.new("nwc_llama_options *")
    nwc.nwc_llama_options_init(options)
    options.type, options.library, options.threads = strings[0], strings[1], threads
    model = nwc.nwc_llama_load(str(path).encode(), options, ffi.NULL if params is None else params)
    if model == ffi.NULL:
        raise NwcError(ffi.string(nwc.nwc_llama_error()).decode(errors="replace"))
    return model


def make_context(model, size, threads=2):
    params = llama.llama_context_default_params()
    params.n_ctx = params.n_batch = size
    params.n_threads = params.n_threads_batch = threads
    return llama.llama_init_from_model(model, params)


def tokenize(model, text):
    data = text.encode()
    tokens = ffi.new("llama_token[]", len(data) + 2)
    count = llama.llama_tokenize(llama.llama_model_get_vocab(model), data, len(data), tokens, len(tokens), True, True)
    return list(tokens[0:count])


def write(model, context, prompt, count):
    """The greedy continuation, as bytes."""
    vocab = llama.llama_model_get_vocab(model)
    greedy = llama.llama_sampler_init_greedy()
    feed, text, piece = tokenize(model, prompt), b"", ffi.new("char[]", 256)
    for _ in range(count):
        tokens = ffi.new("llama_token[]", feed)
        if llama.llama_decode(context, llama.llama_batch_get_one(tokens, len(feed))) != 0:
            raise NwcError("llama_decode has failed")
        token = llama.llama_sampler_sample(greedy, context, -1)
        if llama.llama_vocab_is_eog(vocab, token):
            break
        size = llama.llama_token_to_piece(vocab, token, piece, len(piece), 0, True)
        text += bytes(ffi.buffer(piece, max(0, size)))
        feed = [token]
    llama.llama_sampler_free(greedy)
    return text


if __name__ == "__main__":
    library, path, prompt = sys.argv[1:]
    model = load(ffi.dlopen(library), path)
    print(write(model, make_context(model, 512), prompt, 64).decode(errors="replace"))
