#!/usr/bin/env bash
# test_install.sh <build folder> <source folder> <model.nwc> <C compiler> <cmake> [C flags]
# Installs into a folder of its own, then builds and runs smoke.c and decode_only.c against the installed files alone:
# through pkg-config and through find_package. Fails too if anything but nwc_* is exported.
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
  declared=$(grep -oE '^NWC_API .*' "$prefix/include/nwc/nwc.h" | grep -oE 'nwc_[a-z0-9_]+\(' | tr -d '(' | sort -u)
  exported=$(nm -D --defined-only "$libdir/libnwc.so" | awk '{print $3}' | sort -u)
  [ "$declared" = "$exported" ] || { diff <(echo "$declared") <(echo "$exported") >&2; exit 1; }
  # nwc_decode has all of them but those that the header says belong to libnwc alone.
  expected=$(echo "$declared" | grep -vE '^nwc_(tokenize|detokenize|chat_format|session_.*)$')
  exported=$(nm -D --defined-only "$libdir/libnwc_decode.so" | awk '{print $3}' | sort -u)
  [ "$expected" = "$exported" ] || { diff <(echo "$expected") <(echo "$exported") >&2; exit 1; }
  for name in nwc nwc_decode; do
    readelf -d "$libdir/lib$name.so" | grep -q "SONAME.*lib$name\.so\.[0-9]" ||
      { echo "no versioned soname" >&2; exit 1; }
  done
fi

work=$prefix/consumer
mkdir -p "$work"
cp "$source/tests/capi/smoke.c" "$source/tests/capi/decode_only.c" "$source/tests/capi/consumer/CMakeLists.txt" "$work"

export PKG_CONFIG_PATH=$libdir/pkgconfig
# shellcheck disable=SC2046,SC2086  # flags are lists
"$cc" -std=c11 -Wall -Wextra -Werror -pedantic $flags $(pkg-config --cflags nwc) "$work/smoke.c" \
  $(pkg-config --libs nwc) -o "$work/by_pkg_config"
"$work/by_pkg_config" "$model" >"$work/output.txt"
grep -q "^nwc $(pkg-config --modversion nwc)\$" "$work/output.txt" || { echo "versions differ" >&2; exit 1; }
# shellcheck disable=SC2046,SC2086
"$cc" -std=c11 -Wall -Wextra -Werror -pedantic $flags $(pkg-config --cflags nwc_decode) "$work/decode_only.c" \
  $(pkg-config --libs nwc_decode) -o "$work/decode_by_pkg_config"
"$work/decode_by_pkg_config" "$model"

"$cmake" -S "$work" -B "$work/build" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_C_COMPILER="$cc" -DCMAKE_C_FLAGS="$flags" \
  >/dev/null
"$cmake" --build "$work/build" >/dev/null
"$work/build/consumer" "$model" >/dev/null
"$work/build/decode_only" "$model"

# The README's example, built and run by the README's own commands, where the library is installed as the README says.
if [ -z "$flags" ] && [ -e "$libdir/libnwc.so" ] && [ "$libdir" = "$prefix/lib" ]; then
  example=$work/example
  mkdir -p "$example/bin"
  ln -sfn "$(command -v "$cc")" "$example/bin/cc"
  ln -sfn "$prefix" "$example/nwc"
  cp "$model" "$example/model.nwc"
  awk '/^```c$/ {on = 1; next} /^```$/ {on = 0} on' "$source/README.md" >"$example/app.c"
  grep -E '^(export PKG_CONFIG_PATH|cc app\.c)' "$source/README.md" >"$example/commands.sh"
  [ "$(wc -l <"$example/commands.sh")" = 2 ] || { echo "README.md: no commands for the example" >&2; exit 1; }
  (cd "$example" && env -u LD_LIBRARY_PATH -u PKG_CONFIG_PATH HOME="$example" PATH="$example/bin:$PATH" \
    timeout 60 bash -e commands.sh >output.txt)
  [ -s "$example/output.txt" ] || { echo "the README's example printed nothing" >&2; exit 1; }
fi
echo "installed library works through pkg-config and find_package"
