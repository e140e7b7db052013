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
endif()
