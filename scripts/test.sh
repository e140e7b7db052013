#!/usr/bin/env bash
# Builds and tests everything. Usage: scripts/test.sh [--quick]
#   --quick  the release build and its tests only
# Folders: build/release, build/asan, build/clang, build/tsan. Ends with ctest's summary of the release tests, or fails.
set -euo pipefail
cd "$(dirname "$0")/.."

quick=0
case "${1:-}" in
  --quick) quick=1 ;;
  "") ;;
  *) echo "usage: scripts/test.sh [--quick]" >&2; exit 2 ;;
esac

scripts/setup.sh
jobs=$(nproc)
export NWC_REQUIRE_VULKAN=${NWC_REQUIRE_VULKAN:-1}  # a machine without Vulkan fails instead of testing less
export MESA_SHADER_CACHE_DISABLE=true               # Mesa's cache mixes up lavapipe's vector widths
export CTEST_OUTPUT_ON_FAILURE=1
launcher=()
command -v ccache >/dev/null && launcher=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
started=$SECONDS

step() { printf '\n== %s (%d s so far)\n' "$*" $((SECONDS - started)); }
build() {  # preset [targets...]
  local preset=$1
  shift
  cmake --preset "$preset" "${launcher[@]}" >/dev/null
  cmake --build --preset "$preset" -j "$jobs" "${@/#/--target=}" -- --quiet
}

step "release: build"
build release
step "release: test"
release_log=$(mktemp)
trap 'rm -f "$release_log"' EXIT
ctest --test-dir build/release -j "$jobs" --no-tests=error | tee "$release_log"
if [ "$quick" = 1 ]; then exit 0; fi

# The sanitizers: the same tests less those that only take long (label slow) or start the whole tool chain (label
# install). Leak detection stops at Vulkan drivers, which keep memory until the process ends.
step "address and undefined-behaviour sanitizers: build"
build asan
step "address and undefined-behaviour sanitizers: test"
ASAN_OPTIONS=detect_leaks=1:alloc_dealloc_mismatch=0 LSAN_OPTIONS="suppressions=$PWD/scripts/lsan.supp:print_suppressions=0" \
  UBSAN_OPTIONS=print_stacktrace=1 \
  ctest --test-dir build/asan -j "$jobs" --no-tests=error -LE 'slow|install' --progress

# Clang with warnings as errors; only what ships is compiled.
step "clang: build"
cmake --preset clang "${launcher[@]}" -DNWC_BUILD_TESTS=OFF -DNWC_BUILD_BENCH=OFF >/dev/null
cmake --build --preset clang -j "$jobs" -- --quiet

# The thread sanitizer, where threads meet.
step "thread sanitizer"
thread_tests=(test_thread_pool test_layer_stream test_tensor_decode test_c_api)
cmake --preset tsan "${launcher[@]}" >/dev/null
available=()
for test in "${thread_tests[@]}"; do
  if ninja -C build/tsan -t query "$test" >/dev/null 2>&1; then available+=("$test"); fi
done
cmake --build --preset tsan -j "$jobs" "${available[@]/#/--target=}" -- --quiet
(IFS='|'; TSAN_OPTIONS=halt_on_error=1 NWC_REQUIRE_VULKAN=0 \
  ctest --test-dir build/tsan -j "$jobs" --no-tests=error -R "^(${available[*]})\$" --progress)

step "all passed; the release tests once more in brief"
tail -n 12 "$release_log" | grep -A 12 '% tests passed'
