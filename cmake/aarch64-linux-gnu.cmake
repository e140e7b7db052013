# This is the toolchain of the preset "aarch64".
include(${CMAKE_CURRENT_LIST_DIR}/debian_cross.cmake)
nwc_cross(aarch64 aarch64-linux-gnu aarch64 qemu-aarch64 AArch64)
