#!/usr/bin/env bash
# Installs what building and testing need on Debian and Ubuntu; does nothing where all of it is there.
# On other systems install the counterparts of the packages below by hand. NWC_SKIP_SETUP=1 skips this script.
# Usage: scripts/setup.sh [--build-only | --aarch64 | --armhf | --mingw | --fuzz | --package]
#   --build-only  without what only tests need
#   --aarch64     what building for AArch64 and testing under emulation need besides
#   --armhf       the same for 32-bit ARM
#   --mingw       the same for Windows, under Wine
#   --fuzz        what fuzzing needs besides: Clang and its libFuzzer
#   --package     what Debian packages and trying them need besides
set -euo pipefail
cd "$(dirname "$0")/.."

# The version of the package "clang", which the package of its sanitizers and libFuzzer has in its name.
clang_version() {
  local depends
  depends=$(apt-cache depends clang 2>/dev/null) || true
  [[ $depends =~ clang-([0-9]+) ]] && echo "${BASH_REMATCH[1]}" || echo 14
}

packages=(
  build-essential cmake ninja-build pkg-config python3
  zlib1g-dev libvulkan-dev glslang-tools                                    # runtime
  libeigen3-dev nlohmann-json3-dev libcli11-dev libfmt-dev libpng-dev       # trainer and command line
  mesa-vulkan-drivers                                                       # Vulkan without a GPU
)
case "${1:-}" in
  --build-only) ;;
  --package) packages+=(debootstrap dpkg-dev file help2man) ;;
  --aarch64) packages=(g++-aarch64-linux-gnu qemu-user googletest zlib1g-dev nlohmann-json3-dev) ;;
  --armhf) packages=(g++-arm-linux-gnueabihf qemu-user googletest zlib1g-dev nlohmann-json3-dev) ;;
  --mingw) packages+=(g++-mingw-w64-x86-64-posix libz-mingw-w64-dev wine64 googletest) ;;
  --fuzz) packages+=(clang "libclang-rt-$(clang_version)-dev") ;;
  *) packages+=(libgtest-dev libgmock-dev libbenchmark-dev vulkan-validationlayers clang "libclang-rt-$(clang_version)-dev"
    libopenmpi-dev openmpi-bin python3-dev python3-venv) ;;
esac
[ "${NWC_SKIP_SETUP:-0}" = 1 ] && exit 0

# zlib for another architecture is unpacked into build/<name>-root, where cmake/*.cmake look for it. Adding the
# architecture to the system would do, too, but change more of it than a test may. apt works on lists of its own
# instead.
fetch_zlib() {  # Debian's name of the architecture, its folder of libraries, ours
  local root=build/$3-root library=usr/lib/$2/libz.a
  if [ -e "$root/$library" ] || [ -e "/$library" ]; then return 0; fi
  local work
  work=$(mktemp -d)
  local apt=(apt-get -q -o APT::Architecture="$1" -o APT::Architectures="$1" -o APT::Sandbox::User=root
    -o Dir::State="$work" -o Dir::State::status=/dev/null -o Dir::Cache="$work" -o Acquire::Languages=none)
  mkdir -p "$work/lists/partial" "$work/archives/partial" build
  echo "setup: fetching zlib1g-dev for $1" >&2
  # One list of several may be out of date for a moment: whether the package comes is what counts.
  if (cd "$work" && { "${apt[@]}" update || true; } && "${apt[@]}" download zlib1g-dev && dpkg-deb -x zlib1g-dev_*.deb root) \
      >"$work/log" 2>&1 </dev/null && [ -e "$work/root/$library" ]; then
    rm "$work/root/${library%.a}.so"  # leads nowhere: the shared library is in another package
    rm -rf "$root" && mv "$work/root" "$root" && rm -rf "$work"
  else
    cat "$work/log" >&2
    rm -rf "$work"
    echo "setup: could not fetch zlib1g-dev for $1" >&2
    return 1
  fi
}
# Headers that are the same on every system are put into build/mingw-root: /usr/include has this system's own as well.
gather_headers() {
  local root=build/mingw-root name
  rm -rf "$root" && mkdir -p "$root"/include "$root"/share/cmake "$root"/share/eigen3
  for name in vulkan vk_video nlohmann CLI fmt eigen3; do ln -s "/usr/include/$name" "$root/include/$name"; done
  cp -r /usr/share/cmake/CLI11 /usr/share/cmake/nlohmann_json "$root/share/cmake/"
  cp -r /usr/share/eigen3/cmake "$root/share/eigen3/"
}
finish() {
  case "$1" in
    --aarch64) fetch_zlib arm64 aarch64-linux-gnu aarch64 || exit 1 ;;
    --armhf) fetch_zlib armhf arm-linux-gnueabihf armhf || exit 1 ;;
    --mingw) gather_headers || exit 1 ;;
  esac
  exit 0
}

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && finish "${1:-}"

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "setup: run as root or install: ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install_packages() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" \
    >"$log" 2>&1 </dev/null
}
echo "setup: installing ${missing[*]}" >&2
# The package lists are fetched only if they turn out to be needed: they may be fresh, or the machine offline.
if ! install_packages; then
  "${as_root[@]}" apt-get update -q >"$log" 2>&1 </dev/null && install_packages ||
    { cat "$log" >&2; echo "setup: could not install ${missing[*]}" >&2; exit 1; }
fi
finish "${1:-}"
