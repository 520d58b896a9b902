edge_example(srs_restore DEPS edge::srs SQLite::SQLite3)
