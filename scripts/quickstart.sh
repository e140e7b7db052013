#!/usr/bin/env bash
# From a fresh clone to a compressed model that writes text: builds the tool, compresses the small model of this
# repository to 3 bits per weight (calibrated on a text), verifies the file on CPU and Vulkan, measures it against the
# original, and generates text with weights decoded on the fly. The results are in build/quickstart.
# NWC_MODEL=<folder> takes another Llama-family model, NWC_BITS=<number> another rate, NWC_CALIB=<text> another text.
set -euo pipefail
cd "$(dirname "$0")/.."

model=${NWC_MODEL:-models/gutenlm-2.6m}
bits=${NWC_BITS:-3}
calibration=${NWC_CALIB:-models/calibration.txt}
text=models/sample.txt
out=build/quickstart
build=build/release

scripts/setup.sh --build-only
mkdir -p "$out"
step() { printf '\n-- %s\n' "$*"; }

# Ninja's lines "[12/345] ..." as a percentage: on a terminal one line that is written over, else a line for every
# tenth. All of them go to the file $1.
show_build() {
  local line percent last=-1
  while IFS= read -r line; do
    printf '%s\n' "$line" >>"$1"
    [[ $line =~ ^\[([0-9]+)/([0-9]+)\] ]] || continue
    percent=$((100 * BASH_REMATCH[1] / BASH_REMATCH[2]))
    if [ -t 2 ]; then
      printf '\r%3d %%, %d of %d steps' "$percent" "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}" >&2
    elif [ $((percent / 10)) -gt "$last" ]; then
      last=$((percent / 10))
      printf '%3d %%, %d of %d steps\n' "$percent" "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}" >&2
    fi
  done
  if [ -t 2 ]; then printf '\r\033[K' >&2; fi
}

step "building the command-line tool (some minutes the first time)"
if [ ! -f "$build/CMakeCache.txt" ]; then
  launcher=()
  command -v ccache >/dev/null && launcher=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  cmake --preset release -DNWC_BUILD_TESTS=OFF -DNWC_BUILD_BENCH=OFF "${launcher[@]}" >"$out/configure.log" ||
    { cat "$out/configure.log" >&2; exit 1; }
fi
: >"$out/build.log"
# The library, which programs link, is built too: then "cmake --install" has all that it installs.
cmake --build "$build" --target nwc-cli nwc nwc_decode -j "$(nproc)" 2>&1 | show_build "$out/build.log" ||
  { cat "$out/build.log" >&2; exit 1; }
nwc=$build/bin/nwc

run() {  # shows the command, keeps its JSON result
  local result=$1
  shift
  step "nwc $*"
  "$nwc" "$@" --json >"$out/$result.json"
}
nwc_file=$out/$(basename "$model")-${bits}bit.nwc
run compress compress "$model" --bits "$bits" --calib "$calibration" --calib-cache "$out/calibration" -o "$nwc_file"
run verify_cpu verify "$nwc_file" --backend cpu
vulkan=0
# Software Vulkan will do: the point is that the same file decodes to the same weights.
run verify_vulkan verify "$nwc_file" --backend vulkan || { vulkan=$?; rm -f "$out/verify_vulkan.json"; }
if [ "$vulkan" -ne 0 ] && [ "$vulkan" -ne 4 ]; then exit "$vulkan"; fi
run eval eval "$nwc_file" --reference "$model" --text "$text"

step "nwc run: weights decoded layer by layer while it writes"
"$nwc" run "$nwc_file" --mode streamed --prompt "It was a dark night, and" --tokens 60 --temperature 0.7 --seed 1

step "results"
python3 scripts/quickstart_table.py "$out"
[ "$vulkan" -eq 0 ] || echo "No Vulkan device was found: the CPU alone was tested."
