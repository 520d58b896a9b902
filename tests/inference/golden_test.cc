// Greedy text of real models against an independent engine: see golden/make_golden.py.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "edge/inference/engine.h"
#include "tests/inference/model_files.h"

namespace edge::inference {
namespace {

void CompareWithGolden(const std::string& model, const std::string& golden, EngineOptions options) {
  const std::string path = EDGE_SOURCE_DIR "/tests/inference/golden/";
  const auto expected = nlohmann::json::parse(testing::ReadText(path + golden));
  CAPTURE(expected["engine"].get<std::string>());
  const auto engine = Engine::Open(model, options).value();
  REQUIRE(expected["cases"].size() == 5);
  for (const auto& item : expected["cases"]) {
    CAPTURE(item["prompt"].dump());
    std::vector<TokenId> prompt;
    if (item["prompt"].is_string()) {
      prompt = engine->tokenizer().Encode(item["prompt"].get<std::string>());
      if (engine->tokenizer().adds_bos()) prompt.insert(prompt.begin(), *engine->tokenizer().bos());
    } else {
      std::vector<ChatMessage> messages;
      for (const auto& message : item["prompt"]) {
        messages.push_back(
            {message["role"].get<std::string>(), message["content"].get<std::string>()});
      }
      prompt = engine->chat_template().Apply(engine->tokenizer(), messages).value();
    }
    CHECK(prompt == item["prompt_ids"].get<std::vector<TokenId>>());
    const Reply reply =
        engine->Generate({.tokens = prompt, .options = {.tokens_max = 64, .ignore_end = true}})
            .value();
    CHECK(reply.token_ids == item["ids"].get<std::vector<TokenId>>());
  }
}

TEST_CASE("stories260K writes what transformers writes", "[inference][golden]") {
  const std::string type = GENERATE("f32", "f16", "q8_0", "q4_0");
  CAPTURE(type);
  if (!testing::FileExists(testing::StoriesPath(type))) {
    WARN("SKIPPED: " << testing::StoriesPath(type) << " is not there");
    return;
  }
  CompareWithGolden(testing::StoriesPath(type), "stories260K-" + type + ".json", {});
}

TEST_CASE("SmolLM2 writes what transformers writes", "[inference][golden]") {
  const uint32_t threads = GENERATE(1u, 2u);
  if (!testing::FileExists(testing::SmolPath())) {
    WARN("SKIPPED: " << testing::SmolPath() << " is not there");
    return;
  }
  CompareWithGolden(testing::SmolPath(), "SmolLM2-135M-Instruct.Q4_1.json", {.threads = threads});
}

}  // namespace
}  // namespace edge::inference
