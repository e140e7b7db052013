#!/usr/bin/env python3
"""Writes a model with random weights in the shape of Llama 3.2 1B or 3B or Llama 3.1 8B: what compression costs at size.

    make_llama.py OUTDIR --shape 1b [--layers N] [--vocab N] [--seed N]

Shapes are those of the models' config.json (meta-llama/Llama-3.2-1B, -3B, Llama-3.1-8B). Weights are bfloat16, normal
with the deviation that keeps activations of one size. Columns have unlike deviations, as real ones do. There is no
tokenizer: the model calibrates with tokens that it writes itself. One tensor is in memory at a time.
"""
import argparse
import json
import pathlib

import numpy as np

SHAPES = {
    "1b": dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
               num_key_value_heads=8, head_dim=64, tie_word_embeddings=True),
    "3b": dict(hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24,
               num_key_value_heads=8, head_dim=128, tie_word_embeddings=True),
    "8b": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
               num_key_value_heads=8, head_dim=128, tie_word_embeddings=False),
}


def tensors_of(c):
    """Names and shapes, in the file's order."""
    hidden, wide = c["hidden_size"], c["intermediate_size"]
    q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    yield "model.embed_tokens.weight", (c["vocab_size"], hidden)
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", (hidden,)
        for name, shape in (("q", (q, hidden)), ("k", (kv, hidden)), ("v", (kv, hidden)), ("o", (hidden, q))):
            yield f"{layer}self_attn.{name}_proj.weight", shape
        yield layer + "post_attention_layernorm.weight", (hidden,)
        for name, shape in (("gate", (wide, hidden)), ("up", (wide, hidden)), ("down", (hidden, wide))):
            yield f"{layer}mlp.{name}_proj.weight", shape
    yield "model.norm.weight", (hidden,)
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (c["vocab_size"], hidden)


def values(shape, rng):
    """bfloat16 as uint16."""
    if len(shape) == 1:
        w = np.ones(shape, np.float32)
    else:
        w = rng.standard_normal(shape, np.float32)
        w *= np.exp(0.3 * rng.standard_normal(shape[1], np.float32)) / np.sqrt(np.float32(shape[1]))
    return (w.view(np.uint32) >> 16).astype("<u2")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--shape", choices=sorted(SHAPES), required=True)
    parser.add_argument("--layers", type=int, help="fewer than the model has")
    parser.add_argument("--vocab", type=int, default=128256)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    config = dict(SHAPES[args.shape], architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=args.vocab,
                  hidden_act="silu", rms_norm_eps=1e-5, rope_theta=500000.0, max_position_embeddings=4096,
                  attention_bias=False, mlp_bias=False, bos_token_id=0, eos_token_id=1, torch_dtype="bfloat16")
    if args.layers:
        config["num_hidden_layers"] = args.layers
    header, offset = {}, 0
    for name, shape in tensors_of(config):
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "config.json").write_text(json.dumps(config, indent=1))
    rng = np.random.default_rng(args.seed)
    temporary = args.out / "model.safetensors.part"
    with open(temporary, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, shape in tensors_of(config):
            out.write(values(shape, rng).tobytes())
    temporary.rename(args.out / "model.safetensors")
    print(f"{args.out}: {offset // 2 / 1e9:.3f} G weights, {offset / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
