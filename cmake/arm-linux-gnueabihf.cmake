# This is the toolchain of the preset "armhf": Debian's cross compiler for 32-bit ARM, and qemu-user, which runs what it
# makes. Libraries that it lacks (zlib) are looked for in build/armhf-root, where scripts/setup.sh unpacks them, and where
# Debian has them if the architecture armhf was added to the system.
find_program(NWC_ARMHF_COMPILER arm-linux-gnueabihf-g++)
if(NOT NWC_ARMHF_COMPILER)
  message(FATAL_ERROR "There is no cross compiler arm-linux-gnueabihf-g++. On Debian and Ubuntu, scripts/setup.sh "
                      "--armhf installs it (g++-arm-linux-gnueabihf), with the emulator qemu-user, GoogleTest's "
                      "sources, and zlib for 32-bit ARM.")
endif()
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR arm)
set(CMAKE_C_COMPILER arm-linux-gnueabihf-gcc)
set(CMAKE_CXX_COMPILER arm-linux-gnueabihf-g++)
set(CMAKE_LIBRARY_ARCHITECTURE arm-linux-gnueabihf)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-arm -L /usr/arm-linux-gnueabihf)
# GCC tells with every use that an old version passed some structs otherwise.
set(CMAKE_CXX_FLAGS_INIT -Wno-psabi)

set(CMAKE_FIND_ROOT_PATH ${CMAKE_CURRENT_LIST_DIR}/../build/armhf-root /usr/arm-linux-gnueabihf)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
