# NWC_SANITIZE is "", "address,undefined" or "thread".
set(NWC_SANITIZE "" CACHE STRING "Sanitizers to build with")
add_library(nwc_sanitizers INTERFACE)
if(NWC_SANITIZE)
  target_compile_options(nwc_sanitizers INTERFACE
    -fsanitize=${NWC_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  # The address sanitizer reports what these would, and they take a third of the time of compilation.
  if(NWC_SANITIZE MATCHES "address")
    target_compile_options(nwc_sanitizers INTERFACE -fno-sanitize=null,vptr,object-size)
  endif()
  # Instrumented code confuses GCC's flow analysis (its manual says so, at -Wmaybe-uninitialized).
  target_compile_options(nwc_sanitizers INTERFACE $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  target_link_options(nwc_sanitizers INTERFACE -fsanitize=${NWC_SANITIZE})
  # Clang's checks of C++ need a part of its runtime that it leaves out of programs in C, which call a library in C++.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND NWC_SANITIZE MATCHES "undefined" AND NOT NWC_FUZZ)
    target_link_options(nwc_sanitizers INTERFACE -fsanitize-link-c++-runtime)
    target_link_libraries(nwc_sanitizers INTERFACE stdc++)
  endif()
endif()
