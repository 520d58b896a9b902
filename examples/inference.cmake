edge_example(inference_chat DEPS edge::inference ARGS --help)
