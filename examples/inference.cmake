# The assistant of the flights example, a model of 1.2 MB, answers in the test.
edge_example(inference_chat DEPS edge::inference
  ARGS ${CMAKE_CURRENT_SOURCE_DIR}/flights/tiny/edge-tiny-flights.gguf "Which seat is free?")
edge_example(inference_json DEPS edge::inference
  ARGS ${CMAKE_CURRENT_SOURCE_DIR}/flights/tiny/edge-tiny-flights.gguf "Which seat is free?")
edge_example(inference_batch DEPS edge::inference
  ARGS ${CMAKE_CURRENT_SOURCE_DIR}/flights/tiny/edge-tiny-flights.gguf)
