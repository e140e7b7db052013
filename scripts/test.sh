#!/usr/bin/env bash
# Builds and tests everything. Usage: scripts/test.sh [--quick] [--full] [--threads] [--platforms]
#   --quick      the release build and its tests only
#   --full       also what goes the ways of other tests once more: every Vulkan test at subgroups of 4, 8 and 16 and
#                without optional features, the trainer's tests under sanitizers, the library built without exceptions,
#                a rehearsal of scripts/device_check.sh
#   --threads    also the thread sanitizer, where threads meet
#   --platforms  also the library for AArch64 and 32-bit ARM, their tests under emulation, and library and tool for Windows,
#                their tests under Wine
# It builds in build/release, build/python, build/asan, build/noexcept, build/tsan, build/aarch64, build/armhf and
# build/mingw. It ends with the summary of the release tests that ctest prints, or fails.
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

if [ $matrix = ON ]; then
  # The same programs run with the library that is built without exceptions and RTTI. Whether it can be is the question,
  # which tests/layering.cmake answers on every run, by words: without optimization that takes a third of the time.
  step "without exceptions: build and test"
  configure noexcept -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG= -DCMAKE_CXX_FLAGS_DEBUG=
  build noexcept
  log=build/noexcept/test.log
  for program in test_c_api test_c_api_model test_c_api_decoder test_c_api_session \
    "smoke build/release/tests/capi_model.nwc"; do
    # shellcheck disable=SC2086  # program and arguments
    LD_LIBRARY_PATH=build/noexcept/lib build/release/tests/$program >"$log" || { cat "$log"; exit 1; }
  done
fi

# What makes models runs on this machine only: for the others, the model files come from the release tests.
library_tests=(test_half test_thread_pool test_crc32 test_container test_addresses test_decode_tables test_tile_decode
  test_synthesis test_tensor_decode test_fused_product test_hostile_files test_golden test_engine_kernels
  test_integer_kernels test_logits test_families test_session test_c_api test_c_api_model test_c_api_decoder
  test_c_api_session)
test_platform() {  # preset [further tests...]
  local preset=$1 tests=("${library_tests[@]}" "${@:2}")
  configure "$preset" -DNWC_BUILD_TESTS=ON
  local targets=("${tests[@]/#capi_/}")
  [ "$preset" != mingw ] || targets=("${targets[@]/#test_cli_windows/nwc-cli}")
  build "$preset" "${targets[@]}"
  cp build/release/tests/capi_*.nwc "build/$preset/tests/"
  # No loader or device of Vulkan is to be had there.
  NWC_REQUIRE_VULKAN=0 run_tests "$preset" -FA capi_model -R "^($(IFS='|'; echo "${tests[*]}"))\$"
}
# platform <preset> <name> <command that must be there...>: where it is not, the last headline says so, too.
platform() {
  step "$2: build and test"
  if ! { scripts/setup.sh "--$1" && command -v "${@:3}"; } >/dev/null; then
    skipped+=", but $2 was NOT tested: no compiler, emulator or zlib (see scripts/setup.sh --$1)"
    echo "skipped$skipped"
    return 1
  fi
}
if [ "$platforms" = 0 ]; then
  skipped+=", without other platforms (--platforms)"
else
  # The NEON twins are compared with the scalar decoder, and logits with the reference.
  if [ "$(uname -m)" = aarch64 ]; then
    echo "this machine is AArch64: all tests above were tests of NEON"
  elif platform aarch64 "AArch64 under emulation" aarch64-linux-gnu-g++ qemu-aarch64; then
    test_platform aarch64
  fi
  # Sizes that 32 bits do not hold are refused.
  if platform armhf "32-bit ARM under emulation" arm-linux-gnueabihf-g++ qemu-arm; then
    test_platform armhf
  fi
  if platform mingw "Windows under Wine" x86_64-w64-mingw32-g++-posix; then
    # Names of files reach Windows programs in the encoding of the environment; the library is beside the tool.
    WINEPREFIX=$PWD/build/mingw/wine WINEDEBUG=-all WINEPATH="Z:${PWD//\//\\}\build\mingw\bin" LC_ALL=C.UTF-8 \
      test_platform mingw test_c_api_chat capi_smoke capi_decode_only test_cli_windows
  fi
fi

step "all passed$skipped; the summary of the release tests"
grep -A 30 '% tests passed' build/release/Testing/summary.txt
