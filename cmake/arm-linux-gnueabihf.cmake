# This is the toolchain of the preset "armhf".
include(${CMAKE_CURRENT_LIST_DIR}/debian_cross.cmake)
nwc_cross(armhf arm-linux-gnueabihf arm qemu-arm "32-bit ARM")
# GCC tells with every use that an old version passed some structs otherwise.
set(CMAKE_CXX_FLAGS_INIT -Wno-psabi)
