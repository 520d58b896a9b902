// A reply that is always valid JSON of one shape, whatever the model would rather say.
//
//   inference_json MODEL.gguf "What to ask"
#include <cstdio>
#include <string>

#include "edge/inference/engine.h"
#include "edge/inference/grammar.h"

using namespace edge::inference;

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s MODEL.gguf QUESTION\n", argv[0]);
    return 2;
  }
  auto engine = Engine::Open(argv[1]);
  if (!engine.ok()) {
    std::fprintf(stderr, "%s\n", std::string(engine.status().message()).c_str());
    return 1;
  }
  const auto tokens = TokenTrie::Create((*engine)->tokenizer());
  const auto grammar = Grammar::FromJsonSchema(R"({
      "type": "object",
      "properties": {
        "seat": {"type": "string", "maxLength": 4},
        "window": {"type": "boolean"},
        "row": {"type": "integer", "minimum": 1, "maximum": 40}},
      "required": ["seat", "window", "row"],
      "additionalProperties": false})",
                                               tokens);
  if (!grammar.ok()) {
    std::fprintf(stderr, "%s\n", std::string(grammar.status().message()).c_str());
    return 1;
  }
  GenerateOptions options;
  options.constraint = Constrain(*grammar);
  auto reply = (*engine)->Chat({{"user", argv[2]}}, nullptr, options);
  if (!reply.ok()) {
    std::fprintf(stderr, "%s\n", std::string(reply.status().message()).c_str());
    return 1;
  }
  std::printf("%s\n%zu tokens, of which %zu could only be what they are\n", reply->text.c_str(),
              reply->tokens, reply->forced_tokens);
  GrammarState check(*grammar);
  const bool valid = check.AcceptText(reply->text) && check.complete();
  std::printf("%s\n", valid ? "valid" : "not valid");
  return valid ? 0 : 1;
}
