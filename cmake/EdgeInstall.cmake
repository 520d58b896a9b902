# Installs every library that edge_library() recorded, as a component of its own with its
# own export set, and makes the .deb. edgeConfig.cmake looks only for what is asked of it.
include(CMakePackageConfigHelpers)

get_property(edge_components GLOBAL PROPERTY EDGE_COMPONENTS)
set(edge_cmake_dir ${CMAKE_INSTALL_LIBDIR}/cmake/edge)

# What edgeConfig.cmake knows about each component: its packages and the components below it.
set(EDGE_CONFIG_TABLE "")
foreach(edge_name IN LISTS edge_components)
  get_property(edge_packages GLOBAL PROPERTY EDGE_PACKAGES_${edge_name})
  get_property(edge_needs GLOBAL PROPERTY EDGE_NEEDS_${edge_name})
  string(APPEND EDGE_CONFIG_TABLE "set(edge_packages_${edge_name} \"${edge_packages}\")\n"
                                  "set(edge_needs_${edge_name} \"${edge_needs}\")\n")
  install(TARGETS edge_${edge_name} EXPORT edge-${edge_name}
          ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT ${edge_name}
          FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT ${edge_name})
  install(EXPORT edge-${edge_name} NAMESPACE edge:: FILE edge-${edge_name}.cmake
          DESTINATION ${edge_cmake_dir} COMPONENT ${edge_name})
endforeach()

string(REPLACE ";" " " EDGE_CONFIG_COMPONENTS "${edge_components}")
configure_package_config_file(
  ${CMAKE_CURRENT_LIST_DIR}/edgeConfig.cmake.in ${PROJECT_BINARY_DIR}/edgeConfig.cmake
  INSTALL_DESTINATION ${edge_cmake_dir})
# Before 1.0 a minor version may break.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/edgeConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/edgeConfig.cmake ${PROJECT_BINARY_DIR}/edgeConfigVersion.cmake
        DESTINATION ${edge_cmake_dir} COMPONENT base)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME libedge-dev)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_CONTACT "the edge authors")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "edge: ${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION libdevel)
# Static libraries and headers: users link these, and only those of the components they use.
set(CPACK_DEBIAN_PACKAGE_DEPENDS "libabsl-dev, libfmt-dev")
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS
    "libboost1.81-dev, libssl-dev, libsqlite3-dev, libzstd-dev, libcurl4-openssl-dev, nlohmann-json3-dev")
if(PROJECT_IS_TOP_LEVEL)
  include(CPack)
endif()
