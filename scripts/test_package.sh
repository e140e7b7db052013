#!/usr/bin/env bash
# test_package.sh [FOLDER]: installs the packages of package.sh (build/packages) in a fresh Debian 12 in a folder of its
# own, uses the tool, the man pages and the library there, and removes them again. Needs root and debootstrap. NWC_MIRROR
# names another mirror of Debian than its own.
set -euo pipefail
cd "$(dirname "$0")/.."
packages=$(realpath "${1:-build/packages}")
[ "$(id -u)" = 0 ] || { echo "test_package.sh: needs root, to make a Debian of its own" >&2; exit 1; }
root=$(mktemp -d)
trap 'umount "$root/proc" 2>/dev/null || true; rm -rf "$root"' EXIT
debootstrap --variant=minbase bookworm "$root" "${NWC_MIRROR:-http://deb.debian.org/debian}" >/dev/null
cp -r /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/" # a proxy may stand there
cp /etc/resolv.conf "$root/etc/"
mount -t proc proc "$root/proc"
mkdir "$root/nwc"
cp "$packages"/*.deb "$root/nwc/"
cp -r models/gutenlm-2.6m "$root/nwc/model"
cp examples/decode_tensor.c "$root/nwc/"
run() { chroot "$root" env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@"; }

run apt-get update -qq
run apt-get install -y -qq --no-install-recommends gcc libc6-dev pkg-config man-db bash-completion >/dev/null
run sh -c 'rm -f /etc/dpkg/dpkg.cfg.d/docker; apt-get install -y -qq --no-install-recommends /nwc/*.deb' >/dev/null
run nwc --version
run nwc compress /nwc/model --bits 4 --calib none -q -o /nwc/g.nwc
run nwc verify /nwc/g.nwc -q
run nwc run /nwc/g.nwc --prompt "It was" -n 8 -q
run sh -c 'cc -std=c11 /nwc/decode_tensor.c $(pkg-config --cflags --libs nwc) -o /nwc/decode && /nwc/decode /nwc/g.nwc'
run sh -c 'man -w nwc nwc-compress && man nwc-compress | grep -q -- --bits'
run bash -c '. /usr/share/bash-completion/completions/nwc && COMP_WORDS=(nwc compress --feedback "") COMP_CWORD=3 && _nwc && [ "${COMPREPLY[*]}" = "none ldlq" ]'
run apt-get purge -y -qq nwc libnwc-dev 'libnwc0.*' >/dev/null
left=$(run sh -c 'ls /usr/bin/nwc /usr/include/nwc /usr/share/nwc /usr/share/man/man1/nwc* /usr/lib/*/libnwc* 2>/dev/null' || true)
[ -z "$left" ] || { echo "left behind: $left" >&2; exit 1; }
echo "the packages install, work and leave nothing behind"
