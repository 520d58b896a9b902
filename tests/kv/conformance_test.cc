// What Workers KV does, row by row: arguments, limits, texts of errors, quirks. Time stands at
// 1000 s until it is moved by hand. Other rows are in namespace_test.cc.
#include <map>

#include "tests/kv/support.h"

using namespace edge;      // NOLINT
using namespace edge::kv;  // NOLINT

TEST_CASE("conformance: a value is read as text, JSON, bytes or a stream", "[kv][conformance]") {
  World world;
  REQUIRE(world.kv->Put("k", R"({"field": [1, 2.5e3, null, "x"]})").ok());
  for (const char* name : {"text", "json", "arrayBuffer", "stream"}) {
    const GetOptions options{.type = ValueTypeNamed(name).value()};
    REQUIRE(world.kv->Get("k", options).value() == R"({"field": [1, 2.5e3, null, "x"]})");
  }
  REQUIRE(TextOf(ValueTypeNamed("map").status()) ==
          "Unknown response type. Possible types are \"text\", \"arrayBuffer\", \"json\", and "
          "\"stream\".");
  auto pin = world.kv->Pin("k", {.type = ValueType::kStream}).value();
  std::string pieces;
  Bytes piece(7);
  while (const size_t count = pin->Read(piece)) pieces += AsText(ByteView(piece).first(count));
  REQUIRE(pieces == R"({"field": [1, 2.5e3, null, "x"]})");
  REQUIRE(pin->Read(piece) == 0);
}

TEST_CASE("conformance: a value that is no JSON says where it ends to be", "[kv][conformance]") {
  World world;
  const GetOptions json{.type = ValueType::kJson};
  REQUIRE(world.kv->Put("k", "{\"a\": tru}").ok());
  REQUIRE(TextOf(world.kv->Get("k", json).status()).starts_with("Unexpected token in JSON"));
  std::string into;
  REQUIRE(!world.kv->GetInto("k", &into, json).ok());
  REQUIRE(!world.kv->GetWithMetadata("k", json).ok());
  REQUIRE(!world.kv->Pin("k", json).ok());
  REQUIRE(world.kv->Put("k", "[1").ok());
  REQUIRE(TextOf(world.kv->Get("k", json).status()) == "Unexpected end of JSON input");
  REQUIRE(world.kv->Put("k", "").ok());
  REQUIRE(TextOf(world.kv->Get("k", json).status()) == "Unexpected end of JSON input");
  REQUIRE(!world.kv->Get("none", json).value());  // absent before the type is looked at
  REQUIRE(world.kv->Put("deep", std::string(60'000, '[') + std::string(60'000, ']')).ok());
  REQUIRE(world.kv->Get("deep", json).value());
  REQUIRE(world.kv->Put("long", "\"" + std::string(3 << 20, 'x') + "\"").ok());
  REQUIRE(world.kv->Get("long", json).value());
}

TEST_CASE("conformance: a bulk get reads text or JSON only", "[kv][conformance]") {
  World world;
  REQUIRE(world.kv->Put("good", "{}").ok());
  REQUIRE(world.kv->Put("bad", "{").ok());
  const auto refusal = [&](ValueType type) {
    return TextOf(world.kv->GetMany({"good"}, {.type = type}).status());
  };
  REQUIRE(refusal(ValueType::kBytes) ==
          "KV GET_BULK failed: 400 \"arrayBuffer\" is not a valid type. Use \"json\" or \"text\"");
  REQUIRE(refusal(ValueType::kStream) ==
          "KV GET_BULK failed: 400 \"stream\" is not a valid type. Use \"json\" or \"text\"");
  REQUIRE(world.kv->GetMany({"good", "none"}, {.type = ValueType::kJson}).value()[0] == "{}");
  REQUIRE(TextOf(world.kv->GetMany({"good", "bad"}, {.type = ValueType::kJson}).status()) ==
          "KV GET_BULK failed: 400 At least one of the requested keys corresponds to a non-json "
          "value");
  const std::string_view bad[] = {"bad"};
  REQUIRE(!world.kv->GetManyWithMetadata(bad, {.type = ValueType::kJson}).ok());
}

TEST_CASE("conformance: falsy values keep their metadata in a bulk get", "[kv][conformance]") {
  World world;
  const std::string_view keys[] = {"empty", "zero", "false", "none", "zero"};
  for (const auto& [key, value] :
       std::map<std::string, std::string>{{"empty", ""}, {"zero", "0"}, {"false", "false"}}) {
    REQUIRE(world.kv->Put(key, value, {.metadata = "{\"m\":0}"}).ok());
  }
  const auto got = world.kv->GetManyWithMetadata(keys).value();
  REQUIRE(got[0]->value.empty());
  REQUIRE(got[0]->metadata == "{\"m\":0}");
  REQUIRE(got[1]->value == "0");
  REQUIRE(got[2]->metadata == "{\"m\":0}");
  REQUIRE(!got[3]);
  REQUIRE(got[4]->value == "0");  // asked for twice, answered twice
}

TEST_CASE("conformance: keys that look like array indices come back", "[kv][conformance]") {
  World world;
  for (const char* key : {"0", "42", "4294967294"}) REQUIRE(world.kv->Put(key, key).ok());
  const auto got = world.kv->GetMany({"0", "42", "4294967294", "1"}).value();
  REQUIRE(got[0] == "0");
  REQUIRE(got[1] == "42");
  REQUIRE(got[2] == "4294967294");
  REQUIRE(!got[3]);
}

TEST_CASE("conformance: lists are in UTF-8 order beyond the first plane too", "[kv][conformance]") {
  World world;
  // As UTF-16 the last would come first: its surrogates are below U+FF5E.
  const std::string order[] = {"A", "a", "\xc3\xa9", "\xef\xbd\x9e", "\xf0\x9f\x98\x80"};
  for (int i = 4; i >= 0; --i) REQUIRE(world.kv->Put(order[i], "v").ok());
  const auto page = world.kv->List().value();
  for (size_t i = 0; i < 5; ++i) REQUIRE(page.keys[i].name == order[i]);
}

TEST_CASE("conformance: exactly a thousand keys are one complete page", "[kv][conformance]") {
  World world;
  for (int i = 0; i < 1000; ++i) REQUIRE(world.kv->Put("k" + std::to_string(i), "v").ok());
  REQUIRE(world.kv->List({.limit = 1000}).value().list_complete);
  REQUIRE(world.kv->List().value().keys.size() == 1000);
  REQUIRE(TextOf(world.kv->List({.limit = 1001}).status()) ==
          "KV GET failed: 400 Invalid key_count_limit of 1001. Please specify an integer less than "
          "1000.");
  REQUIRE(world.kv->Put("k1000", "v").ok());
  const auto page = world.kv->List().value();
  REQUIRE(!page.list_complete);
  REQUIRE(world.kv->List({.limit = 5, .cursor = page.cursor}).value().keys.size() == 1);
}

TEST_CASE("conformance: at the second of its expiration an entry is gone everywhere",
          "[kv][conformance]") {
  World world;
  REQUIRE(world.kv->Put("k", "v", {.expiration_s = 1060}).ok());
  world.clock.Advance(59'999);
  REQUIRE(world.kv->Get("k").value() == "v");
  REQUIRE(world.kv->List().value().keys.size() == 1);
  world.clock.Advance(1);
  REQUIRE(!world.kv->Get("k").value());
  REQUIRE(!world.kv->GetMany({"k"}).value()[0]);
  REQUIRE(world.kv->List().value().keys.empty());
}

TEST_CASE("conformance: of both expirations the relative one counts", "[kv][conformance]") {
  World world;
  REQUIRE(world.kv->Put("k", "v", {.expiration_ttl_s = 60, .expiration_s = 5000}).ok());
  REQUIRE(world.kv->List().value().keys[0].expiration_s == 1060);
  // Only the one that counts is looked at.
  REQUIRE(world.kv->Put("k", "v", {.expiration_ttl_s = 60, .expiration_s = 3}).ok());
  REQUIRE(TextOf(world.kv->Put("k", "v", {.expiration_ttl_s = 0, .expiration_s = 5000})) ==
          "KV PUT failed: 400 Invalid expiration_ttl of 0. Please specify integer greater than 0.");
  REQUIRE(world.kv->Put("k", "v").ok());  // and a put without either clears it
  REQUIRE(world.kv->List().value().keys[0].expiration_s == 0);
}

TEST_CASE("conformance: a stream that is too long is counted to its end", "[kv][conformance]") {
  World world({.value_bytes_max = 1000});
  const auto stream = [](size_t left) {
    return [left](MutableByteView out) mutable -> StatusOr<size_t> {
      const size_t count = std::min({left, out.size(), size_t{300}});
      std::fill_n(out.begin(), count, std::byte{'s'});
      left -= count;
      return count;
    };
  };
  REQUIRE(world.kv->PutStream("k", stream(1000), {.metadata = "1"}).ok());
  REQUIRE(world.kv->Get("k").value() == std::string(1000, 's'));
  REQUIRE(world.kv->GetWithMetadata("k").value()->metadata == "1");
  REQUIRE(TextOf(world.kv->PutStream("k", stream(54'321))) ==
          "KV PUT failed: 413 Value length of 54321 exceeds limit of 1000.");
  REQUIRE(world.kv->Get("k").value() == std::string(1000, 's'));
  const auto failing = [](MutableByteView) -> StatusOr<size_t> { return DataLoss("torn"); };
  REQUIRE(TextOf(world.kv->PutStream("k", failing)) == "torn");
  const auto lying = [](MutableByteView out) -> StatusOr<size_t> { return out.size() + 1; };
  REQUIRE(!world.kv->PutStream("k", lying).ok());
  REQUIRE(TextOf(world.kv->PutStream("", stream(5))) == "Key name cannot be empty.");
  REQUIRE(world.kv->PutStream("none", stream(0)).ok());
  REQUIRE(world.kv->Get("none").value()->empty());
}

TEST_CASE("conformance: a bulk put writes all or refuses all", "[kv][conformance]") {
  World world;
  const PutItem good[] = {{"a", "1", {}}, {"b", "2", {.metadata = "{}"}}, {"a", "3", {}}};
  REQUIRE(world.kv->PutMany(good).ok());
  REQUIRE(world.kv->Get("a").value() == "3");
  REQUIRE(world.kv->GetWithMetadata("b").value()->metadata == "{}");
  const PutItem bad[] = {{"c", "1", {}}, {"..", "2", {}}};
  REQUIRE(TextOf(world.kv->PutMany(bad)) == "\"..\" is not allowed as a key name.");
  REQUIRE(!world.kv->Get("c").value());
  const std::vector<PutItem> many(10'001, PutItem{"k", "v", {}});
  REQUIRE(world.kv->PutMany(many).code() == StatusCode::kInvalidArgument);
  const std::string large(20'000'000, 'v');
  const std::vector<PutItem> heavy(6, PutItem{"k", large, {}});
  REQUIRE(world.kv->PutMany(heavy).code() == StatusCode::kInvalidArgument);
  REQUIRE(!world.kv->Get("k").value());
  const std::string_view keys[] = {"a", "none", "b"};
  REQUIRE(world.kv->DeleteMany(keys).ok());
  REQUIRE(world.kv->List().value().keys.empty());
  const std::string_view bad_keys[] = {"a", ""};
  REQUIRE(TextOf(world.kv->DeleteMany(bad_keys)) == "Key name cannot be empty.");
}

TEST_CASE("conformance: metadata is counted as its text and null is none", "[kv][conformance]") {
  World world;
  REQUIRE(world.kv->Put("k", "v", {.metadata = "\"" + std::string(1022, 'm') + "\""}).ok());
  REQUIRE(TextOf(world.kv->Put("k", "v", {.metadata = "\"" + std::string(1023, 'm') + "\""})) ==
          "KV PUT failed: 413 Metadata length of 1025 exceeds limit of 1024.");
  for (const char* metadata : {"0", "false", "\"\"", "[]", "{}"}) {
    REQUIRE(world.kv->Put("k", "v", {.metadata = metadata}).ok());
    REQUIRE(world.kv->GetWithMetadata("k").value()->metadata == metadata);
    REQUIRE(world.kv->List().value().keys[0].metadata == metadata);
  }
  REQUIRE(world.kv->Put("k", "v", {.metadata = " null "}).ok());
  REQUIRE(world.kv->GetWithMetadata("k").value()->metadata.empty());
}

TEST_CASE("conformance: an absence that is known is forgotten after its own time",
          "[kv][conformance]") {
  World world({.fresh_for_s = 600, .absent_fresh_for_s = 60});
  REQUIRE(!world.kv->Get("k").value());
  REQUIRE(world.origin->behind.Put("k", {.value = "v"}).ok());
  world.clock.Advance(59'000);
  REQUIRE(!world.kv->Get("k").value());
  world.clock.Advance(1000);
  REQUIRE(world.kv->Get("k").value() == "v");
  REQUIRE(world.origin->behind.Put("k", {.value = "w"}).ok());
  world.clock.Advance(60'000);
  REQUIRE(world.kv->Get("k").value() == "v");  // what is there stays longer
}
