# nwc_add_shaders(<target> <list of .comp files>): compiles each shader with glslang into a header <name>.spv.h that
# holds `const uint32_t <name>_spv[]`, in the build tree, with a dependency file. Shaders have no names in them, and are
# optimized for size where glslang has its optimizer: that is a third less to embed and for drivers to compile.
function(nwc_add_shaders target)
  find_program(NWC_GLSLANG NAMES glslangValidator glslang REQUIRED)
  set(out_dir ${CMAKE_BINARY_DIR}/generated/shaders)
  set(options -g0 -Os)
  file(WRITE ${out_dir}/probe.comp "#version 450\nvoid main() {}\n")
  execute_process(COMMAND ${NWC_GLSLANG} --quiet ${options} --target-env vulkan1.1 -o ${out_dir}/probe.spv
                          ${out_dir}/probe.comp
                  RESULT_VARIABLE failed OUTPUT_QUIET ERROR_QUIET)
  if(failed)
    message(STATUS "${NWC_GLSLANG} has no optimizer: larger shaders")
    set(options -g0)
  endif()
  set(headers)
  foreach(source ${ARGN})
    get_filename_component(name ${source} NAME_WE)
    set(header ${out_dir}/${name}.spv.h)
    add_custom_command(
      OUTPUT ${header}
      COMMAND ${CMAKE_COMMAND} -E make_directory ${out_dir}
      COMMAND ${NWC_GLSLANG} --quiet ${options} --target-env vulkan1.1 -I${CMAKE_CURRENT_SOURCE_DIR}
              --depfile ${header}.d --vn ${name}_spv -o ${header} ${CMAKE_CURRENT_SOURCE_DIR}/${source}
      DEPENDS ${source}
      DEPFILE ${header}.d
      VERBATIM)
    list(APPEND headers ${header})
  endforeach()
  add_custom_target(${target}_headers DEPENDS ${headers})
  add_library(${target} INTERFACE)
  add_dependencies(${target} ${target}_headers)
  target_include_directories(${target} INTERFACE ${CMAKE_BINARY_DIR}/generated)
endfunction()
