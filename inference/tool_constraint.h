// inference/tool_constraint.h - free text in which every tool call is a valid one.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "edge/base/status.h"
#include "edge/inference/constraint.h"
#include "edge/inference/grammar.h"

namespace edge::inference {

enum class CallFirst : uint8_t { kNo, kYes };

// One tool as JSON: {"name": .., "description": .., "parameters": schema}.
// Anything may be written until <tool_call>; from there on an object with the name of one of
// `tools` and arguments that meet its schema, then </tool_call>. With CallFirst::kYes there is no
// text before the first call. What Grammar::FromJsonSchema returns; it is asked for all tools at
// once.
StatusOr<std::shared_ptr<const ConstraintFactory>> ConstrainCalls(
    const std::vector<std::string>& tools, std::shared_ptr<const TokenTrie> tokens,
    CallFirst call_first);

}  // namespace edge::inference
