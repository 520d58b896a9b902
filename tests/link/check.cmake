# cmake -D CLOSURE="a b" -D PATTERN="x|y" -P check.cmake: fails if PATTERN is in CLOSURE.
string(TOLOWER "${CLOSURE}" closure)
string(TOLOWER "${PATTERN}" pattern)
if(closure MATCHES "${pattern}")
  message(FATAL_ERROR "'${CMAKE_MATCH_0}' is among what is linked: ${CLOSURE}")
endif()
message(STATUS "linked: ${CLOSURE}")
