#!/usr/bin/env bash
# Installs what building and testing need on Debian and Ubuntu; does nothing where all of it is there.
# On other systems install the counterparts of the packages below by hand. NWC_SKIP_SETUP=1 skips this script.
set -euo pipefail

packages=(
  build-essential cmake ninja-build pkg-config python3
  zlib1g-dev libvulkan-dev glslang-tools                                    # runtime
  libeigen3-dev nlohmann-json3-dev libcli11-dev libfmt-dev                  # trainer and command line
  mesa-vulkan-drivers                                                       # Vulkan without a GPU
)
if [ "${1:-}" != "--build-only" ]; then
  packages+=(libgtest-dev libgmock-dev libbenchmark-dev vulkan-validationlayers clang)
fi
[ "${NWC_SKIP_SETUP:-0}" = 1 ] && exit 0

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

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
