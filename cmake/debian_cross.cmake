# What the toolchains of Debian's cross compilers share: the compiler, qemu-user, which runs what it makes, and where
# libraries that it lacks (zlib) are looked for: in build/<preset>-root, where scripts/setup.sh unpacks them, and where
# Debian has them if the architecture was added to the system.
# nwc_cross(<preset> <triplet> <processor> <emulator> <name of the architecture in an error's text>)
macro(nwc_cross preset triplet processor emulator name)
  find_program(NWC_CROSS_COMPILER ${triplet}-g++)
  if(NOT NWC_CROSS_COMPILER)
    message(FATAL_ERROR "There is no cross compiler ${triplet}-g++. On Debian and Ubuntu, scripts/setup.sh "
                        "--${preset} installs it (g++-${triplet}), with the emulator qemu-user, GoogleTest's "
                        "sources, and zlib for ${name}.")
  endif()
  set(CMAKE_SYSTEM_NAME Linux)
  set(CMAKE_SYSTEM_PROCESSOR ${processor})
  set(CMAKE_C_COMPILER ${triplet}-gcc)
  set(CMAKE_CXX_COMPILER ${triplet}-g++)
  set(CMAKE_LIBRARY_ARCHITECTURE ${triplet})
  set(CMAKE_CROSSCOMPILING_EMULATOR ${emulator} -L /usr/${triplet})

  set(CMAKE_FIND_ROOT_PATH ${CMAKE_CURRENT_LIST_DIR}/../build/${preset}-root /usr/${triplet})
  set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
endmacro()
