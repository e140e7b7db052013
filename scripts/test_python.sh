#!/usr/bin/env bash
# Builds Python's wheel around the library and the tool of a build tree, installs it in an empty virtual environment and runs
# tests/python there: the package, and its tutorial. Usage: scripts/test_python.sh [BUILD]     (default: build/release)
#   NWC_PYTHON        the Python to test with (default: python3)
#   NWC_TORCH_PYTHON  a Python that has torch and transformers: their tests run, too, with its packages
# It works in build/python. The tools that build the wheel, numpy and mypy come from PyPI: where that cannot be reached,
# nothing is tested, and the exit code is 77.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."

root=$PWD
build=$(realpath "${1:-build/release}")
work=$root/build/python
python=${NWC_PYTHON:-python3}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
unset PYTHONPATH
mkdir -p "$work"

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

make_tools() {  # python
  local tools
  tools=$work/tools-$(version_of "$1")
  [ -x "$tools/bin/mypy" ] && return
  "$1" -m venv --clear "$tools"
  "$tools/bin/pip" install -q 'scikit-build-core>=0.10' 'nanobind>=2.4' ninja numpy mypy && return
  if "$tools/bin/pip" download -q --no-deps -d "$work/reached" numpy; then return 1; fi
  echo "Python's package was NOT tested: PyPI cannot be reached"
  exit 77
}

# Prints the wheel's path. One for each version of Python that is tested.
build_wheel() {  # python
  local version tools dist launcher=()
  version=$(version_of "$1")
  tools=$work/tools-$version dist=$work/dist-$version
  command -v ccache >/dev/null && launcher=(-C cmake.define.CMAKE_CXX_COMPILER_LAUNCHER=ccache)
  rm -rf "$dist"
  PATH=$tools/bin:$PATH "$tools/bin/pip" wheel -q ./python --no-deps --no-build-isolation -w "$dist" \
    -C build-dir="$work/cmake-$version" -C cmake.define.NWC_BUILD_DIR="$build" "${launcher[@]}" >&2
  echo "$dist"/nwc-*.whl
}

run_tests() {  # python, modules...
  (cd tests/python && "$1" -W ignore::ResourceWarning -m unittest -v "${@:2}")
}

make_tools "$python"
cmake --build "$build" --target nwc nwc-wheel-tool -- --quiet
wheel=$(build_wheel "$python")
echo "wheel: $(basename "$wheel"), $(stat -c %s "$wheel") bytes"
if ldd "$build/bin/nwc-wheel" | grep -i mpi; then echo "the tool in the wheel needs MPI" >&2; exit 1; fi

tools=$work/tools-$(version_of "$python")
(cd python && "$tools/bin/mypy" --cache-dir "$work/mypy")

clean=$work/clean
"$python" -m venv --clear "$clean"
"$clean/bin/pip" install -q "$wheel"
run_tests "$clean/bin/python" test_package test_tutorial

if [ -z "${NWC_TORCH_PYTHON:-}" ]; then
  echo "torch and transformers: NOT tested, as NWC_TORCH_PYTHON names no Python that has them"
  exit 0
fi
if [ "$(version_of "$NWC_TORCH_PYTHON")" != "$(version_of "$python")" ]; then
  make_tools "$NWC_TORCH_PYTHON"
  wheel=$(build_wheel "$NWC_TORCH_PYTHON")
fi
torch=$work/torch
"$NWC_TORCH_PYTHON" -m venv --clear "$torch"
"$NWC_TORCH_PYTHON" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])' \
  >"$(echo "$torch"/lib/python3.*/site-packages)/zz_torch.pth"
"$torch/bin/pip" install -q --no-deps "$wheel"
run_tests "$torch/bin/python" test_torch test_transformers test_tutorial
