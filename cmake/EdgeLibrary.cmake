# edge_library(NAME SOURCES ... [HEADERS ...] [DEPS ...] [PRIVATE_DEPS ...] [PACKAGES ...])
#
# Makes the static library edge_NAME with the alias edge::NAME, compiled as C++20, and
# records what installing it takes. HEADERS are paths below include/, public for good.
# DEPS are linked PUBLIC, PRIVATE_DEPS PRIVATE. PACKAGES are the find_package() calls
# that a user of the installed component needs, each one list element, such as
# "Boost 1.81" (edgeConfig.cmake runs them for the asked components only); "PkgConfig ZSTD
# libzstd" stands for the module libzstd of pkg-config as the target PkgConfig::ZSTD.
function(edge_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;HEADERS;DEPS;PRIVATE_DEPS;PACKAGES" ${ARGN})
  set(target edge_${name})
  add_library(${target} STATIC ${arg_SOURCES})
  add_library(edge::${name} ALIAS ${target})
  list(TRANSFORM arg_HEADERS PREPEND ${PROJECT_SOURCE_DIR}/include/)
  target_sources(${target} PUBLIC FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR}/include
                                         FILES ${arg_HEADERS})
  target_compile_features(${target} PUBLIC cxx_std_20)
  # Private headers are included from the top ("src/base/errors.h", "srs/journal.h").
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${target} PUBLIC ${arg_DEPS} PRIVATE ${arg_PRIVATE_DEPS})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name} CXX_EXTENSIONS OFF
                        POSITION_INDEPENDENT_CODE ON VERIFY_INTERFACE_HEADER_SETS ON)
  set_property(GLOBAL APPEND PROPERTY EDGE_COMPONENTS ${name})
  set_property(GLOBAL PROPERTY EDGE_PACKAGES_${name} "${arg_PACKAGES}")
  set(needs "")
  foreach(dep IN LISTS arg_DEPS arg_PRIVATE_DEPS)
    if(dep MATCHES "^edge::(.+)$")
      list(APPEND needs ${CMAKE_MATCH_1})
    endif()
  endforeach()
  set_property(GLOBAL PROPERTY EDGE_NEEDS_${name} "${needs}")
endfunction()

# edge_program(NAME SOURCES ... DEPS ...): a command-line program, built into <build>/bin and
# installed by `cmake --install build/release --component programs` (not into the .deb of
# libraries). Does nothing under EDGE_BUILD_PROGRAMS=OFF or if a library of DEPS is left out.
function(edge_program name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  if(NOT EDGE_BUILD_PROGRAMS)
    return()
  endif()
  foreach(dep IN LISTS arg_DEPS)
    if(NOT TARGET ${dep})
      return()
    endif()
  endforeach()
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_DEPS})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  set_target_properties(${name} PROPERTIES CXX_EXTENSIONS OFF
    RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
  if(EDGE_INSTALL)
    install(TARGETS ${name} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
            COMPONENT programs EXCLUDE_FROM_ALL)
  endif()
endfunction()

# edge_require(A B C...): if EDGE_WITH_A is on, B, C... are switched on with it.
macro(edge_require part)
  if(EDGE_WITH_${part})
    foreach(edge_needed IN ITEMS ${ARGN})
      if(NOT EDGE_WITH_${edge_needed})
        message(STATUS "edge: EDGE_WITH_${part} needs EDGE_WITH_${edge_needed}; switching it on")
        set(EDGE_WITH_${edge_needed} ON)
      endif()
    endforeach()
  endif()
endmacro()
