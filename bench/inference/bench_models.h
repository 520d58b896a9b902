// bench/inference/bench_models.h - the models of the rows, made of SmolLM2 or of nothing.
#pragma once
#include <string>

#include "edge/inference/gguf.h"

namespace edge::bench {

// Writes `to`: the model `from` with its matrices rounded to `type`. Keeps a file that is
// there. False, with a word on stderr, if it cannot.
bool Requantize(const std::string& from, inference::TensorType type, const std::string& to);

// Writes `to`: a Llama of 1.1 billion random weights in Q8_0. Likewise.
bool MakeRandom1B(const std::string& to);

}  // namespace edge::bench
