#!/bin/sh
# Puts what nwc_llama is built and tested with into a folder, once: llama.cpp's headers (from the source package of
# llama-cpp-python) and a Python environment with a prebuilt llama.cpp (xllamacpp) and declarations for it
# (llama-cpp-py-sync). About 80 MB of downloads and a minute; without it the tests say that they are skipped.
# usage: integrations/llama.cpp/setup_peer.sh [FOLDER, by default ~/.cache/nwc/llama-peer]
set -eu
peer=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/nwc/llama-peer}
if [ -e "$peer/complete" ]; then
  echo "$peer is complete"
  exit 0
fi
mkdir -p "$peer"
python3 -m venv "$peer/venv"
"$peer/venv/bin/pip" install -q xllamacpp==2026.10.11549 llama-cpp-py-sync==0.11739 cffi numpy gguf==0.19.0
download=$(mktemp -d)
trap 'rm -rf "$download"' EXIT
"$peer/venv/bin/pip" download -q --no-deps --no-binary :all: -d "$download" llama-cpp-python==0.3.36
tar xzf "$download"/llama_cpp_python-*.tar.gz -C "$download" --strip-components=3 --wildcards \
  '*/vendor/llama.cpp/include/*' '*/vendor/llama.cpp/ggml/include/*' '*/vendor/llama.cpp/ggml/CMakeLists.txt'
mkdir -p "$peer/include"
cp "$download"/include/*.h "$download"/ggml/include/*.h "$peer/include"
sed -n 's/^set(GGML_VERSION_\(MAJOR\|MINOR\|PATCH\) \([0-9]*\))/\2/p' "$download/ggml/CMakeLists.txt" | paste -sd. \
  > "$peer/include/GGML_VERSION"
touch "$peer/complete"
echo "$peer: headers of ggml $(cat "$peer/include/GGML_VERSION"), configure with -DNWC_LLAMA_PEER=$peer if it is not the default folder"
