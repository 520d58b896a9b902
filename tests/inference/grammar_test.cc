#include "edge/inference/grammar.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <random>

#include "edge/inference/gguf.h"
#include "tests/inference/gguf_builder.h"

namespace edge::inference {
namespace {

// A vocabulary of <unk>, <s>, </s>, all bytes, and `words`.
struct Words {
  explicit Words(const std::vector<std::string>& words = {}) {
    testing::GgufBuilder builder = testing::MakeTinyModel({});
    std::vector<std::string> texts = {"<unk>", "<s>", "</s>"};
    std::vector<float> scores(259 + words.size(), 0.0f);
    std::vector<int32_t> kinds = {2, 3, 3};
    for (int byte = 0; byte < 256; ++byte) {
      char name[8];
      std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned>(byte));
      texts.emplace_back(name);
      kinds.push_back(6);
    }
    for (const std::string& word : words) {
      texts.push_back(word);
      kinds.push_back(1);
    }
    builder.Texts("tokenizer.ggml.tokens", texts).Floats("tokenizer.ggml.scores", scores);
    builder.Ints("tokenizer.ggml.token_type", kinds);
    builder.Bool("tokenizer.ggml.add_space_prefix", false);
    bytes = builder.Build();
    file = GgufFile::Parse(bytes, "words").value();
    tokenizer = Tokenizer::FromGguf(*file).value();
    trie = TokenTrie::Create(*tokenizer);
  }
  Bytes bytes;
  std::unique_ptr<GgufFile> file;
  std::unique_ptr<Tokenizer> tokenizer;
  std::shared_ptr<const TokenTrie> trie;
};
const Words& Plain() {
  static const auto* words = new Words({"\xE2\x96\x81"});  // the space
  return *words;
}

bool Allows(TokenMask mask, TokenId id) {
  return (mask[static_cast<size_t>(id) / 64] >> (id % 64) & 1) != 0;
}

bool Matches(const std::shared_ptr<const Grammar>& grammar, std::string_view text) {
  GrammarState state(grammar);
  return state.AcceptText(text) && state.complete();
}
bool GbnfMatches(std::string_view gbnf, std::string_view text) {
  return Matches(Grammar::FromGbnf(gbnf, Plain().trie).value(), text);
}
bool SchemaMatches(std::string_view schema, std::string_view text) {
  return Matches(Grammar::FromJsonSchema(schema, Plain().trie).value(), text);
}
std::string GbnfError(std::string_view gbnf) {
  const auto grammar = Grammar::FromGbnf(gbnf, Plain().trie);
  return grammar.ok() ? "" : std::string(Message(grammar.status()));
}

TEST_CASE("GBNF rules match what they say", "[inference][grammar]") {
  const std::string arithmetic = R"g(
    # sums of products
    root   ::= term ("+" term)*
    term   ::= factor
               | factor "*" term
    factor ::= [0-9]+ | "(" root ")"
  )g";
  REQUIRE(GbnfMatches(arithmetic, "1+23*(4+5)"));
  REQUIRE_FALSE(GbnfMatches(arithmetic, "1+"));
  REQUIRE_FALSE(GbnfMatches(arithmetic, "1+)"));
  REQUIRE(GbnfMatches("root ::= [^a-c\\n]{2,3} \"x\"?", "zzx"));
  REQUIRE_FALSE(GbnfMatches("root ::= [^a-c\\n]{2,3}", "za"));
  REQUIRE_FALSE(GbnfMatches("root ::= .{2}", "zzz"));
  REQUIRE(GbnfMatches("root ::= .{2}", "\xE2\x82\xAC\xF0\x9F\x98\x80"));
  REQUIRE(GbnfMatches("root ::= [\\u00E0-\\U0001F600]", "\xE2\x82\xAC"));
  REQUIRE_FALSE(GbnfMatches("root ::= [\\u00E0-\\u20AB]", "\xE2\x82\xAC"));
  REQUIRE(GbnfMatches("root ::= \"\\x41\\\"\\\\\"", "A\"\\"));
  REQUIRE(GbnfMatches("root ::= item*\nitem ::= (\"\" | \"a\")*", "aaa"));
}

TEST_CASE("character classes equal a plain comparison over all of Unicode's edges",
          "[inference][grammar][property]") {
  std::mt19937 random(GENERATE(range(1u, 9u)));
  std::vector<char32_t> edges = {1,      0x7F,   0x80,   0x7FF,   0x800,   0xFFF,
                                 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF};
  for (int i = 0; i < 20; ++i) edges.push_back(static_cast<char32_t>(1 + random() % 0x10FFFF));
  char32_t first = edges[random() % edges.size()], last = edges[random() % edges.size()];
  if (first > last) std::swap(first, last);
  if (first >= 0xD800 && first <= 0xDFFF) first = 0xE000;
  if (last >= 0xD800 && last <= 0xDFFF) last = 0xE000;
  char gbnf[64];
  std::snprintf(gbnf, sizeof gbnf, "root ::= [\\U%08X-\\U%08X]", static_cast<unsigned>(first),
                static_cast<unsigned>(last));
  CAPTURE(gbnf);
  const auto grammar = Grammar::FromGbnf(gbnf, Plain().trie).value();
  for (const char32_t edge : edges) {
    for (int step = -1; step <= 1; ++step) {
      const auto c = static_cast<char32_t>(static_cast<int64_t>(edge) + step);
      if (c == 0 || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) continue;
      std::string text;
      if (c < 0x80) {
        text = {static_cast<char>(c)};
      } else if (c < 0x800) {
        text = {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
      } else if (c < 0x10000) {
        text = {static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)),
                static_cast<char>(0x80 | (c & 63))};
      } else {
        text = {static_cast<char>(0xF0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 63)),
                static_cast<char>(0x80 | (c >> 6 & 63)), static_cast<char>(0x80 | (c & 63))};
      }
      REQUIRE(Matches(grammar, text) == (c >= first && c <= last));
    }
  }
}

TEST_CASE("a bad grammar is refused with its line", "[inference][grammar]") {
  REQUIRE(GbnfError("root ::= \"a\"\nother = 3") == "grammar, line 2: unexpected character");
  REQUIRE(GbnfError("root ::= missing") == "grammar, line 1: rule missing is not defined");
  REQUIRE(GbnfError("root ::= (\"a\"") == "grammar, line 1: a group without )");
  REQUIRE(GbnfError("root ::= [b-a]") == "grammar, line 1: a range whose end is before its start");
  REQUIRE(GbnfError("root ::= \"a") == "grammar, line 1: the text ends inside a literal or class");
  REQUIRE(GbnfError("root ::= root \"a\" | \"b\"") ==
          "rule root begins with itself (left recursion)");
  REQUIRE(GbnfError("root ::= a? root | \"b\"\na ::= \"x\"") ==
          "rule root begins with itself (left recursion)");
  REQUIRE(GbnfError("root ::= \"a\" root") == "no text meets the grammar or schema");
  REQUIRE(GbnfError("root ::= \"a\"{100000} root ::= \"b\"") ==
          "grammar, line 1: rule root is there twice");
  REQUIRE(GbnfError("root ::= (.{90000}){90000}") == "the grammar needs more than 262144 states");
  REQUIRE(GbnfError(std::string(2000, '(')).find("line 1") != std::string::npos);
}

TEST_CASE("a schema admits what it describes, spelt in one way", "[inference][grammar]") {
  const std::string person = R"({"type": "object", "properties": {
      "name": {"type": "string", "minLength": 1, "maxLength": 5},
      "age": {"type": "integer", "minimum": 0, "maximum": 150},
      "tags": {"type": "array", "items": {"enum": ["a", "b", 3]}, "maxItems": 2}},
    "required": ["name", "age"], "additionalProperties": false})";
  REQUIRE(SchemaMatches(person, R"({"name": "Ada", "age": 36})"));
  REQUIRE(SchemaMatches(person, R"({"name": "\u00e9\n\"", "age": 150, "tags": ["a", 3]})"));
  REQUIRE_FALSE(SchemaMatches(person, R"({"name": "Ada", "age": 151})"));
  REQUIRE_FALSE(SchemaMatches(person, R"({"name": "Ada", "age": 036})"));
  REQUIRE_FALSE(SchemaMatches(person, R"({"name": "Adalbert", "age": 3})"));
  REQUIRE_FALSE(SchemaMatches(person, R"({"name": "", "age": 3})"));
  REQUIRE_FALSE(SchemaMatches(person, R"({"age": 3, "name": "Ada"})"));
  REQUIRE_FALSE(SchemaMatches(person, R"({"name": "Ada", "age": 3, "tags": ["a", "a", "a"]})"));
  REQUIRE_FALSE(SchemaMatches(person, R"({"name": "Ada"})"));

  const std::string optional = R"({"properties": {"a": {"const": 1}, "b": {"const": 2},
      "c": {"const": 3}}, "additionalProperties": {"type": "boolean"}, "required": ["b"]})";
  for (const char* text : {R"({"b": 2})", R"({"a": 1, "b": 2})", R"({"b": 2, "c": 3})",
                           R"({"b": 2, "d": true, "ab": false})"}) {
    CAPTURE(text);
    REQUIRE(SchemaMatches(optional, text));
  }
  for (const char* text : {R"({})", R"({"a": 1})", R"({"b": 2, "a": 1})", R"({"b": 2, "c": true})",
                           R"({"b": 2, "d": 1})", R"({, "b": 2})"}) {
    CAPTURE(text);
    REQUIRE_FALSE(SchemaMatches(optional, text));
  }

  const std::string tree = R"({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object",
      "properties": {"value": {"type": "number"}, "next": {"anyOf": [{"type": "null"},
      {"$ref": "#/$defs/node"}]}}, "required": ["value", "next"]}}})";
  REQUIRE(SchemaMatches(tree, R"({"value": -1.5e3, "next": {"value": 0, "next": null}})"));
  REQUIRE_FALSE(SchemaMatches(tree, R"({"value": 1, "next": {"value": 0}})"));
  REQUIRE(SchemaMatches("true", R"({"x": [1, {"y": []}, null], "z": ""})"));
  REQUIRE(SchemaMatches(R"({"format": "date"})", "\"2024-12-31\""));
  REQUIRE_FALSE(SchemaMatches(R"({"format": "date"})", "\"2024-06-31\""));
  REQUIRE(SchemaMatches(R"({"allOf": [{"properties": {"a": {"const": 1}}},
      {"properties": {"b": {"const": 2}}, "required": ["b"]}]})",
                        R"({"b": 2})"));
  REQUIRE(
      SchemaMatches(R"({"type": "array", "prefixItems": [{"const": 1}], "items": false})", "[1]"));
}

TEST_CASE("integers between bounds are exactly those", "[inference][grammar][property]") {
  std::mt19937 random(GENERATE(range(1u, 17u)));
  int low = static_cast<int>(random() % 3000) - 1500,
      high = static_cast<int>(random() % 3000) - 1500;
  if (low > high) std::swap(low, high);
  CAPTURE(low, high);
  const auto grammar =
      Grammar::FromJsonSchema("{\"type\": \"integer\", \"minimum\": " + std::to_string(low) +
                                  ", \"exclusiveMaximum\": " + std::to_string(high + 1) + "}",
                              Plain().trie)
          .value();
  for (int i = -2000; i <= 2000; ++i) {
    REQUIRE(Matches(grammar, std::to_string(i)) == (i >= low && i <= high));
  }
}

TEST_CASE("schemas that cannot be met or enforced are refused", "[inference][grammar]") {
  auto error = [](std::string_view schema) {
    return Grammar::FromJsonSchema(schema, Plain().trie).status();
  };
  for (const char* schema :
       {"false", R"({"enum": []})", R"({"type": "string", "minLength": 3, "maxLength": 2})",
        R"({"type": "integer", "minimum": 5, "maximum": 4})", R"({"type": "boolean", "const": 1})",
        R"({"required": ["a"], "additionalProperties": false})",
        R"({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})"}) {
    CAPTURE(schema);
    REQUIRE(error(schema).code() == StatusCode::kInvalidArgument);
    REQUIRE(Message(error(schema)) == "no text meets the grammar or schema");
  }
  REQUIRE(Message(error(R"({"properties": {"a": {"type": "string", "pattern": "x"}}})")) ==
          "schema, #/properties/a: \"pattern\" cannot be enforced");
  REQUIRE(error(R"({"type": "number", "multipleOf": 3})").code() == StatusCode::kUnimplemented);
  REQUIRE(Message(error("{")) == "schema: not JSON");
  REQUIRE(Message(error(R"({"type": "strin"})")) == "schema, #: an unknown type");
  REQUIRE(Message(error(R"({"$ref": "#/nowhere"})")) == "schema, #: $ref points to nothing");
  REQUIRE(Message(error(std::string(1000, '['))) == "schema: nested deeper than 256");
  REQUIRE(error(R"({"$ref": "#"})").code() == StatusCode::kInvalidArgument);
}

TEST_CASE("a mask holds exactly the tokens that may come", "[inference][grammar][property]") {
  const Words words({"{\"", "\": ", "na", "name", "\"name\"", "\", \"", "}", "ab\"", "12", "true",
                     "x\"}", "\xE2\x82", "\"}", "a\", \"b"});
  const std::string schema =
      R"({"properties": {"name": {"type": "string"}, "b": {"type": "integer"},
      "c": {"type": "boolean"}}, "required": ["name"]})";
  const auto grammar = Grammar::FromJsonSchema(schema, words.trie).value();
  std::mt19937 random(GENERATE(range(1u, 9u)));
  GrammarState state(grammar);
  std::string text;
  for (int step = 0; step < 60 && !state.finished(); ++step) {
    const TokenMask mask = state.Mask();
    std::vector<TokenId> allowed;
    for (TokenId id = 0; id < static_cast<TokenId>(words.tokenizer->size()); ++id) {
      GrammarState copy = state;
      const bool fits = copy.Accept(id);
      REQUIRE(Allows(mask, id) == fits);
      if (fits && !words.tokenizer->IsEnd(id)) allowed.push_back(id);
    }
    REQUIRE_FALSE(allowed.empty());
    const TokenId id = allowed[random() % allowed.size()];
    text += words.tokenizer->Piece(id);
    REQUIRE(state.Accept(id));
  }
  GrammarState again(grammar);
  REQUIRE(again.AcceptText(text));
  REQUIRE(again.complete() == state.complete());
}

TEST_CASE("random walks under a mask always give valid JSON", "[inference][grammar][property]") {
  std::mt19937 random(GENERATE(range(1u, 33u)));
  const std::string schema = R"({"type": "object", "properties": {
      "s": {"type": "string", "maxLength": 4}, "n": {"type": "number"},
      "o": {"type": "object", "properties": {"x": {"type": ["integer", "null"]}}},
      "l": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}},
      "required": ["n", "l"], "additionalProperties": false})";
  GrammarState state(Grammar::FromJsonSchema(schema, Plain().trie).value());
  std::string text;
  while (!state.finished()) {
    text += state.ForcedText();
    REQUIRE(state.AcceptText(state.ForcedText()));
    if (state.finished()) break;
    const TokenMask mask = state.Mask();
    std::vector<TokenId> allowed;
    for (TokenId id = 3; id < 259; ++id) {
      if (Allows(mask, id)) allowed.push_back(id);
    }
    REQUIRE_FALSE(allowed.empty());
    const TokenId id = allowed[random() % allowed.size()];
    text += Plain().tokenizer->Piece(id);
    REQUIRE(state.Accept(id));
    REQUIRE(text.size() < 4000);
  }
  CAPTURE(text);
  const auto value = nlohmann::json::parse(text, nullptr, false);
  REQUIRE(value.is_object());
  REQUIRE(value["n"].is_number());
  REQUIRE(value["l"].is_array());
}

TEST_CASE("text without a choice is forced", "[inference][grammar]") {
  const auto grammar = Grammar::FromJsonSchema(
                           R"({"properties": {"city": {"enum": ["Rome", "Riga"]},
                               "ok": {"const": true}}, "required": ["city", "ok"]})",
                           Plain().trie)
                           .value();
  GrammarState state(grammar);
  REQUIRE(state.ForcedText() == R"({"city": "R)");
  const auto ids = state.ForcedTokens();
  REQUIRE(Plain().tokenizer->Decode(ids) == R"({"city": ")");  // the last could grow
  REQUIRE(state.AcceptText(R"({"city": "Ri)"));
  REQUIRE(state.ForcedText() == R"(ga", "ok": true})");
  REQUIRE(Plain().tokenizer->Decode(state.ForcedTokens()) == R"(ga", "ok": true})");
  REQUIRE_FALSE(state.Accept(*Plain().tokenizer->eos()));
  REQUIRE(state.AcceptText(state.ForcedText()));
  REQUIRE(state.finished());
  REQUIRE(state.ForcedText().empty());
  REQUIRE(state.Accept(*Plain().tokenizer->eos()));
  REQUIRE(Allows(state.Mask(), *Plain().tokenizer->eos()));
}

TEST_CASE("limits hold and a full cache starts anew in the middle of a text",
          "[inference][grammar]") {
  GrammarLimits limits;
  limits.depth_max = 10;
  const auto nested = Grammar::FromJsonSchema("true", Plain().trie, limits).value();
  GrammarState deep(nested);
  size_t depth = 0;
  while (depth < 100 && deep.AcceptText("[")) ++depth;
  REQUIRE(depth > 2);
  REQUIRE(depth < 100);
  REQUIRE(deep.AcceptText(std::string(depth, ']')));
  REQUIRE(deep.complete());

  limits = {};
  limits.cached_sets_max = 5;
  const auto small = Grammar::FromJsonSchema("true", Plain().trie, limits).value();
  GrammarState state(small);
  const std::string text = R"({"a": [1, 2.5, {"b": "c\n"}], "d": null})";
  for (const char c : text) {
    REQUIRE_FALSE(state.Mask().empty());
    REQUIRE(state.AcceptText(std::string_view(&c, 1)));
  }
  REQUIRE(state.complete());

  limits = {};
  limits.configurations_max = 3;
  const auto ambiguous =
      Grammar::FromGbnf("root ::= \"a\" (\"b\" | \"bc\" | \"bd\" | \"be\" | \"bf\")", Plain().trie,
                        limits)
          .value();
  GrammarState lost(ambiguous);
  REQUIRE_FALSE(lost.AcceptText("ab"));
  REQUIRE(lost.status().code() == StatusCode::kResourceExhausted);
}

TEST_CASE("a grammar serves requests as a constraint of its own tokenizer",
          "[inference][grammar]") {
  const auto grammar = Grammar::FromGbnf("root ::= \"ab\" [0-9]", Plain().trie).value();
  const auto factory = Constrain(grammar);
  const Words other;
  REQUIRE(factory->Begin(*other.tokenizer).status().code() == StatusCode::kInvalidArgument);
  const auto constraint = factory->Begin(*Plain().tokenizer).value();
  std::vector<TokenId> forced;
  constraint->TakeForced(&forced);
  REQUIRE(Plain().tokenizer->Decode(forced) == "a");
  REQUIRE_FALSE(constraint->complete());
  constraint->Accept(3 + 'b');
  constraint->Accept(3 + '7');
  REQUIRE(constraint->complete());
}

}  // namespace
}  // namespace edge::inference
