#!/usr/bin/env bash
# Builds and tests everything. Usage: scripts/test.sh [--quick] [--full] [--threads] [--platforms]
#   --quick      the release build and its tests only
#   --full       also what goes the ways of other tests once more: every Vulkan test at subgroups of 4, 8 and 16 and
#                without optional features, the trainer's tests under sanitizers, a rehearsal of scripts/device_check.sh
#   --threads    also the thread sanitizer, where threads meet
#   --platforms  also the library for AArch64, its tests under emulation
# It builds in build/release, build/python, build/asan, build/noexcept, build/aarch64 and build/tsan. It ends with the
# summary of the release tests that ctest prints, or fails.
set -euo pipefail
cd "$(dirname "$0")/.."

quick=0
threads=0
platforms=0
matrix=OFF
for option in "$@"; do
  case "$option" in
    --quick) quick=1 ;;
    --full) matrix=ON ;;
    --threads) threads=1 ;;
    --platforms) platforms=1 ;;
    *) echo "usage: scripts/test.sh [--quick] [--full] [--threads] [--platforms]" >&2; exit 2 ;;
  esac
done

scripts/setup.sh
jobs=$(nproc)
export NWC_REQUIRE_VULKAN=${NWC_REQUIRE_VULKAN:-1}  # a machine without Vulkan fails instead of testing less
export MESA_SHADER_CACHE_DISABLE=true               # Mesa's cache mixes up lavapipe's vector widths
export CTEST_OUTPUT_ON_FAILURE=1
launcher=()
command -v ccache >/dev/null && launcher=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)

step() { printf '\n== %s (%d min %02d s so far)\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)); }
configure() {  # preset [options...]
  cmake --preset "$1" "${launcher[@]}" "${@:2}" >/dev/null
}
build() {  # preset [targets...]
  cmake --build "build/$1" -j "$jobs" ${2:+--target "${@:2}"} -- --quiet
}
run_tests() {  # preset [ctest options...]
  ctest --test-dir "build/$1" -j "$jobs" --no-tests=error "${@:2}"
}

step "release: build"
configure release -DNWC_BUILD_TESTS=ON -DNWC_BUILD_BENCH=ON -DNWC_MPI=ON -DNWC_TEST_MATRIX=$matrix
build release
step "release: test"
mkdir -p build/release/Testing
run_tests release | tee build/release/Testing/summary.txt
if [ "$quick" = 1 ]; then exit 0; fi

step "python: wheel, installed in an empty environment, and its tests"
skipped=""
scripts/test_python.sh build/release || { [ $? = 77 ] && skipped=", but Python's package was NOT tested: no PyPI"; }

# One build serves two ends: Clang's warnings about everything, as errors, and its sanitizers. Sanitized code is compiled
# with little optimization: what counts is the way from nothing to the end of the tests. Left out are the tests that only
# take long (label slow, not built either), the one that installs (label install) and those of the command-line tool.
step "Clang, warnings as errors, address and undefined-behaviour sanitizers: build"
configure asan -DNWC_TEST_MATRIX=$matrix
build asan
step "address and undefined-behaviour sanitizers: test"
# Drivers mix malloc with delete.
export ASAN_OPTIONS=alloc_dealloc_mismatch=0 UBSAN_OPTIONS=print_stacktrace=1
export LSAN_OPTIONS="suppressions=$PWD/scripts/lsan.supp:print_suppressions=0"
run_tests asan -LE 'slow|install' -E '^test_cli'

if [ "$threads" = 1 ]; then
  # These tests are where threads meet: the pool, decoders and streamed layers, through the C interface. The model file
  # comes from the release tests, so that the encoder need not be built again.
  step "thread sanitizer"
  configure tsan -DNWC_WERROR=OFF
  build tsan test_thread_pool test_tensor_decode test_c_api test_c_api_model test_c_api_decoder test_c_api_session
  cp build/release/tests/capi_*.nwc build/tsan/tests/
  # Software Vulkan compiles its shaders to code that the sanitizer cannot see into.
  NWC_REQUIRE_VULKAN=0 GTEST_FILTER='-*Vulkan*:*AutoNames*' \
    run_tests tsan -FA capi_model -R '^(test_thread_pool|test_tensor_decode|test_c_api(_model|_decoder|_session)?)$'
fi

# The same programs run with the library that is built without exceptions and RTTI. Whether it can be is the question:
# without optimization that takes a third of the time.
step "without exceptions: build and test"
configure noexcept -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG= -DCMAKE_CXX_FLAGS_DEBUG=
build noexcept
log=build/noexcept/test.log
for program in test_c_api test_c_api_model test_c_api_decoder test_c_api_session \
  "smoke build/release/tests/capi_model.nwc"; do
  # shellcheck disable=SC2086  # program and arguments
  LD_LIBRARY_PATH=build/noexcept/lib build/release/tests/$program >"$log" || { cat "$log"; exit 1; }
done

# The NEON twins are compared with the scalar decoder, and logits with the reference. What makes models runs on this
# machine only: the model file comes from the release tests. Where there is no cross compiler, the last headline says
# so, too.
[ "$platforms" = 0 ] || step "aarch64 under emulation: build and test"
if [ "$platforms" = 0 ]; then
  skipped+=", without other platforms (--platforms)"
elif [ "$(uname -m)" = aarch64 ]; then
  echo "this machine is one: all tests above were tests of NEON"
elif ! { scripts/setup.sh --aarch64 && command -v aarch64-linux-gnu-g++ && command -v qemu-aarch64; } >/dev/null; then
  skipped+=", but NEON was NOT tested: no compiler, emulator or zlib for AArch64 (see scripts/setup.sh --aarch64)"
  echo "skipped$skipped"
else
  tests=(test_half test_thread_pool test_crc32 test_container test_decode_tables test_tile_decode test_synthesis
    test_tensor_decode test_fused_product test_hostile_files test_golden test_engine_kernels test_integer_kernels test_logits
    test_families test_session test_c_api_session)
  configure aarch64
  build aarch64 "${tests[@]}"
  cp build/release/tests/capi_*.nwc build/aarch64/tests/
  run_tests aarch64 -R "^($(IFS='|'; echo "${tests[*]}"))\$"
fi

step "all passed$skipped; the summary of the release tests"
grep -A 30 '% tests passed' build/release/Testing/summary.txt
