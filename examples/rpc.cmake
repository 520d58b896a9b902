edge_example(rpc_auth DEPS edge::rpc)
edge_example(rpc_chat DEPS edge::rpc)
edge_example(rpc_counter DEPS edge::rpc)
edge_example(rpc_upload DEPS edge::rpc)
