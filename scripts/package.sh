#!/usr/bin/env bash
# package.sh [FOLDER]: builds the Debian packages libnwc, libnwc-dev and nwc, with man pages and completions, and a
# tarball of all, into FOLDER (build/packages). test_package.sh installs and uses them in a fresh Debian.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-build/packages}")
build=build/package
[ "${NWC_SKIP_SETUP:-}" = 1 ] || scripts/setup.sh --package

cmake --preset release -B "$build" -DCMAKE_INSTALL_PREFIX=/usr -DNWC_BUILD_TESTS=OFF -DNWC_BUILD_BENCH=OFF >/dev/null
cmake --build "$build" -j "$(nproc)"

# help2man asks a program for its --help; each command is one to it.
extras=$build/package
rm -rf "$extras"
mkdir -p "$extras/man" "$extras/commands"
tool=$(realpath "$build/bin/nwc")
version=$("$tool" --version | awk '{print $2}')
man_page() { # name, words of the command
  local script=$extras/commands/$1
  printf '#!/bin/sh\nexec "%s" %s "$@"\n' "$tool" "$2" >"$script"
  chmod +x "$script"
  help2man --no-info --version-string "$1 $version" --name "$3" --output "$extras/man/$1.1" "$script"
  gzip -9nf "$extras/man/$1.1"
}
man_page nwc "" "compress language models, and run compressed ones"
"$tool" --help | sed -n '/^Subcommands/,$p' | sed -n 's/^  \([a-z]\+\)  *\(.*\)/\1 \2/p' | while read -r name description; do
  man_page "nwc-$name" "$name" "$description"
done
"$tool" completion bash >"$extras/nwc.bash"
"$tool" completion zsh >"$extras/_nwc"

rm -rf "$out"
mkdir -p "$out"
(cd "$build" && cpack -B "$out" >/dev/null)
rm -rf "$out/_CPack_Packages"
ls -l "$out"
