# Files that are compiled for more than the rest must not lend it code: what the linker may take from them in place of the
# same from elsewhere (weak functions) has to be of a namespace of their own, or not there at all.
#   cmake -DNM=nm -DOBJECT=dense_kernels_avx512.cpp.o -DOWN=EigenAvx512 -P confined.cmake
#   cmake -DNM=nm -DOBJECT=viterbi_avx512.cpp.o -DDEFINES=kViterbiAvx512 -P confined.cmake
# OWN: namespace of the weak functions, of which there have to be some. DEFINES: a symbol that is there, else this test
# looks at the wrong file.
execute_process(COMMAND ${NM} -C --defined-only ${OBJECT} OUTPUT_VARIABLE symbols RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "${NM} does not read ${OBJECT}")
endif()
if(DEFINES AND NOT symbols MATCHES "${DEFINES}")
  message(FATAL_ERROR "${OBJECT} does not define ${DEFINES}: this test looks at the wrong file")
endif()
string(REGEX REPLACE ";" "," symbols "${symbols}")
string(REPLACE "\n" ";" symbols "${symbols}")
set(weak 0)
foreach(symbol IN LISTS symbols)
  if(NOT symbol MATCHES "^[0-9a-f]+ W ")
    continue()
  endif()
  math(EXPR weak "${weak} + 1")
  if(NOT OWN OR NOT symbol MATCHES "${OWN}")
    list(APPEND lent "${symbol}")
  endif()
endforeach()
if(lent)
  list(JOIN lent "\n  " lent)
  message(FATAL_ERROR "${OBJECT} lends code to files that run on other processors:\n  ${lent}")
endif()
if(OWN AND weak EQUAL 0)
  message(FATAL_ERROR "${OBJECT} has no weak function: this test looks at the wrong file")
endif()
message(STATUS "${weak} weak functions, none of them anybody else's")
