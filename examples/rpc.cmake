edge_example(rpc_counter DEPS edge::rpc)
