#!/usr/bin/env python3
"""Makes tests/fixtures/families/*.json: for each family a tiny model of random weights, and the logits that
transformers computes with it. Needs: pip install torch transformers (made with torch 2.15, transformers 5.24).

A fixture holds the model's config.json, the names and shapes of its tensors, tokens, and the logits of some positions.
The weights follow from the tensors' names: number i of a tensor is mean + scale * (2 u - 1), u the upper 24 bits of
splitmix64(fnv1a(name) + i) / 2^24, so that the test makes them itself.

Usage: make_family_fixtures.py OUTPUT_FOLDER [family...]
"""
import json
import math
import pathlib
import sys
import tempfile

import numpy
import safetensors.torch
import torch
import transformers

VOCAB, HIDDEN, INNER, LAYERS, HEADS, KV = 96, 32, 48, 4, 4, 2
TOKENS = 40
COMMON = dict(vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=LAYERS,
              num_attention_heads=HEADS, num_key_value_heads=KV, max_position_embeddings=64, bos_token_id=1,
              eos_token_id=2, pad_token_id=0)
ALTERNATING = ["sliding_attention", "full_attention"] * (LAYERS // 2)
LONG = [1.0 + 0.25 * i for i in range(3)]
FAMILIES = {
    "llama": ("LlamaConfig", dict(rope_scaling=dict(rope_type="llama3", rope_theta=10000.0, factor=4.0,
                                                    low_freq_factor=1.0, high_freq_factor=4.0,
                                                    original_max_position_embeddings=16))),
    "llama_linear": ("LlamaConfig", dict(tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
                                         rope_scaling=dict(
        rope_type="linear", rope_theta=10000.0, factor=4.0))),
    "llama_dynamic": ("LlamaConfig", dict(max_position_embeddings=16, rope_scaling=dict(
        rope_type="dynamic", rope_theta=10000.0, factor=4.0))),
    "llama_yarn": ("LlamaConfig", dict(rope_scaling=dict(rope_type="yarn", rope_theta=10000.0, factor=4.0,
                                                         original_max_position_embeddings=16))),
    "mistral": ("MistralConfig", dict(sliding_window=8, head_dim=16)),
    "ministral3": ("Ministral3Config", dict(head_dim=16, rope_parameters=dict(
        rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16, beta_fast=32.0,
        beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.1))),
    "qwen2": ("Qwen2Config", dict(use_sliding_window=True, sliding_window=8, max_window_layers=2)),
    "qwen3": ("Qwen3Config", dict(head_dim=16, tie_word_embeddings=True)),
    "gemma2": ("Gemma2Config", dict(head_dim=16, query_pre_attn_scalar=24, sliding_window=8, layer_types=ALTERNATING)),
    "gemma3": ("Gemma3TextConfig", dict(head_dim=16, query_pre_attn_scalar=24, sliding_window=8, layer_types=[
        "sliding_attention", "sliding_attention", "full_attention", "sliding_attention"], rope_parameters={
            "sliding_attention": dict(rope_type="default", rope_theta=1000.0),
            "full_attention": dict(rope_type="linear", rope_theta=20000.0, factor=4.0)})),
    "phi3": ("Phi3Config", dict(num_key_value_heads=HEADS, sliding_window=12)),
    "phi4_mini": ("Phi3Config", dict(tie_word_embeddings=True, original_max_position_embeddings=16,
                                     rope_parameters=dict(
        rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.75, short_factor=LONG,
        long_factor=[2 * x for x in LONG]))),
    "smollm3": ("SmolLM3Config", dict(no_rope_layers=[1, 0, 1, 0])),
    "mixtral": ("MixtralConfig", dict(num_local_experts=5, num_experts_per_tok=2, sliding_window=12)),
    "qwen2_moe": ("Qwen2MoeConfig", dict(num_experts=6, num_experts_per_tok=3, moe_intermediate_size=24,
                                         shared_expert_intermediate_size=40)),
    "qwen3_moe": ("Qwen3MoeConfig", dict(head_dim=16, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24,
                                         norm_topk_prob=True, mlp_only_layers=[1])),
    "olmoe": ("OlmoeConfig", dict(num_key_value_heads=4, num_experts=8, num_experts_per_tok=4)),
    "granite_moe": ("GraniteMoeConfig", dict(num_local_experts=5, num_experts_per_tok=2, residual_multiplier=0.4)),
    "granite_moe_shared": ("GraniteMoeSharedConfig", dict(num_local_experts=5, num_experts_per_tok=2,
                                                          shared_intermediate_size=40)),
    "gpt_oss": ("GptOssConfig", dict(intermediate_size=64, num_local_experts=5, num_experts_per_tok=2, head_dim=16, sliding_window=8,
                                     swiglu_limit=0.75, rope_parameters=dict(
        rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16, beta_fast=32.0,
        beta_slow=1.0, truncate=False))),
    "olmo2": ("Olmo2Config", dict()),
    "olmo3": ("Olmo3Config", dict(sliding_window=8, layer_types=["sliding_attention"] * 3 + ["full_attention"], rope_scaling=dict(
        rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16))),
    "granite": ("GraniteConfig", dict(embedding_multiplier=6.0, logits_scaling=4.0, residual_multiplier=0.4,
                                      attention_multiplier=0.2)),
    "starcoder2": ("Starcoder2Config", dict(sliding_window=12)),
    "gpt_neox": ("GPTNeoXConfig", dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0,
                                                            partial_rotary_factor=0.5))),
    "gpt_neox_sequential": ("GPTNeoXConfig", dict(use_parallel_residual=False)),
    "gpt2": ("GPT2Config", dict(vocab_size=VOCAB, n_embd=HIDDEN, n_layer=LAYERS, n_head=HEADS, n_positions=64,
                                n_inner=4 * HIDDEN, bos_token_id=1, eos_token_id=2)),
}


def fnv1a(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def numbers(name, count, mean, scale):
    with numpy.errstate(over="ignore"):
        z = numpy.uint64(fnv1a(name)) + numpy.arange(count, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z = z ^ (z >> numpy.uint64(31))
    u = (z >> numpy.uint64(40)).astype(numpy.float32) / numpy.float32(2**24)
    return numpy.float32(mean) + numpy.float32(scale) * (numpy.float32(2) * u - numpy.float32(1))


def distribution(name, shape, one_plus):
    if len(shape) == 1:
        return (0.0 if one_plus or name.endswith("bias") else 1.0), 0.25
    return 0.0, round(3.0 / math.sqrt(min(shape[-1], HIDDEN)), 4)


def stored_tensors(model):
    """The tensors as checkpoints have them, which is not always as the class holds them (experts)."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return safetensors.torch.load_file(folder + "/model.safetensors")


def reloaded(model, tensors):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        safetensors.torch.save_file(tensors, folder + "/model.safetensors", metadata={"format": "pt"})
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                                 attn_implementation="eager").eval()


def make(name, config_class, options):
    common = dict(COMMON)
    if name.startswith("gpt_neox"):
        del common["num_key_value_heads"]
    config = getattr(transformers, config_class)(**(options if name == "gpt2" else {**common, **options}))
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    one_plus = name.startswith("gemma")
    tensors = []
    kept = {key: value for key, value in stored_tensors(model).items()
            if not (config.tie_word_embeddings and key in ("lm_head.weight", "embed_out.weight"))
            and not key.endswith((".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq"))}
    for key, value in sorted(kept.items()):
        mean, scale = distribution(key, value.shape, one_plus)
        tensors.append(dict(name=key, shape=list(value.shape), mean=mean, scale=scale))
        kept[key] = torch.from_numpy(numbers(key, value.numel(), mean, scale)).reshape(value.shape)
    model = reloaded(model, kept)
    tokens = [(7 * i * i + 3 * i + 5) % VOCAB for i in range(TOKENS)]
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0].float().numpy()
    positions = [0, 1, 5, 7, 8, 9, 15, 16, 17, 31, TOKENS - 1]
    settings = json.loads(config.to_json_string(use_diff=False))
    settings["architectures"] = [type(model).__name__]
    settings.pop("_attn_implementation", None)
    return dict(config=settings, tensors=tensors, tokens=tokens, positions=positions,
                deviation=float(logits.std()),
                logits=[round(float(x), 5) for x in logits[positions].reshape(-1)])


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or FAMILIES:
        fixture = make(name, *FAMILIES[name])
        (out / f"{name}.json").write_text(json.dumps(fixture) + "\n")
        print(name, len(fixture["tensors"]), "tensors, logits' deviation", round(fixture["deviation"], 3))


if __name__ == "__main__":
    main()
