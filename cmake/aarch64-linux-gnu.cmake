# This is the toolchain of the preset "aarch64": Debian's cross compiler, and qemu-user, which runs what it makes.
# Libraries that it lacks (zlib) are looked for in build/aarch64-root, where scripts/setup.sh unpacks them, and where
# Debian has them if the architecture arm64 was added to the system.
find_program(NWC_AARCH64_COMPILER aarch64-linux-gnu-g++)
if(NOT NWC_AARCH64_COMPILER)
  message(FATAL_ERROR "There is no cross compiler aarch64-linux-gnu-g++. On Debian and Ubuntu, scripts/setup.sh "
                      "--aarch64 installs it (g++-aarch64-linux-gnu), with the emulator qemu-user, GoogleTest's "
                      "sources, and zlib for AArch64.")
endif()
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)

set(CMAKE_FIND_ROOT_PATH ${CMAKE_CURRENT_LIST_DIR}/../build/aarch64-root /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
