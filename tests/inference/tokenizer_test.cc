#include "edge/inference/tokenizer.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <sstream>

#include "inference/pretokenizer.h"
#include "inference/unicode.h"
#include "tests/inference/gguf_builder.h"
#include "tests/inference/model_files.h"

namespace edge::inference {
namespace {

using testing::GgufBuilder;
using testing::MakeTinyModel;

std::vector<std::string> Split(const std::string& text, const std::string& separator) {
  std::vector<std::string> parts;
  size_t at = 0;
  for (size_t end; (end = text.find(separator, at)) != std::string::npos;
       at = end + separator.size()) {
    parts.push_back(text.substr(at, end - at));
  }
  parts.push_back(text.substr(at));
  return parts;
}

TEST_CASE("tokenizers give the published token ids", "[inference]") {
  const std::string name = GENERATE("gpt-2", "llama-bpe", "llama-spm");
  CAPTURE(name);
  const std::string path =
      testing::SharedPath("data/tokenizers/ggml-vocab-").append(name).append(".gguf");
  if (!testing::FileExists(path)) {
    WARN("SKIPPED: " << path << " is not there");
    return;
  }
  const auto file = GgufFile::Open(path).value();
  const auto tokenizer = Tokenizer::FromGguf(*file).value();
  const auto texts = Split(testing::ReadText(path + ".inp"), "\n__ggml_vocab_test__\n");
  const auto lines = Split(testing::ReadText(path + ".out"), "\n");
  REQUIRE(texts.size() > 40);
  REQUIRE(lines.size() >= texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    std::istringstream line(lines[i]);
    const std::vector<TokenId> expected{std::istream_iterator<TokenId>(line), {}};
    CAPTURE(i, texts[i]);
    const auto ids = tokenizer->Encode(texts[i]);
    CHECK(ids == expected);
    CHECK(tokenizer->Decode(ids) == texts[i]);
  }
}

TEST_CASE("SmolLM2's pre-tokenizer takes digits one by one", "[inference]") {
  using Words = std::vector<std::string_view>;
  CHECK(SplitWords(PreTokenizer::kSmol, "in 2024, ok") ==
        Words{"in", " ", "2", "0", "2", "4", ",", " ok"});
  CHECK(SplitWords(PreTokenizer::kSmol, "  7up") == Words{"  ", "7", "up"});
  CHECK(SplitWords(PreTokenizer::kGpt2, "  7up I'll") == Words{" ", " 7", "up", " I", "'ll"});
  CHECK(SplitWords(PreTokenizer::kLlama3, "12345 a\n\n  b'S") ==
        Words{"123", "45", " a", "\n\n", " ", " b", "'S"});
  CHECK(SplitWords(PreTokenizer::kQwen2, "12") == Words{"1", "2"});
  CHECK(SplitWords(PreTokenizer::kSmol, "").empty());
}

TEST_CASE("words of any bytes put together are the text", "[inference][property]") {
  const auto seed = GENERATE(range(1u, 33u));
  CAPTURE(seed);
  std::mt19937 random(seed);
  constexpr std::string_view kParts[] = {
      "a",    "Z",    " ",        "  ",       "\n",           "\r\n",
      "7",    "'s",   "'",        "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80",
      "\xFF", "\xC3", "\xC2\xA0", "!",        "\xC2\xBD"};
  std::string text;
  for (int i = 0; i < 60; ++i) text += kParts[random() % std::size(kParts)];
  for (const auto kind :
       {PreTokenizer::kGpt2, PreTokenizer::kSmol, PreTokenizer::kLlama3, PreTokenizer::kQwen2}) {
    std::string together;
    for (const auto word : SplitWords(kind, text)) {
      REQUIRE_FALSE(word.empty());
      together += word;
    }
    REQUIRE(together == text);
  }
}

TEST_CASE("a tokenizer with byte tokens gives any bytes back", "[inference][property]") {
  const auto seed = GENERATE(range(1u, 17u));
  CAPTURE(seed);
  const Bytes bytes = MakeTinyModel({}).Build();
  const auto tokenizer = Tokenizer::FromGguf(*GgufFile::Parse(bytes, "tiny").value()).value();
  std::mt19937 random(seed);
  std::string text;
  for (int i = 0; i < 200; ++i) {
    text.push_back(random() % 3 == 0 ? static_cast<char>(random()) : "ab "[random() % 3]);
  }
  CHECK(tokenizer->Decode(tokenizer->Encode(text)) == text);
}

TEST_CASE("control tokens come from outside text only when asked for", "[inference]") {
  const Bytes bytes = MakeTinyModel({}).Build();
  const auto tokenizer = Tokenizer::FromGguf(*GgufFile::Parse(bytes, "tiny").value()).value();
  const auto plain = tokenizer->Encode("a</s>b");
  CHECK(std::count(plain.begin(), plain.end(), 2) == 0);
  CHECK(tokenizer->Decode(plain) == "a</s>b");
  const auto parsed = tokenizer->Encode("</s>", ControlText::kParse);
  CHECK(parsed == std::vector<TokenId>{2});
  CHECK(tokenizer->IsEnd(2));
  CHECK_FALSE(tokenizer->IsEnd(1));
  CHECK(tokenizer->Piece(2).empty());
  CHECK(tokenizer->Piece(-1).empty());
  CHECK(tokenizer->Piece(1 << 20).empty());
}

TEST_CASE("a stream of tokens never splits a character", "[inference]") {
  const Bytes bytes = MakeTinyModel({}).Build();
  const auto tokenizer = Tokenizer::FromGguf(*GgufFile::Parse(bytes, "tiny").value()).value();
  auto byte = [&](int value) { return static_cast<TokenId>(3 + value); };
  StreamDecoder decoder(*tokenizer);
  SECTION("whole characters") {
    CHECK(decoder.Add(byte(0xF0)) == "");
    CHECK(decoder.Add(byte(0x9F)) == "");
    CHECK(decoder.Add(byte(0x98)) == "");
    CHECK(decoder.Add(byte(0x80)) == "\xF0\x9F\x98\x80");
    CHECK(decoder.Add(byte('x')) == "x");
    CHECK(decoder.Finish() == "");
  }
  SECTION("a character that is never finished") {
    CHECK(decoder.Add(byte(0xE2)) == "");
    CHECK(decoder.Add(byte('x')) ==
          "\xEF\xBF\xBD"
          "x");
    CHECK(decoder.Add(byte(0xE2)) == "");
    CHECK(decoder.Finish() == "\xEF\xBF\xBD");
    CHECK(decoder.Finish() == "");
  }
  SECTION("bytes that begin nothing") {
    CHECK(decoder.Add(byte(0x80)) == "\xEF\xBF\xBD");
    CHECK(decoder.Add(byte(0xFF)) == "\xEF\xBF\xBD");
  }
}

TEST_CASE("streamed text is valid UTF-8 for random tokens", "[inference][property]") {
  const auto seed = GENERATE(range(1u, 17u));
  CAPTURE(seed);
  const Bytes bytes = MakeTinyModel({}).Build();
  const auto tokenizer = Tokenizer::FromGguf(*GgufFile::Parse(bytes, "tiny").value()).value();
  std::mt19937 random(seed);
  StreamDecoder decoder(*tokenizer);
  for (int i = 0; i < 500; ++i) {
    std::string piece(decoder.Add(static_cast<TokenId>(random() % tokenizer->size())));
    if (i == 499) piece += decoder.Finish();
    for (std::string_view rest = piece; !rest.empty();) {
      const Decoded decoded = DecodeUtf8(rest);
      REQUIRE((decoded.character != kInvalidCharacter || decoded.bytes == 3));
      rest.remove_prefix(decoded.bytes);
    }
  }
}

TEST_CASE("a broken vocabulary is refused with its numbers", "[inference]") {
  GgufBuilder builder = MakeTinyModel({});
  auto error = [&] {
    const Bytes bytes = builder.Build();
    return Tokenizer::FromGguf(*GgufFile::Parse(bytes, "tiny").value()).status();
  };
  SECTION("scores missing") {
    builder.Floats("tokenizer.ggml.scores", {1, 2});
    CHECK(Message(error()) == "tiny: 2 token scores for 264 tokens");
  }
  SECTION("types missing") {
    builder.Ints("tokenizer.ggml.token_type", {1});
    CHECK(Message(error()) == "tiny: 1 token types for 264 tokens");
  }
  SECTION("an id out of range") {
    builder.Uint("tokenizer.ggml.eos_token_id", 264);
    CHECK(Message(error()) == "tiny: tokenizer.ggml.eos_token_id is 264, but there are 264 tokens");
  }
  SECTION("an unknown family") {
    builder.Text("tokenizer.ggml.model", "rwkv");
    CHECK(error().code() == StatusCode::kUnimplemented);
  }
  SECTION("merges of nothing") {
    builder.Text("tokenizer.ggml.model", "gpt2").Texts("tokenizer.ggml.merges", {"q w"});
    CHECK(error().code() == StatusCode::kInvalidArgument);
  }
  SECTION("an unknown pre-tokenizer") {
    builder.Text("tokenizer.ggml.model", "gpt2").Text("tokenizer.ggml.pre", "martian");
    CHECK(error().code() == StatusCode::kUnimplemented);
  }
}

}  // namespace
}  // namespace edge::inference
