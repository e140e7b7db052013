# nwc_report_size(<shared library>): the build says how large it is, stripped, with and without embedded shaders, and
# leaves the numbers in <build>/lib/<name>.size for the tests.
# As a script (-P), this file is what measures: -DLIBRARY -DNAME -DSTRIP -DNM -DOUTPUT.
if(NOT CMAKE_SCRIPT_MODE_FILE)
  set(nwc_library_size_script ${CMAKE_CURRENT_LIST_FILE})
  function(nwc_report_size name)
    if(NWC_SANITIZE)  # its size says nothing of what ships
      return()
    endif()
    add_custom_command(TARGET ${name} POST_BUILD
      COMMAND ${CMAKE_COMMAND} -DLIBRARY=$<TARGET_FILE:${name}> -DNAME=lib${name} -DSTRIP=${CMAKE_STRIP}
              -DNM=${CMAKE_NM} -DOUTPUT=${CMAKE_LIBRARY_OUTPUT_DIRECTORY}/${name}.size
              -P ${nwc_library_size_script}
      BYPRODUCTS ${CMAKE_LIBRARY_OUTPUT_DIRECTORY}/${name}.size
      VERBATIM)
  endfunction()
  return()
endif()

execute_process(COMMAND ${STRIP} -s -o ${OUTPUT}.stripped ${LIBRARY} COMMAND_ERROR_IS_FATAL ANY)
file(SIZE ${OUTPUT}.stripped stripped)
file(REMOVE ${OUTPUT}.stripped)

# nm -S prints address, size, type and name. Shaders are the arrays that glslang names <shader>_spv.
execute_process(COMMAND ${NM} -S ${LIBRARY} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[0-9a-f]+ [0-9a-f]+ [rR] [^\n]*_spvE?\n" shaders "${symbols}")
set(shader_bytes 0)
foreach(line ${shaders})
  string(REGEX REPLACE "^[0-9a-f]+ ([0-9a-f]+) .*" "\\1" size ${line})
  math(EXPR shader_bytes "${shader_bytes} + 0x${size}")
endforeach()
math(EXPR code "${stripped} - ${shader_bytes}")
math(EXPR code_kib "(${code} + 1023) / 1024")
math(EXPR stripped_kib "(${stripped} + 1023) / 1024")
file(WRITE ${OUTPUT} "stripped ${stripped}\nshaders ${shader_bytes}\nwithout_shaders ${code}\n")
message("${NAME}: ${stripped_kib} KiB stripped, ${code_kib} KiB without embedded shaders")
