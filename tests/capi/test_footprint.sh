#!/usr/bin/env bash
# test_footprint.sh <library> [<size file> <most bytes without shaders>]
# Fails if the library runs code of ours before main(), or, with a size file of the build, has outgrown its limit.
set -euo pipefail
library=$1 size_file=${2:-} most=${3:-}

# Constructors are the entries of .init_array. The toolchain's own is frame_dummy (crtbegin).
size=$((16#$(readelf -S -W "$library" | awk '/ \.init_array / {print $(NF - 5)}')))
own=$(nm "$library" | grep -c ' t frame_dummy$' || true)
initialisers=$(nm -C "$library" |
  grep -E '_GLOBAL__(sub_)?I_|__static_initialization_and_destruction|__cxx_global_var_init' || true)
if [ -n "$initialisers" ] || [ "$size" -gt $((own * 8)) ]; then
  echo "$library runs code before main(): .init_array has $size bytes, $own entries are the toolchain's" >&2
  echo "$initialisers" >&2
  exit 1
fi

[ -n "$size_file" ] || exit 0
cat "$size_file"
bytes=$(awk '$1 == "without_shaders" {print $2}' "$size_file")
if [ "$bytes" -gt "$most" ]; then
  echo "$library has $bytes bytes without shaders, more than $most: nm -C -S --size-sort says what grew" >&2
  exit 1
fi
