edge_example(srs_restore DEPS edge::srs SQLite::SQLite3)
edge_example(srs_time_travel DEPS edge::srs SQLite::SQLite3)
# Its store is what the program for stores is tried on.
if(EDGE_BUILD_TESTS AND TARGET edge-srs)
  add_test(NAME "edge-srs: every command, and what it says when something is wrong"
    COMMAND python3 ${PROJECT_SOURCE_DIR}/tests/srs/edge_srs_test.py $<TARGET_FILE:edge-srs>
            $<TARGET_FILE:srs_time_travel>)
  set_tests_properties("edge-srs: every command, and what it says when something is wrong"
    PROPERTIES TIMEOUT 120 LABELS srs)
endif()
