#!/usr/bin/env bash
# Every benchmark of speed on this machine: builds if need be, writes records (JSON) and plots.
#
# Usage: bench/run_all.sh [--out DIR] [--backend cpu|vulkan|all] [--device NAME] [--model FILE.nwc] [--build DIR]
#                         [--quick]
#   --out      where records and plots go (default build/bench/speed)
#   --backend  default all; a Vulkan device that is not there is left out with a note
#   --device   part of the Vulkan device's name (default: the best one)
#   --model    for `load` and `tokens` (default: what bench/smollm2.sh made, else models/gutenlm-2.6m at 4 bits)
#   --build    a configured build folder (default build/release, configured here if it is missing)
#   --quick    a few minutes: 4 bits, smaller layers, three repetitions
# With the Python package nvidia-nvcomp and a CUDA device, nvCOMP's ANS decoder runs beside (bench/nvcomp_ans.py).
# On a busy machine, records of one thread count processor time; those of several threads and of devices the clock.
set -euo pipefail
cd "$(dirname "$0")/.."
out=build/bench/speed backend=all device= model= build=build/release quick=
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=$2; shift 2 ;;
    --backend) backend=$2; shift 2 ;;
    --device) device=$2; shift 2 ;;
    --model) model=$2; shift 2 ;;
    --build) build=$2; shift 2 ;;
    --quick) quick=1; shift ;;
    *) sed -n '2,13s/^# \{0,1\}//p' "$0"; [ "$1" = --help ]; exit ;;
  esac
done
mkdir -p "$out"

if [ ! -x "$build/bin/nwc-bench" ] || [ ! -x "$build/bin/nwc" ]; then
  # A folder that quickstart.sh has configured leaves the benchmarks out; configuring it again adds them.
  cmake --preset release -B "$build" -DNWC_BUILD_BENCH=ON
  cmake --build "$build" --target nwc-bench nwc-cli
fi
bench=$build/bin/nwc-bench

if [ -z "$model" ]; then
  model=build/bench/smollm2/smollm2.nwc
  if [ ! -f "$model" ]; then
    model=$out/gutenlm.nwc
    [ -f "$model" ] || "$build/bin/nwc" compress models/gutenlm-2.6m --bits 4 --calib none -o "$model" --quiet
  fi
fi

{
  date -u
  uname -srm
  grep -m1 'model name' /proc/cpuinfo || true
  echo "cores $(nproc), load $(cut -d' ' -f1-3 /proc/loadavg)"
} | tee "$out/machine.txt"

all=$(nproc)
threads=1; [ "$all" -gt 1 ] && threads="1 $all"
repeat=5 bits="2 3 4 6" layer= most=1073741824 seconds=60 batches="1 8" encode=
if [ -n "$quick" ]; then
  repeat=3 bits=4 layer="--rows 2048 --cols 2048" most=16777216 seconds=8 batches=1 encode="--size 1024"
fi
on=(--backend "$backend")
[ -z "$device" ] || on+=(--device "$device")

# record NAME ARGUMENTS...: one run of the program into NAME.json
record() {
  local name=$1
  shift
  echo "$name: nwc-bench $*"
  if "$bench" "$@" --repeat "$repeat" --json > "$out/$name.json.part"; then
    mv "$out/$name.json.part" "$out/$name.json"
  else
    echo "$name failed and is left out" >&2
    rm -f "$out/$name.json.part"
  fi
}

for t in $threads; do
  # shellcheck disable=SC2086
  {
    [ "$backend" = vulkan ] || record "decode-cpu-$t" decode --backend cpu --threads "$t" --bits $bits $layer
    [ "$backend" = vulkan ] || record "fused-$t" fused --threads "$t" --batch $batches $layer
    [ "$backend" = vulkan ] || record "encode-$t" encode --threads "$t" $encode
    record "load-$t" load "$model" --threads "$t" --folder "$out" "${on[@]}"
    record "tokens-$t" tokens "$model" --threads "$t" --seconds $seconds "${on[@]}"
    record "scaling-$t" scaling --threads "$t" --most $most "${on[@]}"
  }
done
if [ "$backend" != cpu ]; then
  # shellcheck disable=SC2086
  record decode-vulkan decode --threads "$all" --bits $bits $layer --backend vulkan ${device:+--device "$device"}
  # shellcheck disable=SC2086
  record fused-vulkan fused --threads "$all" --batch $batches $layer --backend vulkan ${device:+--device "$device"}
  # shellcheck disable=SC2086
  python3 bench/nvcomp_ans.py "$bench" --bits $bits --repeat "$repeat" > "$out/decode-nvcomp.json" ||
    rm -f "$out/decode-nvcomp.json"
fi
python3 bench/plot_bench.py "$out" --model "$(basename "$model" .nwc)"
