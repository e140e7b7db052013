#!/usr/bin/env python3
"""Is our evaluation right? The same GGUF file, text and windows through llama.cpp and through `nwc eval`.

llama.cpp tokenizes by itself; every window starts from an empty context, every token but its first is predicted (which
is how `nwc eval` counts). Prints both perplexities and their difference, for an F32 and an F16 file; both with an F32
cache of keys and values in llama.cpp. Needs llama-cpp-python."""
import argparse
import json
import pathlib

import numpy as np

import llama_cpp_peer
import settings
import workspace


def windows(tokens, context, predicted):
    """The windows in which `predicted` tokens are predicted."""
    out = []
    for begin in range(0, len(tokens), context):
        window = tokens[begin:begin + min(context, predicted + 1)]
        if predicted <= 0 or len(window) < 2:
            break
        out.append(window)
        predicted -= len(window) - 1
    return out


def llama_nll(path, text, context, predicted):
    """Negative log-likelihoods of the predicted tokens."""
    llama_cpp = llama_cpp_peer._load()
    f32 = llama_cpp.GGML_TYPE_F32
    model = llama_cpp.Llama(str(path), n_ctx=context, n_batch=context, logits_all=True, type_k=f32, type_v=f32,
                            verbose=False)
    tokens = model.tokenize(text.encode(), add_bos=False, special=False)
    losses = []
    for window in windows(tokens, context, predicted):
        model.reset()
        model.eval(window[:-1])
        logits = np.array(model.scores[:len(window) - 1], "f8")
        top = logits.max(1, keepdims=True)
        norm = top[:, 0] + np.log(np.exp(logits - top).sum(1))
        losses.append(norm - logits[np.arange(len(logits)), window[1:]])
    return np.concatenate(losses)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nwc", type=pathlib.Path, default=settings.ROOT / "build/release/bin/nwc")
    parser.add_argument("--model", nargs="+", choices=list(settings.MODELS), default=list(settings.MODELS))
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--out", type=pathlib.Path, default=settings.ROOT / "build/bench/quality")
    args = parser.parse_args()
    for name in args.model:
        space = workspace.Workspace(settings.MODELS[name], args.nwc, args.out)
        text = pathlib.Path(space.model.text).read_text(encoding="utf-8")
        for dtype in ("f32", "f16"):
            path = space.folder / f"check.{dtype}.gguf"
            space.run("decompress", space.model.reference, "-o", path, "--format", "gguf", "--dtype", dtype)
            own = json.loads(space.run("eval", path, "--text", space.model.text, "--tokens", args.tokens, "--json"))
            losses = llama_nll(path, text, own["context"], args.tokens)
            path.unlink()
            if len(losses) != own["tokens"]:
                raise SystemExit(f"{name}: llama.cpp predicted {len(losses)} tokens, nwc {own['tokens']}")
            other = float(np.exp(losses.mean()))
            print(f"{name} {dtype}: {len(losses)} tokens in windows of {own['context']}: "
                  f"perplexity llama.cpp {other:.6f}, nwc {own['ppl']:.6f}, "
                  f"difference of the mean log-likelihood {np.log(own['ppl'] / other):+.2e} nats")


if __name__ == "__main__":
    main()
