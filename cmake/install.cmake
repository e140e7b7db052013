# This says what `cmake --install` puts where: the libraries (nwc, and nwc_decode, which decodes and runs nothing), their
# header, the codecs, and the files by which pkg-config and find_package(nwc) find the libraries.
include(CMakePackageConfigHelpers)

install(TARGETS nwc nwc_decode EXPORT nwc-targets
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT library  # Windows looks for libraries beside programs
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT library NAMELINK_COMPONENT dev
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT dev)
install(FILES runtime/include/nwc/nwc.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/nwc COMPONENT dev)
install(DIRECTORY codecs/ DESTINATION ${CMAKE_INSTALL_DATADIR}/nwc/codecs COMPONENT tools
  FILES_MATCHING PATTERN "*.nwcc")

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/nwc)
install(EXPORT nwc-targets NAMESPACE nwc:: DESTINATION ${package_dir} COMPONENT dev)
configure_package_config_file(cmake/nwc-config.cmake.in ${PROJECT_BINARY_DIR}/nwc-config.cmake
  INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/nwc-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/nwc-config.cmake ${PROJECT_BINARY_DIR}/nwc-config-version.cmake
  DESTINATION ${package_dir} COMPONENT dev)

# pkg-config's files name the prefix, which `cmake --install --prefix` may change: they are written at installation.
set(nwc_pc_private_libs "-lz -lpthread -ldl -lstdc++ -lm")
set(nwc_pc_static_libs "")
if(NOT NWC_SHARED)
  set(nwc_pc_static_libs " ${nwc_pc_private_libs}")
  set(nwc_pc_private_libs "")
endif()
install(CODE "
  set(CMAKE_INSTALL_LIBDIR \"${CMAKE_INSTALL_LIBDIR}\")
  set(CMAKE_INSTALL_INCLUDEDIR \"${CMAKE_INSTALL_INCLUDEDIR}\")
  set(PROJECT_DESCRIPTION \"${PROJECT_DESCRIPTION}\")
  set(PROJECT_VERSION \"${PROJECT_VERSION}\")
  set(nwc_pc_static_libs \"${nwc_pc_static_libs}\")
  set(nwc_pc_private_libs \"${nwc_pc_private_libs}\")
  foreach(nwc_pc_name nwc nwc_decode)
    configure_file(\"${PROJECT_SOURCE_DIR}/cmake/nwc.pc.in\" \"${PROJECT_BINARY_DIR}/\${nwc_pc_name}.pc\" @ONLY)
    file(INSTALL \"${PROJECT_BINARY_DIR}/\${nwc_pc_name}.pc\"
         DESTINATION \"\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_LIBDIR}/pkgconfig\")
  endforeach()
" COMPONENT dev)
include(cmake/package.cmake)
