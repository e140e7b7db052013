# These warnings are for the project's own code.
add_library(nwc_warnings INTERFACE)
target_compile_options(nwc_warnings INTERFACE
  -Wall -Wextra -Wshadow
  $<$<COMPILE_LANGUAGE:CXX>:-Wconversion -Wnon-virtual-dtor -Woverloaded-virtual>)
# GCC 12 and 13 see overlapping copies in std::string's own code (GCC bug 105651).
target_compile_options(nwc_warnings INTERFACE $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-restrict>)
if(CMAKE_SIZEOF_VOID_P EQUAL 4)
  # Sizes have 64 bits and become size_t wherever memory is meant. What may be too large is refused before, in three
  # places (addressable() in runtime/base/checked.h).
  target_compile_options(nwc_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-conversion>)
endif()
if(NWC_WERROR)
  target_compile_options(nwc_warnings INTERFACE -Werror)
endif()
