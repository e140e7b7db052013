# cmake -DSOURCE_DIR=<repository> -P layering.cmake
# The dependency law, read from the #include lines of every source file:
#   c_api -> engine -> {decoder -> {vulkan, codec, model}, graph} -> format -> base      (siblings in braces do not meet)
#   Vulkan parts of the runtime -> shaders/common/push_constants.h, which shaders and C++ share
#   trainer -> runtime/{base,format,graph,codec,model,decoder,engine}, in an order of its own folders;  host-tools -> trainer, runtime;  shaders -> shaders/common
# and besides: headers of operating systems only in runtime/base/os_*.cpp, trainer/data/os_files_*.cpp and
# host-tools/process_*.cpp, paths of the standard library only by fs_path(), exceptions and RTTI in the runtime only where runtime/base/exceptions.* turns them into errors, Vulkan headers only in the Vulkan parts, MPI's, BLAS's and CLI11's in one file each, neither Eigen nor JSON in the runtime, file names unique.
# -DSELF_CHECK=ON feeds it samples that break each rule, and fails unless every one is found.
cmake_minimum_required(VERSION 3.22)

set(allow_base base)
set(allow_format format base)
set(allow_graph graph format base)
set(allow_codec codec format base)
set(allow_model model format base)
set(allow_vulkan vulkan format base)
set(allow_decoder decoder vulkan codec model format base)
set(allow_engine engine graph decoder vulkan codec model format base)
set(allow_c_api c_api include engine graph decoder codec model format base)
set(allow_include include)
set(allow_trainer base format graph codec model decoder engine)

# Within the trainer, what each folder may include of the others.
set(trainer_data)
set(trainer_nn)
set(trainer_parallel)
set(trainer_linalg nn)
set(trainer_optim nn)
set(trainer_codec data nn)
set(trainer_llm linalg data nn)
set(trainer_train codec data nn optim)
set(trainer_calib llm linalg data nn parallel)
set(trainer_search linalg codec data nn)
set(trainer_plan search linalg calib llm codec data nn parallel)
set(trainer_recover plan search calib llm linalg codec data nn parallel optim)
set(trainer_encode recover plan search calib llm codec data nn parallel optim)
set(trainer_inspect codec data nn)
set(trainer_text data nn)
set(trainer_eval data)

# Sets `out` to what is wrong with file `path` (relative to the repository) holding the include `target`, or to "".
function(check_include path target out)
  set(${out} "" PARENT_SCOPE)
  string(REGEX MATCH "^(runtime|trainer|host-tools|shaders)/" _ "${path}")
  set(area "${CMAKE_MATCH_1}")
  set(is_vulkan FALSE)
  if(path MATCHES "^runtime/(vulkan|decoder/vulkan)/" OR path MATCHES "_vulkan[^/]*\\.(cpp|h)$")
    set(is_vulkan TRUE)
  endif()

  if(area STREQUAL "shaders")
    if(NOT target MATCHES "^common/[^/]+$" AND NOT (path MATCHES "^shaders/common/" AND target MATCHES "^[^/]+$"))
      set(${out} "shaders include nothing but shaders/common" PARENT_SCOPE)
    endif()
    return()
  endif()
  if(target MATCHES "^(sys/.*|unistd|fcntl|dlfcn|dirent|poll|pthread|sched|spawn|termios|windows|io|process|psapi|shellapi)\\.h$"
     AND NOT path MATCHES "^(runtime/base/os|trainer/data/os_files|host-tools/process)_(posix|windows)\\.cpp$")
    set(${out} "of the runtime, the trainer and the tool, runtime/base/os_*.cpp, trainer/data/os_files_*.cpp and host-tools/process_*.cpp alone know the operating system" PARENT_SCOPE)
  elseif(target MATCHES "^(vulkan|volk)[/.]" AND NOT is_vulkan)
    set(${out} "Vulkan headers belong in runtime/vulkan and *_vulkan* files" PARENT_SCOPE)
  elseif(target MATCHES "^mpi[^/]*\\.h$" AND NOT path STREQUAL "trainer/parallel/ranks_mpi.cpp")
    set(${out} "only trainer/parallel/ranks_mpi.cpp knows of MPI" PARENT_SCOPE)
  elseif(target STREQUAL "cblas.h" AND NOT path STREQUAL "trainer/linalg/tile_ops_blas.cpp")
    set(${out} "only trainer/linalg/tile_ops_blas.cpp knows of BLAS" PARENT_SCOPE)
  elseif(target MATCHES "^(tests|bench)/")
    set(${out} "only tests and benchmarks include these" PARENT_SCOPE)
  elseif(target MATCHES "^CLI/" AND NOT path STREQUAL "host-tools/command_line.cpp")
    set(${out} "only host-tools/command_line.cpp knows of CLI11" PARENT_SCOPE)
  elseif(area STREQUAL "runtime")
    if(target MATCHES "^shaders/" AND NOT (is_vulkan AND target MATCHES "^shaders/([^/]+\\.spv\\.h|common/push_constants\\.h)$"))
      set(${out} "of the shaders, Vulkan parts include compiled ones and push_constants.h" PARENT_SCOPE)
    elseif(target MATCHES "^(Eigen|nlohmann|fmt)/")
      set(${out} "the runtime knows nothing of this library" PARENT_SCOPE)
    elseif(target MATCHES "^(trainer|host-tools)/")
      set(${out} "the runtime includes only the runtime" PARENT_SCOPE)
    elseif(target MATCHES "^runtime/([^/]+)/")
      set(to ${CMAKE_MATCH_1})
      string(REGEX MATCH "^runtime/([^/]+)/" _ "${path}")
      set(from ${CMAKE_MATCH_1})
      if(NOT DEFINED allow_${from})
        set(${out} "runtime/${from} has no place in the law: add it to tests/layering.cmake" PARENT_SCOPE)
      elseif(NOT to IN_LIST allow_${from})
        set(${out} "${from} may include ${allow_${from}}" PARENT_SCOPE)
      elseif(to STREQUAL "vulkan" AND NOT is_vulkan)
        set(${out} "only *_vulkan* files include runtime/vulkan" PARENT_SCOPE)
      endif()
    endif()
  elseif(area STREQUAL "trainer")
    if(target MATCHES "^host-tools/")
      set(${out} "the trainer does not include the tools" PARENT_SCOPE)
    elseif(target MATCHES "^runtime/([^/]+)/" AND NOT CMAKE_MATCH_1 IN_LIST allow_trainer)
      set(${out} "the trainer may include runtime/ ${allow_trainer}" PARENT_SCOPE)
    elseif(target MATCHES "^trainer/([^/]+)/")
      set(to ${CMAKE_MATCH_1})
      string(REGEX MATCH "^trainer/([^/]+)/" _ "${path}")
      set(from "${CMAKE_MATCH_1}")
      if(NOT DEFINED trainer_${from} AND NOT from STREQUAL "data" AND NOT from STREQUAL "nn" AND NOT from STREQUAL "parallel"
         AND NOT from STREQUAL "linalg")
        set(${out} "trainer/${from} has no place in the law: add it to tests/layering.cmake" PARENT_SCOPE)
      elseif(NOT to STREQUAL from AND NOT to IN_LIST trainer_${from})
        set(${out} "trainer/${from} may include ${trainer_${from}}" PARENT_SCOPE)
      endif()
    endif()
  endif()
endfunction()

# Words for which one place of the project stands: what a line is looked at for, and what is wrong with one that has them
# elsewhere.
set(path_words "(fs|filesystem)::path(\\(| [a-z]+\\()")
set(exception_words "(^|[^a-z_])(throw;|throw [a-zA-Z_:]+[({]|try [{]|catch [(]|dynamic_cast<|typeid[(])")
function(check_line path line out)
  set(${out} "" PARENT_SCOPE)
  if(line MATCHES "${path_words}" AND NOT path MATCHES "^(trainer/data/(fs_path\\.h|os_files_)|host-tools/process_)")
    set(${out} "it makes a path of bytes, where fs_path() of trainer/data/fs_path.h takes UTF-8" PARENT_SCOPE)
  elseif(line MATCHES "${exception_words}" AND path MATCHES "^runtime/" AND NOT path MATCHES "^runtime/base/exceptions\\.")
    set(${out} "the runtime is built without exceptions and RTTI, too: runtime/base/exceptions.h turns them into errors" PARENT_SCOPE)
  endif()
endfunction()

function(report message)
  set_property(GLOBAL APPEND PROPERTY violations "${message}")
endfunction()

# Names of headers and sources say where they are, in messages and in the debugger, only if there is one of each.
function(check_names paths)
  set(seen "")
  foreach(path ${paths})
    get_filename_component(name ${path} NAME)
    if(name STREQUAL "CMakeLists.txt")
      continue()
    endif()
    if(name IN_LIST seen)
      report("${path}: another file has this name")
    endif()
    list(APPEND seen ${name})
  endforeach()
endfunction()

if(SELF_CHECK)
  set(good
    "runtime/codec/a.cpp|runtime/format/b.h" "runtime/decoder/x_vulkan.cpp|runtime/vulkan/device.h"
    "runtime/vulkan/a.cpp|vulkan/vulkan.h" "trainer/nn/a.h|Eigen/Dense" "trainer/encode/a.h|trainer/plan/b.h"
    "runtime/decoder/vulkan/a.cpp|runtime/vulkan/b.h" "host-tools/a.cpp|runtime/engine/b.h"
    "runtime/c_api/a.cpp|runtime/include/nwc/nwc.h" "shaders/a.comp|common/bits.glsl" "runtime/base/a.cpp|vector"
    "runtime/codec/tile_decode_avx2.cpp|immintrin.h" "trainer/parallel/ranks_mpi.cpp|mpi.h" "trainer/linalg/tile_ops_blas.cpp|cblas.h"
    "trainer/search/a.cpp|trainer/linalg/b.h" "trainer/calib/a.cpp|trainer/parallel/b.h"
    "runtime/engine/x_vulkan.cpp|shaders/common/push_constants.h" "shaders/common/push_constants.h|cstdint"
    "runtime/base/os_posix.cpp|sys/stat.h" "trainer/data/os_files_windows.cpp|windows.h" "host-tools/process_posix.cpp|unistd.h"
    "host-tools/command_line.cpp|CLI/CLI.hpp")
  set(bad
    "runtime/base/reader.cpp|unistd.h" "trainer/calib/a.cpp|sys/file.h" "host-tools/a.cpp|windows.h" "host-tools/a.h|io.h"
    "host-tools/cmd_a.cpp|CLI/CLI.hpp"
    "trainer/search/a.cpp|cblas.h" "trainer/linalg/a.cpp|trainer/search/b.h"
    "runtime/base/a.h|runtime/format/b.h" "runtime/format/a.h|runtime/codec/b.h" "runtime/codec/a.h|runtime/model/b.h"
    "runtime/model/a.h|runtime/codec/b.h" "runtime/vulkan/a.h|runtime/codec/b.h" "runtime/decoder/a.h|runtime/engine/b.h"
    "runtime/engine/a.h|runtime/c_api/b.h" "runtime/codec/a.h|trainer/nn/b.h" "runtime/codec/a.h|Eigen/Dense"
    "runtime/model/a.h|nlohmann/json.hpp" "runtime/engine/a.cpp|vulkan/vulkan.h" "runtime/decoder/a.cpp|runtime/vulkan/b.h"
    "runtime/engine/a.cpp|runtime/vulkan/b.h" "runtime/engine/a.cpp|shaders/common/push_constants.h"
    "runtime/vulkan/a.cpp|shaders/common/other.h"
    "runtime/novel/a.cpp|runtime/base/b.h" "trainer/a.h|host-tools/b.h" "trainer/a.h|runtime/vulkan/b.h"
    "trainer/train/a.h|trainer/encode/b.h" "trainer/codec/a.h|trainer/train/b.h" "trainer/data/a.h|trainer/nn/b.h"
    "trainer/novel/a.h|trainer/data/b.h" "trainer/calib/a.cpp|mpi.h" "trainer/parallel/a.cpp|trainer/calib/b.h"
    "trainer/a.h|runtime/c_api/b.h" "host-tools/a.cpp|tests/b.h" "shaders/a.comp|other/b.glsl")
  foreach(kind good bad)
    foreach(sample ${${kind}})
      string(REPLACE "|" ";" parts ${sample})
      list(GET parts 0 path)
      list(GET parts 1 target)
      check_include(${path} ${target} found)
      if((kind STREQUAL "bad" AND found STREQUAL "") OR (kind STREQUAL "good" AND NOT found STREQUAL ""))
        message(FATAL_ERROR "self-check: ${path} including ${target} should be ${kind}, the answer is '${found}'")
      endif()
    endforeach()
  endforeach()
  set(good_lines "runtime/base/exceptions.h|    try {" "trainer/a.cpp|  throw Error(1)" "trainer/data/fs_path.h|fs::path(s)"
    "runtime/a.cpp|// What may throw out of memory")
  set(bad_lines "runtime/engine/a.cpp|  try {" "runtime/a.h|throw std::bad_alloc()" "runtime/a.h|  } catch (const E& e) {"
    "runtime/a.cpp|x = dynamic_cast<B*>(a)" "runtime/a.cpp|typeid(a)" "trainer/a.cpp|fs::path(name)" "host-tools/a.cpp|std::filesystem::path p(name)")
  foreach(kind good bad)
    foreach(sample ${${kind}_lines})
      string(REGEX MATCH "^([^|]*)\\|(.*)$" _ "${sample}")
      set(line "${CMAKE_MATCH_2}")
      check_line("${CMAKE_MATCH_1}" "${line}" found)
      if((kind STREQUAL "bad" AND found STREQUAL "") OR (kind STREQUAL "good" AND NOT found STREQUAL ""))
        message(FATAL_ERROR "self-check: '${sample}' should be ${kind}, the answer is '${found}'")
      endif()
    endforeach()
  endforeach()
  check_names("runtime/base/a.h;trainer/data/a.h")
  get_property(violations GLOBAL PROPERTY violations)
  if(NOT violations)
    message(FATAL_ERROR "self-check: two files of one name were not found")
  endif()
  message(STATUS "layering: the check finds every violation it is fed")
  return()
endif()

file(GLOB_RECURSE paths RELATIVE ${SOURCE_DIR}
  ${SOURCE_DIR}/runtime/*.h ${SOURCE_DIR}/runtime/*.cpp ${SOURCE_DIR}/runtime/*.inc
  ${SOURCE_DIR}/trainer/*.h ${SOURCE_DIR}/trainer/*.cpp ${SOURCE_DIR}/host-tools/*.h ${SOURCE_DIR}/host-tools/*.cpp)
check_names("${paths}")
file(GLOB_RECURSE shaders RELATIVE ${SOURCE_DIR} ${SOURCE_DIR}/shaders/*.comp ${SOURCE_DIR}/shaders/*.glsl ${SOURCE_DIR}/shaders/*.h)
list(LENGTH paths count)
if(count LESS 20)
  message(FATAL_ERROR "layering: only ${count} files found under ${SOURCE_DIR}: wrong folder?")
endif()
foreach(path ${paths} ${shaders})
  file(STRINGS ${SOURCE_DIR}/${path} lines REGEX "${path_words}|${exception_words}")
  foreach(line ${lines})
    check_line("${path}" "${line}" found)
    if(found)
      report("${path}: ${found}: ${line}")
    endif()
  endforeach()
  file(STRINGS ${SOURCE_DIR}/${path} lines REGEX "^[ \t]*#[ \t]*include[ \t]*[<\"]")
  foreach(line ${lines})
    string(REGEX MATCH "[<\"]([^>\"]+)[>\"]" _ "${line}")
    check_include(${path} "${CMAKE_MATCH_1}" found)
    if(found)
      report("${path} includes ${CMAKE_MATCH_1}: ${found}")
    endif()
  endforeach()
endforeach()
get_property(violations GLOBAL PROPERTY violations)
if(violations)
  list(JOIN violations "\n  " text)
  message(FATAL_ERROR "layering: the dependency law is broken\n  ${text}")
endif()
message(STATUS "layering: ${count} files keep the law")
