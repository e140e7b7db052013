# Warnings for the project's own code.
add_library(nwc_warnings INTERFACE)
target_compile_options(nwc_warnings INTERFACE
  -Wall -Wextra -Wshadow
  $<$<COMPILE_LANGUAGE:CXX>:-Wconversion -Wnon-virtual-dtor -Woverloaded-virtual>)
if(NWC_WERROR)
  target_compile_options(nwc_warnings INTERFACE -Werror)
endif()
