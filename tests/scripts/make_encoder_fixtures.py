#!/usr/bin/env python3
"""Makes tests/fixtures/encoders/*.json: for each family of encoders a tiny model of random weights, and the hidden states
and the embedding that transformers computes with it. Needs: pip install torch transformers (made with torch 2.15,
transformers 5.24).

Weights and pixels follow from names, as make_family_fixtures.py says.

Usage: make_encoder_fixtures.py OUTPUT_FOLDER [family...]
"""
import json
import math
import pathlib
import sys
import tempfile

import safetensors.torch
import torch
import transformers

from make_family_fixtures import numbers

HIDDEN, INNER, LAYERS, HEADS = 32, 48, 3, 4
COMMON = dict(hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=HEADS)
TEXT = dict(COMMON, vocab_size=96, max_position_embeddings=40, bos_token_id=1, eos_token_id=95, pad_token_id=0)
IMAGE = dict(COMMON, image_size=24, patch_size=4)
# class, its configuration, options, side of the image that it is given where that is not the configuration's
FAMILIES = {
    "bert": ("BertModel", "BertConfig", TEXT, None),
    "bert_mean": ("BertModel", "BertConfig", TEXT, None),
    "vit": ("ViTModel", "ViTConfig", IMAGE, None),
    "vit_classifier": ("ViTForImageClassification", "ViTConfig", IMAGE, None),
    "dinov2": ("Dinov2Model", "Dinov2Config", dict(IMAGE, mlp_ratio=3), 16),
    "dinov2_swiglu": ("Dinov2Model", "Dinov2Config", dict(IMAGE, use_swiglu_ffn=True), None),
    "dinov2_registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", dict(IMAGE, num_register_tokens=3), 16),
    "clip_text": ("CLIPTextModelWithProjection", "CLIPTextConfig", dict(TEXT, projection_dim=24), None),
    "clip_vision": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", dict(IMAGE, projection_dim=24), None),
    "siglip_vision": ("SiglipVisionModel", "SiglipVisionConfig", dict(IMAGE, image_size=26), None),
}


def distribution(name, shape):
    if "lambda1" in name or (len(shape) == 1 and "norm" in name.lower() and name.endswith("weight")):
        return 1.0, 0.25
    if len(shape) == 1:
        return 0.0, 0.25
    fan_in = math.prod(shape[1:]) if name.endswith("weight") and "embedding" not in name.replace("patch_embedding", "") else 1
    return 0.0, round(1.7 / math.sqrt(fan_in), 4)


def make(name, model_class, config_class, options, side):
    config = getattr(transformers, config_class)(**options)
    config._attn_implementation = "eager"
    cls = getattr(transformers, model_class)
    with tempfile.TemporaryDirectory() as folder:
        cls(config).save_pretrained(folder)
        stored = safetensors.torch.load_file(folder + "/model.safetensors")
        tensors = []
        for key, value in sorted(stored.items()):
            mean, scale = distribution(key, value.shape)
            tensors.append(dict(name=key, shape=list(value.shape), mean=mean, scale=scale))
            stored[key] = torch.from_numpy(numbers(key, value.numel(), mean, scale)).reshape(value.shape)
        safetensors.torch.save_file(stored, folder + "/model.safetensors", metadata={"format": "pt"})
        model = cls.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    settings = json.loads(config.to_json_string(use_diff=False))
    settings["architectures"] = [model_class]
    settings.pop("_attn_implementation", None)
    fixture = dict(config=settings, tensors=tensors)
    with torch.no_grad():
        if "vocab_size" in options:
            tokens = [(7 * i * i + 3 * i + 5) % 94 + 1 for i in range(30)] + [95]
            fixture["tokens"] = tokens
            out = model(torch.tensor([tokens]))
        else:
            side = side or options["image_size"]
            if side != options["image_size"]:
                fixture["preprocessor"] = dict(crop_size=dict(height=side, width=side))
            pixels = torch.from_numpy(numbers("pixels", 3 * side * side, 0.0, 2.0)).reshape(1, 3, side, side)
            out = (model.vit if model_class == "ViTForImageClassification" else model)(pixels)
    hidden = out.last_hidden_state[0]
    if name == "bert_mean":
        fixture["modules"] = True
        pooled = hidden.mean(0)
        pooled = pooled / pooled.norm()
    elif model_class == "ViTForImageClassification":
        pooled = hidden[0]
    else:
        pooled = next(getattr(out, key)[0] for key in ("text_embeds", "image_embeds", "pooler_output") if getattr(out, key, None) is not None)
    fixture["positions"] = [0, 1, 2, len(hidden) // 2, len(hidden) - 1]
    fixture["hidden"] = [round(float(x), 6) for x in hidden[fixture["positions"]].reshape(-1)]
    fixture["embedding"] = [round(float(x), 6) for x in pooled]
    return fixture


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or FAMILIES:
        fixture = make(name, *FAMILIES[name])
        (out / f"{name}.json").write_text(json.dumps(fixture) + "\n")
        print(name, len(fixture["tensors"]), "tensors;", len(fixture["hidden"]), "numbers of states, embedding of", len(fixture["embedding"]),
              "largest", round(max(map(abs, fixture["embedding"])), 3))


if __name__ == "__main__":
    main()
