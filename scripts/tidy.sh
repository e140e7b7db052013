#!/usr/bin/env bash
# Runs clang-tidy with .clang-tidy over the sources below the given files and folders.
#
#   scripts/tidy.sh                              # runtime, trainer and host-tools: slow
#   scripts/tidy.sh trainer/plan host-tools      # what you have touched
#
# It needs a configured build tree with generated shader headers (cmake --build --preset release makes both).
# NWC_BUILD names another tree than build/release, CLANG_TIDY another program than clang-tidy. The exit code is 1 if
# there are findings.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${NWC_BUILD:-build/release}
tidy=${CLANG_TIDY:-clang-tidy}
database=$build/compile_commands.json
if [ ! -f "$database" ]; then
  echo "$database is missing: run cmake --preset release && cmake --build --preset release" >&2
  exit 1
fi
[ $# -gt 0 ] || set -- runtime trainer host-tools

# Only files that this build compiles can be checked: a kernel for another processor has no command in the database.
sources=$(python3 - "$database" "$@" <<'PYTHON'
import json, pathlib, sys
root = pathlib.Path.cwd()
wanted = [(root / p).resolve() for p in sys.argv[2:]]
files = {pathlib.Path(entry["file"]).resolve() for entry in json.load(open(sys.argv[1]))}
for file in sorted(files):
    if any(file == w or w in file.parents for w in wanted) and root.resolve() in file.parents:
        print(file.relative_to(root.resolve()))
PYTHON
)
[ -n "$sources" ] || { echo "$database compiles nothing below: $*" >&2; exit 1; }
# GCC wrote the commands; options that only GCC knows are no findings.
xargs -P "$(nproc)" -n 1 "$tidy" -p "$build" --quiet --extra-arg=-Wno-unknown-warning-option <<<"$sources" 2> >(
  grep -v -e 'warnings generated\.$' -e '^Suppressed ' >&2) || exit 1
