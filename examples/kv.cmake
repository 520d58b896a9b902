edge_example(kv_config DEPS edge::kv edge::kv_sqlite)
