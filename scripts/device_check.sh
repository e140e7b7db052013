#!/usr/bin/env bash
# Checks and measures this project on a machine that has a GPU and little else: no network, no compiler, none of this
# repository's dependencies. Two commands (doc/measurements.md, "On a GPU"):
#
#   scripts/device_check.sh pack OUTDIR [--build DIR] [--quick]
#       Here: makes a folder of at most 48 MiB with everything that `run` needs there, itself included.
#       --build   takes the programs of this build folder as they are (default: builds build/release)
#       --quick   compresses the model without calibration: seconds instead of minutes
#   scripts/device_check.sh run DIR [--out DIR] [--minutes 8] [--only PART]... [--device NAME] [--rehearse]
#       There, with DIR the packed folder: device, verify, tests, decode, fused, attention, tokens, tokens-large,
#       nvcomp, variants.
#       Results are in --out (default: DIR/results) as soon as a part ends. See device_check_run.py --help.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
usage() { sed -n '2,12s/^# \{0,1\}//p' "$0"; exit "$1"; }

# Six more than a build with MPI takes, 3.4 of them its libraries: what exceeds this was packed by mistake.
most_mib=48

# Copies the system's libraries that programs and the Vulkan loader need. glibc's are left out: those of another version
# do not work with the machine's own loader of programs. `run` takes one only where the machine lacks it.
copy_system_libraries() {  # to programs...
  local to=$1
  shift
  ldd "$@" 2>/dev/null | awk '$2 == "=>" && $3 ~ /^\/(usr\/)?lib/ {print $3}' | sort -u | while read -r library; do
    case ${library##*/} in
      libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | librt.so.* | ld-linux* | libresolv.so.*) ;;
      *) cp -Lf "$library" "$to/" ;;
    esac
  done
}

# Copies what an NVIDIA driver's Vulkan library links to, and the Vulkan loader itself. Where they are not installed,
# their packages are fetched and unpacked; nothing is installed.
copy_loader() {
  local to=$1 work missing=() libraries="libvulkan.so.1:libvulkan1 libX11.so.6:libx11-6 libXext.so.6:libxext6
    libxcb.so.1:libxcb1 libXau.so.6:libxau6 libXdmcp.so.6:libxdmcp6 libbsd.so.0:libbsd0 libmd.so.0:libmd0
    libGLdispatch.so.0:libglvnd0"
  work=$(mktemp -d)
  for entry in $libraries; do
    local name=${entry%%:*} path
    # Reads to the end: ldconfig would fail with what it can no longer write.
    path=$(ldconfig -p | awk -v name="$name" '$1 == name && /x86-64/ && !path {path = $NF} END {print path}')
    if [ -n "$path" ]; then cp -L "$path" "$to/$name"; else missing+=("$entry"); fi
  done
  for entry in "${missing[@]}"; do
    local name=${entry%%:*} package=${entry##*:}
    (cd "$work" && apt-get -q download "$package" && dpkg-deb -x "$package"_*.deb root) >"$work/log" 2>&1 || true
    local path
    path=$(find "$work/root" -name "$name" 2>/dev/null | head -1)
    if [ -n "$path" ]; then
      cp -L "$path" "$to/$name"
    else
      echo "pack: $name ($package) is not there and left out" >&2
    fi
  done
  rm -rf "$work"
  [ -e "$to/libvulkan.so.1" ] || { echo "pack: no Vulkan loader: install libvulkan1" >&2; exit 1; }
}

pack() {
  local out="" build="" quick=""
  while [ $# -gt 0 ]; do
    case $1 in
      --build) build=$2; shift 2 ;;
      --quick) quick=1; shift ;;
      -*) usage 2 ;;
      *) [ -z "$out" ] || usage 2; out=$1; shift ;;
    esac
  done
  [ -n "$out" ] || usage 2
  local source=$here/..
  if [ -z "$build" ]; then
    build=$source/build/release
    [ -f "$build/CMakeCache.txt" ] || (cd "$source" && cmake --preset release)
    # shellcheck disable=SC2046  # names of targets
    cmake --build "$build" --target nwc-cli nwc-bench make_test_model faulty_vulkan $(cat "$build/vulkan_tests.txt")
  fi
  rm -rf "$out"
  mkdir -p "$out"/{bin,lib,lib-system,models,data/models}
  out=$(cd "$out" && pwd)

  local tests program
  mapfile -t tests <"$build/vulkan_tests.txt"
  for program in bin/nwc bin/nwc-bench "${tests[@]/#/tests/}"; do
    strip -s -o "$out/bin/${program##*/}" "$build/$program"
  done
  printf '%s\n' "${tests[@]}" >"$out/tests.txt"
  # The project's own, by the names that the programs ask for.
  ldd "${tests[@]/#/$build/tests/}" |
    awk -v build="$(cd "$build" && pwd)/" 'index($3, build) == 1 {print $1, $3}' | sort -u |
    while read -r library path; do strip -s -o "$out/lib/$library" "$path"; done
  copy_system_libraries "$out/lib-system" "$build/bin/nwc" "$build/bin/nwc-bench" "${tests[@]/#/$build/tests/}"
  copy_loader "$out/lib-system"

  cp -r "$source/models/gutenlm-2.6m" "$out/data/models/"
  mkdir -p "$out/data/tests/fixtures"
  cp -r "$source/tests/fixtures/families" "$out/data/tests/fixtures/"
  local model=$source/models/gutenlm-2.6m
  local calibration=(--calib "$source/models/calibration.txt" --calib-cache "$out/calibration")
  [ -z "$quick" ] || calibration=(--calib none)
  "$build/tests/make_test_model" "$model" "$out/models/capi_model.nwc" >/dev/null
  "$build/bin/nwc" compress "$model" --bits 3 "${calibration[@]}" --quiet \
    -o "$out/models/gutenlm-3bit.nwc" >/dev/null
  "$build/bin/nwc" compress "$model" --bits 4 --calib none --codec small --effort 1 --quiet \
    -o "$out/models/gutenlm-small.nwc" >/dev/null
  rm -rf "$out/calibration"
  cp "$here/device_check.sh" "$here"/device_check_{host,run}.py "$source/bench/nvcomp_ans.py" "$out/"

  local kib
  kib=$(du -sk "$out" | cut -f1)
  local name
  name=$(basename "$out")
  echo "$out: $((kib / 1024)) MiB, ${#tests[@]} test programs; there: $name/device_check.sh run $name"
  [ "$kib" -le $((most_mib * 1024)) ] || { echo "pack: more than $most_mib MiB" >&2; exit 1; }
}

case "${1:-}" in
  pack) shift; pack "$@" ;;
  run) shift; exec python3 "$here/device_check_run.py" "$@" ;;
  --help | -h) usage 0 ;;
  *) usage 2 ;;
esac
