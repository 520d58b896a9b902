edge_example(base_simulation DEPS edge::base)
