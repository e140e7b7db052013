#!/usr/bin/env bash
# test_install.sh <build folder> <source folder> <model.nwc> <C compiler> <cmake> [C flags]
# Installs into a folder of its own, then builds and runs smoke.c against the installed files alone: through pkg-config
# and through find_package. Fails too if anything but nwc_* is exported.
set -euo pipefail
build=$1 source=$2 model=$3 cc=$4 cmake=$5 flags=${6:-}
prefix=$build/install-test
rm -rf "$prefix"
"$cmake" --install "$build" --prefix "$prefix" >/dev/null
for file in include/nwc/nwc.h share/nwc/codecs; do
  [ -e "$prefix/$file" ] || { echo "not installed: $file" >&2; exit 1; }
done
[ "$(find "$prefix/include" -type f | wc -l)" = 1 ] || { echo "more than one public header" >&2; exit 1; }
if [ -e "$prefix/bin/nwc" ]; then "$prefix/bin/nwc" --version >/dev/null; fi
libdir=$(dirname "$(find "$prefix" -name 'libnwc.*' | head -n 1)")
export LD_LIBRARY_PATH=$libdir

if [ -e "$libdir/libnwc.so" ]; then
  foreign=$(nm -D --defined-only "$libdir/libnwc.so" | awk '{print $3}' | grep -v '^nwc_' || true)
  [ -z "$foreign" ] || { echo "exported besides nwc_*: $foreign" >&2; exit 1; }
  # Every function of the header is there.
  declared=$(grep -oE '^NWC_API .*' "$prefix/include/nwc/nwc.h" | grep -oE 'nwc_[a-z_]+\(' | tr -d '(' | sort -u)
  exported=$(nm -D --defined-only "$libdir/libnwc.so" | awk '{print $3}' | sort -u)
  [ "$declared" = "$exported" ] || { diff <(echo "$declared") <(echo "$exported") >&2; exit 1; }
  readelf -d "$libdir/libnwc.so" | grep -q 'SONAME.*libnwc\.so\.[0-9]' || { echo "no versioned soname" >&2; exit 1; }
fi

work=$prefix/consumer
mkdir -p "$work"
cp "$source/tests/capi/smoke.c" "$source/tests/capi/consumer/CMakeLists.txt" "$work"

export PKG_CONFIG_PATH=$libdir/pkgconfig
# shellcheck disable=SC2046,SC2086  # flags are lists
"$cc" -std=c11 -Wall -Wextra -Werror -pedantic $flags $(pkg-config --cflags nwc) "$work/smoke.c" \
  $(pkg-config --libs nwc) -o "$work/by_pkg_config"
"$work/by_pkg_config" "$model" >"$work/output.txt"
grep -q "^nwc $(pkg-config --modversion nwc)\$" "$work/output.txt" || { echo "versions differ" >&2; exit 1; }

"$cmake" -S "$work" -B "$work/build" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_C_COMPILER="$cc" -DCMAKE_C_FLAGS="$flags" \
  >/dev/null
"$cmake" --build "$work/build" >/dev/null
"$work/build/consumer" "$model" >/dev/null
echo "installed library works through pkg-config and find_package"
