#!/usr/bin/env python3
"""quickstart_table.py <folder>: the closing table of quickstart.sh, from the JSON results of its commands."""
import json
import pathlib
import sys


def load(folder, name):
    path = folder / (name + ".json")
    return json.loads(path.read_text()) if path.exists() else None


def mib(num_bytes):
    return f"{num_bytes / 2**20:.2f} MiB"


def decode_row(verify):
    """Name of the device, speed, and how that compares with copying the decoded bytes in memory."""
    rate = verify["decoded_bytes_per_second"]
    memcpy = f"{100 * verify['memcpy_ratio']:.1f} % of memcpy"
    return f"{verify['device']}: {rate / 1e6:.0f} MB/s of decoded weights, {memcpy}"


def main():
    folder = pathlib.Path(sys.argv[1])
    compress, evaluation = load(folder, "compress"), load(folder, "eval")
    rows = [
        ("original", mib(compress["source_bytes"])),
        ("compressed file",
         f"{mib(compress['file_bytes'])} ({100 * compress['file_bytes'] / compress['source_bytes']:.1f} % of it)"),
        ("bits per weight",
         f"{compress['bpw_coded']:.3f} of the compressed tensors, {compress['bpw_file']:.3f} over the file"),
    ]
    for backend in ("cpu", "vulkan"):
        verify = load(folder, "verify_" + backend)
        if verify:
            rows.append((f"decoded and verified, {backend}", decode_row(verify)))
    rows += [
        ("text", f"{evaluation['text']}, {evaluation['tokens']} tokens in windows of {evaluation['context']}"),
        ("perplexity, original", f"{evaluation['ppl_reference']:.3f}   (lower is better)"),
        ("perplexity, compressed", f"{evaluation['ppl']:.3f}"),
        ("KL divergence", f"{evaluation['kld_mean']:.5f} nats per token   (0: the same predictions)"),
        ("same most likely token", f"{100 * evaluation['same_top']:.1f} %"),
    ]
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        print(f"  {label:<{width}}  {value}")


if __name__ == "__main__":
    main()
