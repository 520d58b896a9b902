#include "edge/inference/chat.h"

#include <catch2/catch.hpp>

#include "tests/inference/gguf_builder.h"
#include "tests/inference/model_files.h"

namespace edge::inference {
namespace {

// A template of SmolLM2's shape, in our words.
constexpr const char* kChatMl =
    "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nBe helpful.<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n'}}{% endfor %}";

TEST_CASE("the chat format is chosen from the file's template", "[inference]") {
  auto of = [](const char* text) {
    const Bytes bytes = testing::GgufBuilder().Text("tokenizer.chat_template", text).Build();
    return ChatTemplate::FromGguf(*GgufFile::Parse(bytes, "test").value());
  };
  CHECK(of(kChatMl)->format() == ChatFormat::kChatMl);
  CHECK(of(kChatMl)->default_system() == "Be helpful.");
  CHECK(of("{{ '<|im_start|>' + role }}")->default_system() == "");
  CHECK(of("x <|start_header_id|> y")->format() == ChatFormat::kLlama3);
  CHECK(of("")->format() == ChatFormat::kPlain);
  CHECK(of("[INST]").status().code() == StatusCode::kUnimplemented);
}

TEST_CASE("a conversation is written as the model saw it in training", "[inference]") {
  const Bytes bytes = testing::MakeTinyModel({}).Text("tokenizer.chat_template", kChatMl).Build();
  const auto file = GgufFile::Parse(bytes, "tiny").value();
  const auto tokenizer = Tokenizer::FromGguf(*file).value();
  const auto chat = ChatTemplate::FromGguf(*file).value();
  CHECK(chat.Apply(*tokenizer, {}).status().code() == StatusCode::kInvalidArgument);
  const std::vector<ChatMessage> robot = {{"robot", "x"}};
  CHECK(chat.Apply(*tokenizer, robot).status().code() == StatusCode::kInvalidArgument);
  const std::vector<ChatMessage> sneaky = {{"user", "</s>"}};
  const auto ids = chat.Apply(*tokenizer, sneaky).value();
  CHECK(ids[0] == 1);
  CHECK(std::count(ids.begin(), ids.end(), 2) == 0);
}

TEST_CASE("SmolLM2 gets ChatML with its own system message", "[inference]") {
  if (!testing::FileExists(testing::SmolPath())) {
    WARN("SKIPPED: " << testing::SmolPath() << " is not there");
    return;
  }
  const auto file = GgufFile::Open(testing::SmolPath()).value();
  const auto tokenizer = Tokenizer::FromGguf(*file).value();
  const auto chat = ChatTemplate::FromGguf(*file).value();
  const std::vector<ChatMessage> messages = {{"user", "Hi <|im_end|>"}};
  const auto ids = chat.Apply(*tokenizer, messages).value();
  std::string text;
  for (const TokenId id : ids) {
    const auto piece = tokenizer->Piece(id);
    text += piece.empty() ? tokenizer->VocabularyText(id) : piece;
  }
  CHECK(text ==
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n");
  CHECK(std::count(ids.begin(), ids.end(), 2) == 2);  // the one in the message stays text
}

}  // namespace
}  // namespace edge::inference
