#!/usr/bin/env python3
"""make_golden_families.py NWC: writes good/families-v1.3.nwc with the given tool: two layers of Gemma 3's tiny model, one with a
window (MODEL record 2), a Unigram tokenizer with a normalizer (TOKENIZER record 2), and Gemma's chat template (CHAT). Run once and
committed; a file that exists is left alone. NWC_GOLDEN_WRITE=1 makes test_golden write the .txt beside it."""
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).parent
FIXTURES = HERE.parent / "fixtures"
TARGET = HERE / "good" / "families-v1.3.nwc"
TEMPLATE = ("{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}"
            "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + "
            "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}")


def write_model(folder):
    fixture = json.loads((FIXTURES / "families" / "gemma3.json").read_text())
    config = fixture["config"]
    config.update(num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"])
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(13)
    header, data = {}, b""
    for t in fixture["tensors"]:
        if t["name"].startswith(("model.layers.2", "model.layers.3")):
            continue
        values = (t["mean"] + t["scale"] * rng.uniform(-1, 1, t["shape"])).astype("<f2").tobytes()
        header[t["name"]] = {"dtype": "F16", "shape": t["shape"], "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_tokenizer(folder):
    tokenizer = json.loads((FIXTURES / "tokenizer" / "unigram.json").read_text())
    tokenizer["model"]["vocab"] = tokenizer["model"]["vocab"][:96]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(
        eos_token="</s>", unk_token="<unk>", pad_token="<pad>", bos_token="<pad>", chat_template=TEMPLATE)))


def main():
    if TARGET.exists():
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch) / "families"
        folder.mkdir()
        write_model(folder)
        write_tokenizer(folder)
        done = subprocess.run([sys.argv[1], "compress", folder, "-o", TARGET, "--bits", "6", "--min-elements", "1024", "--no-source"],
                              text=True, capture_output=True)
        print(TARGET.name, done.stdout or done.stderr)


if __name__ == "__main__":
    main()
