#!/usr/bin/env python3
"""make_golden_families.py NWC: writes with the given tool good/families-v1.3.nwc: two layers of Gemma 3's tiny model, one with a
window (MODEL record 2), a Unigram tokenizer with a normalizer (TOKENIZER record 2), and Gemma's chat template (CHAT); and
good/experts-v1.4.nwc: two layers of GPT-OSS's with two experts each, attention sinks and biases; and good/encoder-v1.5.nwc: the tiny
DINOv2 with registers, whose positions are resized. Run once and committed; a file that exists is left alone. NWC_GOLDEN_WRITE=1 makes test_golden write the .txt beside it."""
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).parent
FIXTURES = HERE.parent / "fixtures"
TEMPLATE = ("{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}"
            "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + "
            "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}")


def write_model(folder, name, experts=None, **changes):
    fixture = json.loads((FIXTURES / "families" / f"{name}.json").read_text())
    config = fixture["config"]
    config.update(num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"], **changes)
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(13)
    header, data = {}, b""
    for t in fixture["tensors"]:
        if t["name"].startswith(("model.layers.2", "model.layers.3")):
            continue
        values = (t["mean"] + t["scale"] * rng.uniform(-1, 1, t["shape"])).astype("<f2")
        if "experts" in t["name"] or "router" in t["name"]:
            values = values[:experts]
        data_offsets = [len(data), len(data) + values.nbytes]
        header[t["name"]] = {"dtype": "F16", "shape": list(values.shape), "data_offsets": data_offsets}
        data += values.tobytes()
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_tokenizer(folder):
    tokenizer = json.loads((FIXTURES / "tokenizer" / "unigram.json").read_text())
    tokenizer["model"]["vocab"] = tokenizer["model"]["vocab"][:96]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(
        eos_token="</s>", unk_token="<unk>", pad_token="<pad>", bos_token="<pad>", chat_template=TEMPLATE)))


def compress(tool, name, write):
    target = HERE / "good" / name
    if target.exists():
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch) / "families"
        folder.mkdir()
        write(folder)
        done = subprocess.run([tool, "compress", folder, "-o", target, "--bits", "6", "--min-elements", "1024", "--no-source"],
                              text=True, capture_output=True)
        print(name, done.stdout or done.stderr)


def gemma(folder):
    write_model(folder, "gemma3")
    write_tokenizer(folder)


def gpt_oss(folder):
    write_model(folder, "gpt_oss", experts=2, num_local_experts=2, num_experts_per_tok=1)


def dinov2(folder):
    fixture = json.loads((FIXTURES / "encoders" / "dinov2_registers.json").read_text())
    (folder / "config.json").write_text(json.dumps(fixture["config"]))
    (folder / "preprocessor_config.json").write_text(json.dumps(fixture["preprocessor"]))
    rng = np.random.default_rng(15)
    header, data = {}, b""
    for t in fixture["tensors"]:
        values = (t["mean"] + t["scale"] * rng.uniform(-1, 1, t["shape"])).astype("<f2")
        header[t["name"]] = {"dtype": "F16", "shape": t["shape"], "data_offsets": [len(data), len(data) + values.nbytes]}
        data += values.tobytes()
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def main():
    compress(sys.argv[1], "families-v1.3.nwc", gemma)
    compress(sys.argv[1], "experts-v1.4.nwc", gpt_oss)
    compress(sys.argv[1], "encoder-v1.5.nwc", dinov2)


if __name__ == "__main__":
    main()
