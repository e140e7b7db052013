#!/usr/bin/env python3
"""Makes tests/fixtures/families_gguf: what llama.cpp's convert_hf_to_gguf.py makes of the tiny models in
tests/fixtures/families. Needs: pip install torch transformers; the folder vendor/llama.cpp of the source distribution
of llama-cpp-python (pip download --no-deps --no-binary :all: llama-cpp-python; made with 0.3.36).

A fixture is two files. NAME.gguf is the converter's file without the tensors' data. NAME.json says what the data are:
for each tensor, in the file's order, from which tensor of the family's fixture it comes and in which form (or its
numbers, where the converter has computed them), the CRC-32 of all data, and the changes of config.json without which
the converter would lose a part of the model (doc/architecture.md, "Model sources").

Usage: make_gguf_fixtures.py LLAMA_CPP_FOLDER OUTPUT_FOLDER [--keep FOLDER] [family...]
--keep: leaves the Hugging Face folders and the whole GGUF files there
"""
import importlib
import json
import pathlib
import shutil
import sys
import tempfile
import zlib

import numpy
from safetensors.numpy import save_file

import make_family_fixtures as families

FULL, SLIDING = "full_attention", "sliding_attention"
# What the converter or llama.cpp has no place for is changed. llama_dynamic is missing: the converter writes nothing of
# this scaling.
CHANGES = {
    "llama": {},
    "llama_linear": {},
    "llama_yarn": {},
    "mistral": {"sliding_window": None},  # llama.cpp's architecture "llama" has no window
    "ministral3": {},
    "qwen2": {"use_sliding_window": False, "sliding_window": None, "layer_types": [FULL] * 4},  # no window either
    "qwen3": {},
    "gemma2": {"query_pre_attn_scalar": 16},  # llama.cpp takes the head's width
    "gemma3": {"query_pre_attn_scalar": 16, "layer_types": [SLIDING] * 4},  # every sixth layer is a full one
    "phi3": {},
    "phi4_mini": {},
    "smollm3": {"no_rope_layers": [1, 1, 1, 0]},  # every fourth layer is without positions
    "olmo2": {},
    "olmo3": {},
    "granite": {},
    "starcoder2": {"sliding_window": None},
    "gpt_neox": {"rotary_pct": 0.5},  # the older key, which the converter reads
    "gpt_neox_sequential": {"rotary_pct": 0.25},
    "gpt2": {"n_ctx": 64},
    "mixtral": {"sliding_window": None},
    "qwen2_moe": {},
    "qwen3_moe": {"mlp_only_layers": [], "num_hidden_layers": 1},  # no dense layers among the others
    "olmoe": {},
    "granite_moe": {},
    "granite_moe_shared": {},
    "gpt_oss": {"swiglu_limit": 7.0},  # in no key
}


def write_tokenizer(folder):
    """92 tokens of a byte, one of two, and three special ones: a byte-level tokenizer."""
    special = ["<pad>", "<s>", "</s>"]
    letters = ["\u0120", "\u010a"] + [chr(c) for c in range(ord("!"), ord("!") + 94)]
    vocab = {text: i + 3 for i, text in enumerate(letters[:92] + ["th"])}
    added = [dict(id=i, content=text, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
             for i, text in enumerate(special)]
    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    tokenizer = dict(version="1.0", truncation=None, padding=None, added_tokens=added, normalizer=None,
                     pre_tokenizer=byte_level, post_processor=None, decoder=byte_level,
                     model=dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None,
                                end_of_word_suffix=None, fuse_unk=False, byte_fallback=False, vocab=vocab,
                                merges=[["t", "h"]]))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(
        tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", eos_token="</s>", pad_token="<pad>")))


def write_folder(folder, fixture, changes):
    folder.mkdir(parents=True)
    config = {**fixture["config"], **changes}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    tensors = {t["name"]: families.numbers(t["name"], int(numpy.prod(t["shape"])), t["mean"],
                                           t["scale"]).reshape(t["shape"])
               for t in fixture["tensors"]
               if not any(f".layers.{layer}." in t["name"] for layer in range(config.get("num_hidden_layers", 99), 99))}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    write_tokenizer(folder)
    return config, tensors


def vocabulary(model):
    """In place of the converter's function, which asks the tokenizer's class of each family."""
    tokenizer = json.loads((model.dir_model / "tokenizer.json").read_text())
    special = [token["content"] for token in tokenizer["added_tokens"]]
    vocabulary = list(tokenizer["model"]["vocab"])
    return special + vocabulary, [3] * len(special) + [1] * len(vocabulary), "gpt-2"


def convert(conversion, gguf, folder, out, architecture):
    base = importlib.import_module("conversion.base")
    base.TextModel.get_vocab_base = vocabulary
    # Read by a configuration's class of today, GPT-NeoX's loses the key that the converter asks for.
    base.ModelBase.load_hparams = staticmethod(lambda path,
                                               is_mistral_format: json.loads((path / "config.json").read_text()))
    kind = conversion.get_model_class(architecture)
    for part in kind.__mro__:  # each family looks for a vocabulary of its own kind
        if "set_vocab" in part.__dict__ and part is not object:
            part.set_vocab = base.TextModel._set_vocab_gpt2
    kind(folder, gguf.LlamaFileType.ALL_F32, out, eager=True, model_name="tiny").write()


def forms(data, heads, kv_heads):
    """(name, form of the data) for each form that converters bring tensors into."""
    yield "plain", data
    yield "plus_one", data + numpy.float32(1)
    if data.ndim == 2:
        yield "transposed", data.T
    for count in {heads, kv_heads}:
        if data.shape[0] % (2 * count) == 0:
            halves = data.reshape(count, 2, data.shape[0] // count // 2, *data.shape[1:])
            yield f"rotary {data.shape[0] // count}", halves.swapaxes(1, 2).reshape(data.shape)
    if data.ndim > 1:  # of each expert, if there are some
        yield "first_rows", data[..., :data.shape[-2] // 2, :]
        yield "second_rows", data[..., data.shape[-2] // 2:, :]
        yield "even", data[..., ::2]
        yield "odd", data[..., 1::2]
    if data.ndim == 3:
        turned = data.swapaxes(1, 2)
        yield "turned", turned
        yield "turned_even", turned[:, ::2]
        yield "turned_odd", turned[:, 1::2]
    if data.shape[0] % (3 * heads) == 0:
        by_head = data.reshape(heads, 3, data.shape[0] // heads // 3, *data.shape[1:])
        yield f"by_head {heads}", by_head.swapaxes(0, 1).reshape(data.shape)


def origin(name, stored, tensors, config):
    heads = config.get("num_attention_heads", config.get("n_head"))
    kv_heads = config.get("num_key_value_heads") or heads
    for source, data in tensors.items():
        if ".experts.0." in source:
            pattern = source.replace(".experts.0.", ".experts.{}.")
            parts = [tensors[pattern.format(e)] for e in range(sum(pattern.format(e) in tensors for e in range(99)))]
            if numpy.array_equal(numpy.concatenate(parts).reshape(-1), stored):
                return f"{pattern} stack {len(parts)}"
        for form, changed in forms(data, heads, kv_heads):
            if changed.size == stored.size and numpy.array_equal(numpy.ascontiguousarray(changed).reshape(-1), stored):
                return f"{source} {form}"
    if stored.size > 64:
        sys.exit(f"{name}: no tensor of the model has these numbers")
    return [float(x) for x in stored]


def make(name, llama_cpp, out, keep):
    conversion, gguf = importlib.import_module("conversion"), importlib.import_module("gguf")
    fixture = json.loads((pathlib.Path(__file__).parent.parent / "fixtures" / "families" / f"{name}.json").read_text())
    with tempfile.TemporaryDirectory() as scratch:
        folder, whole = pathlib.Path(scratch) / name, pathlib.Path(scratch) / f"{name}.gguf"
        config, tensors = write_folder(folder, fixture, CHANGES[name])
        convert(conversion, gguf, folder, whole, config["architectures"][0])
        reader = gguf.GGUFReader(whole)
        origins = [origin(t.name, numpy.array(t.data).reshape(-1).view(numpy.float32), tensors, config)
                   for t in reader.tensors]
        data = whole.read_bytes()
        begin = reader.data_offset
        (out / f"{name}.gguf").write_bytes(data[:begin])
        (out / f"{name}.json").write_text(json.dumps(dict(
            changes=CHANGES[name], data_bytes=len(data) - begin, data_crc32=zlib.crc32(data[begin:]), tensors=origins),
            indent=0) + "\n")
        if keep:
            shutil.copytree(folder, keep / name, dirs_exist_ok=True)
            shutil.copy(whole, keep)
    print(name, len(reader.tensors), "tensors, header", begin, "bytes")


def main():
    arguments = sys.argv[1:]
    keep = None
    if "--keep" in arguments:
        at = arguments.index("--keep")
        keep = pathlib.Path(arguments[at + 1])
        keep.mkdir(parents=True, exist_ok=True)
        del arguments[at:at + 2]
    if len(arguments) < 2:
        sys.exit(__doc__)
    llama_cpp, out = arguments[0], pathlib.Path(arguments[1])
    sys.path[:0] = [llama_cpp, llama_cpp + "/gguf-py"]
    out.mkdir(parents=True, exist_ok=True)
    for name in arguments[2:] or CHANGES:
        make(name, llama_cpp, out, keep)


if __name__ == "__main__":
    main()
