# This is the toolchain of the preset "mingw": Debian's mingw-w64, and Wine, which runs what it makes. The result needs
# no library beside Windows' own: GCC's and zlib are linked in.
find_program(NWC_MINGW_COMPILER x86_64-w64-mingw32-g++-posix)
if(NOT NWC_MINGW_COMPILER)
  message(FATAL_ERROR "There is no compiler x86_64-w64-mingw32-g++-posix. On Debian and Ubuntu, scripts/setup.sh "
                      "--mingw installs it (g++-mingw-w64-x86-64-posix), with Wine, GoogleTest's sources and zlib.")
endif()
set(CMAKE_SYSTEM_NAME Windows)
set(CMAKE_SYSTEM_PROCESSOR x86_64)
set(CMAKE_C_COMPILER x86_64-w64-mingw32-gcc-posix)
set(CMAKE_CXX_COMPILER x86_64-w64-mingw32-g++-posix)
set(CMAKE_RC_COMPILER x86_64-w64-mingw32-windres)
find_program(NWC_WINE NAMES wine wine64 wine64-stable PATHS /usr/lib/wine)
set(CMAKE_CROSSCOMPILING_EMULATOR ${NWC_WINE})

# The stack is aligned to 16 bytes here, and GCC keeps vectors of 32 there as if it were more (GCC bug 54412): the
# assembler makes every aligned move of vectors an unaligned one, which costs nothing where the address is aligned.
foreach(language C CXX)
  set(CMAKE_${language}_FLAGS_INIT "-Wa,-muse-unaligned-vector-move")
endforeach()
foreach(kind EXE SHARED)
  set(CMAKE_${kind}_LINKER_FLAGS_INIT "-static")
endforeach()
# Headers without a system's own in them lie in build/mingw-root, where scripts/setup.sh puts them.
set(CMAKE_FIND_ROOT_PATH ${CMAKE_CURRENT_LIST_DIR}/../build/mingw-root /usr/x86_64-w64-mingw32)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(ZLIB_LIBRARY /usr/x86_64-w64-mingw32/lib/libz.a CACHE FILEPATH "zlib, to be linked in")
