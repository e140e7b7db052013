#!/usr/bin/env bash
# Builds the fuzzers of tests/fuzz with Clang and runs them. Usage: scripts/fuzz.sh [options] [harness...]
#   --minutes N   in all, shared equally between the harnesses (10)
#   --jobs J      harnesses at a time (1)
#   --no-build    with the programs that build/fuzz has
# Harnesses: all of tests/fuzz/fuzz_*.cpp, or those named. Corpora grow from run to run in build/fuzz/corpus; inputs
# that found something are kept in build/fuzz/findings (tests/fuzz/README.md says what to do with them). Prints a table,
# writes build/fuzz/report.json, and exits with 1 if anything was found.
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=10 jobs=1 build=1 harnesses=()
usage() { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
while [ $# -gt 0 ]; do
  case "$1" in
    --minutes) minutes=${2:?}; shift 2 ;;
    --jobs) jobs=${2:?}; shift 2 ;;
    --no-build) build=0; shift ;;
    -*) usage ;;
    *) harnesses+=("$1"); shift ;;
  esac
done
[[ $minutes =~ ^[0-9]+$ && $jobs =~ ^[0-9]+$ && $minutes -gt 0 && $jobs -gt 0 ]] || usage
if [ ${#harnesses[@]} -eq 0 ]; then
  for source in tests/fuzz/fuzz_*.cpp; do harnesses+=("$(basename "$source" .cpp)"); done
fi
for harness in "${harnesses[@]}"; do
  [ -e "tests/fuzz/$harness.cpp" ] || { echo "fuzz: there is no tests/fuzz/$harness.cpp" >&2; exit 2; }
done

root=build/fuzz
if [ "$build" = 1 ]; then
  scripts/setup.sh --fuzz
  launcher=()
  command -v ccache >/dev/null && launcher=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  cmake --preset fuzz "${launcher[@]}" >/dev/null
  cmake --build $root -j "$(nproc)" --target make_fuzz_seeds "${harnesses[@]}" -- --quiet
fi
export ASAN_OPTIONS=detect_leaks=0  # making seeds is not what is tested
$root/tests/make_fuzz_seeds $root/tests/fuzz_seeds
unset ASAN_OPTIONS
mkdir -p $root/dictionaries $root/logs

# The words that the readers compare with are the strings in their sources.
dictionary() {  # harness
  local sources=()
  case "$1" in
    fuzz_tokenizer_json) sources=(trainer/data/hf_{tokenizer,pipeline}*.cpp) ;;
    fuzz_config_json) sources=(trainer/data/hf_{config,family}*.cpp) ;;
    fuzz_gguf) sources=(trainer/data/gguf_*.cpp) ;;
    fuzz_safetensors) sources=(trainer/data/safetensors.cpp runtime/format/dtype.cpp) ;;
    fuzz_calibration) sources=(trainer/calib/calibration_files.cpp trainer/data/safetensors.cpp) ;;
  esac
  [ ${#sources[@]} -eq 0 ] || grep -hoE '"[A-Za-z_][A-Za-z0-9_.]*"' "${sources[@]}" | grep -v '\.h"' | sort -u || true
  printf '"%s"\n' '{' '}' '[' ']' ':' ',' null true false -1 1e300 4294967296 18446744073709551616
}

# Runs one harness until its time is over. After a finding it starts again, up to five times.
fuzz() {  # harness seconds
  local harness=$1 end=$((SECONDS + $2)) starts=0 left memory
  local corpus=$root/corpus/$harness findings=$root/findings/$harness dictionary=$root/dictionaries/$harness.dict
  mkdir -p "$corpus" "$findings"
  rm -f "$root/logs/$harness".*
  memory=$(mktemp -d -p "$(if [ -w /dev/shm ]; then echo /dev/shm; else echo /tmp; fi)")
  dictionary "$harness" >"$dictionary"
  local folders=("$corpus")
  for folder in $root/tests/fuzz_seeds/$harness tests/fuzz/seeds/$harness tests/fuzz/regressions/$harness; do
    [ -d "$folder" ] && folders+=("$folder")
  done
  case "$harness" in fuzz_open | fuzz_model) folders+=(tests/golden/good) ;; esac
  while left=$((end - SECONDS)) && [ $left -gt 0 ] && [ $starts -lt 5 ]; do
    starts=$((starts + 1))
    # An input may take a minute and 512 MiB, far more than any needs, on a busy machine, too: more is a finding.
    TMPDIR=$memory "$root/tests/$harness" -max_total_time=$left -max_len=65536 -timeout=60 -report_slow_units=60 \
      -rss_limit_mb=1024 -malloc_limit_mb=512 -dict="$dictionary" -artifact_prefix="$findings/" -print_final_stats=1 \
      "${folders[@]}" >"$root/logs/$harness.$starts" 2>&1 && break
  done
  rm -rf "$memory"
}
export -f fuzz dictionary
export root

seconds=$((60 * minutes * jobs / ${#harnesses[@]}))
[ $seconds -gt 0 ] || seconds=1
printf '%s\n' "${harnesses[@]}" | xargs -P "$jobs" -I HARNESS bash -c "fuzz HARNESS $seconds"
python3 scripts/fuzz_report.py $root "${harnesses[@]}"
