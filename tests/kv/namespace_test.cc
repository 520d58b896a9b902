// What Workers KV does, row by row, and what the hot tier adds to it.
#include "edge/kv/namespace.h"

#include <memory>
#include <stdexcept>
#include <thread>

#include "tests/kv/support.h"

using namespace edge;      // NOLINT
using namespace edge::kv;  // NOLINT

namespace {
using Value = std::optional<std::string>;

const std::string kLongKey(513, 'k');
const std::string kTooLong =
    " failed: 414 UTF-8 encoded length of 513 exceeds key length limit of 512.";
}  // namespace

TEST_CASE("a put is read back, and absence is not an error", "[kv]") {
  World world;
  REQUIRE(world.kv->Get("key").value() == Value());
  REQUIRE(world.kv->Put("key", "value").ok());
  REQUIRE(world.kv->Get("key").value() == Value("value"));
  REQUIRE(world.kv->Put("key", "other").ok());
  REQUIRE(world.kv->Get("key").value() == Value("other"));
  REQUIRE(world.kv->Delete("key").ok());
  REQUIRE(world.kv->Get("key").value() == Value());
  REQUIRE(world.kv->Delete("key").ok());
}

TEST_CASE("an empty value is a value", "[kv]") {
  World world;
  REQUIRE(world.kv->Put("empty", "").ok());
  REQUIRE(world.kv->Get("empty").value() == Value(""));
  REQUIRE(world.kv->GetMany({"empty"}).value()[0] == Value(""));
  REQUIRE(world.kv->Pin("empty").value()->value().empty());
}

TEST_CASE("keys are compared whole, by byte and case", "[kv]") {
  World world;
  const std::string with_zero("a\0b", 3);
  REQUIRE(world.kv->Put("Key", "upper").ok());
  REQUIRE(world.kv->Put(with_zero, "zero").ok());
  REQUIRE(world.kv->Put("ключ/\xF0\x9F\x94\x91", "unicode").ok());
  REQUIRE(world.kv->Get("key").value() == Value());
  REQUIRE(world.kv->Get("a").value() == Value());
  REQUIRE(world.kv->Get(with_zero).value() == Value("zero"));
  REQUIRE(world.kv->Get("ключ/\xF0\x9F\x94\x91").value() == Value("unicode"));
}

TEST_CASE("bad keys are refused in the words of the binding", "[kv]") {
  World world;
  struct Row {
    std::string key;
    std::string text;  // %: the operation
  };
  const std::vector<Row> rows = {
      {"", "Key name cannot be empty."},
      {".", "\".\" is not allowed as a key name."},
      {"..", "\"..\" is not allowed as a key name."},
      {kLongKey, "KV %" + kTooLong},
      {"\xff\xfe", "KV % failed: 400 Could not URL-decode key name"},
  };
  const auto expect = [](const Status& status, std::string text, const std::string& operation) {
    if (const size_t at = text.find('%'); at != std::string::npos) text.replace(at, 1, operation);
    REQUIRE(status.code() == StatusCode::kInvalidArgument);
    REQUIRE(TextOf(status) == text);
  };
  for (const Row& row : rows) {
    CAPTURE(row.key);
    expect(world.kv->Get(row.key).status(), row.text, "GET");
    expect(world.kv->GetWithMetadata(row.key).status(), row.text, "GET");
    expect(world.kv->Pin(row.key).status(), row.text, "GET");
    expect(world.kv->Put(row.key, "v"), row.text, "PUT");
    expect(world.kv->Delete(row.key), row.text, "DELETE");
  }
  REQUIRE(world.kv->Put(std::string(512, 'k'), "longest").ok());
  REQUIRE(world.kv->Get(std::string(512, 'k')).value() == Value("longest"));
  REQUIRE(world.kv->Put("...", "three dots are a key").ok());
}

TEST_CASE("bad keys in a bulk get are refused in the words of the service", "[kv]") {
  World world;
  const auto text = [&](std::string_view key) {
    return TextOf(world.kv->GetMany({"good", key}).status());
  };
  REQUIRE(text("") == "KV GET_BULK failed: 400 Key names must not be empty");
  REQUIRE(text(".") ==
          "KV GET_BULK failed: 400 Illegal key name \".\". Please use a different name.");
  REQUIRE(text("..") ==
          "KV GET_BULK failed: 400 Illegal key name \"..\". Please use a different name.");
  REQUIRE(text(kLongKey) == "KV GET_BULK" + kTooLong);
  REQUIRE(world.origin->get_manys == 0);
}

TEST_CASE("a bulk get answers in order, with nothing for the missing", "[kv]") {
  World world;
  REQUIRE(world.kv->Put("0", "index-like").ok());
  REQUIRE(world.kv->Put("42", "another", {.metadata = R"({"a":1})"}).ok());
  const auto values = world.kv->GetMany({"42", "missing", "0", "42"}).value();
  REQUIRE(values ==
          std::vector<Value>{Value("another"), Value(), Value("index-like"), Value("another")});
  const std::vector<std::string_view> keys = {"42", "missing"};
  const auto rich = world.kv->GetManyWithMetadata(keys).value();
  REQUIRE(rich[0]->value == "another");
  REQUIRE(rich[0]->metadata == R"({"a":1})");
  REQUIRE(!rich[1]);
}

TEST_CASE("a bulk get takes 1 to 100 keys", "[kv]") {
  World world;
  std::vector<std::string> names;
  for (int i = 0; i < 101; ++i) names.push_back("key" + std::to_string(i));
  std::vector<std::string_view> keys(names.begin(), names.end());
  REQUIRE(TextOf(world.kv->GetMany(keys).status()) ==
          "KV GET_BULK failed: 400 You can request a maximum of 100 keys");
  REQUIRE(TextOf(world.kv->GetMany(std::span<const std::string_view>()).status()) ==
          "KV GET_BULK failed: 400 You must request a minimum of 1 key");
  keys.pop_back();
  REQUIRE(world.kv->GetMany(keys).value().size() == 100);
}

TEST_CASE("a bulk get is refused above 25 MiB in all", "[kv]") {
  World world;
  const std::string half(13'200'000, 'x');
  REQUIRE(world.kv->Put("a", half).ok());
  REQUIRE(world.kv->Put("b", half).ok());
  const std::string text =
      "KV GET_BULK failed: 413 Total size of request exceeds the limit of 25MB";
  REQUIRE(TextOf(world.kv->GetMany({"a", "b"}).status()) == text);
  REQUIRE(world.kv->GetMany({"a"}).value()[0]->size() == half.size());
}

TEST_CASE("a bulk get asks the origin once for what is not hot", "[kv]") {
  World world;
  REQUIRE(world.origin->behind.Put("cold1", {"1"}).ok());
  REQUIRE(world.origin->behind.Put("cold2", {"2"}).ok());
  REQUIRE(world.kv->Put("hot", "3").ok());
  const auto values = world.kv->GetMany({"cold1", "hot", "cold2", "none", "cold1"}).value();
  REQUIRE(values == std::vector<Value>{Value("1"), Value("3"), Value("2"), Value(), Value("1")});
  REQUIRE(world.origin->get_manys == 1);
  REQUIRE(world.kv->stats().origin_reads == 3);
  REQUIRE(world.kv->GetMany({"cold1", "cold2", "none"}).value()[1] == Value("2"));
  REQUIRE(world.origin->get_manys == 1);
}

TEST_CASE("values are limited to 25 MiB, and the limit can be lower", "[kv]") {
  World world;
  REQUIRE(TextOf(world.kv->Put("key", std::string(26'214'401, 'x'))) ==
          "KV PUT failed: 413 Value length of 26214401 exceeds limit of 26214400.");
  REQUIRE(world.kv->Put("key", std::string(26'214'400, 'x')).ok());
  REQUIRE(world.kv->Get("key").value()->size() == 26'214'400);
  World small({.value_bytes_max = 1024});
  REQUIRE(TextOf(small.kv->Put("key", std::string(1025, 'x'))) ==
          "KV PUT failed: 413 Value length of 1025 exceeds limit of 1024.");
}

TEST_CASE("metadata is JSON of up to 1024 bytes, and each put replaces it", "[kv]") {
  World world;
  REQUIRE(world.kv->Put("key", "v", {.metadata = R"({"testing": true})"}).ok());
  REQUIRE(world.kv->GetWithMetadata("key").value()->metadata == R"({"testing": true})");
  REQUIRE(world.kv->Put("key", "v").ok());
  REQUIRE(world.kv->GetWithMetadata("key").value()->metadata.empty());
  REQUIRE(world.kv->Put("key", "v", {.metadata = " null "}).ok());
  REQUIRE(world.kv->GetWithMetadata("key").value()->metadata.empty());
  for (const std::string_view falsy : {"0", "false", "\"\"", "[]"}) {
    REQUIRE(world.kv->Put("key", "v", {.metadata = falsy}).ok());
    REQUIRE(world.kv->GetWithMetadata("key").value()->metadata == falsy);
  }
  const std::string longest = "\"" + std::string(1022, 'm') + "\"";
  REQUIRE(world.kv->Put("key", "v", {.metadata = longest}).ok());
  REQUIRE(TextOf(world.kv->Put("key", "v", {.metadata = longest + " "})) ==
          "KV PUT failed: 413 Metadata length of 1025 exceeds limit of 1024.");
  REQUIRE(TextOf(world.kv->Put("key", "v", {.metadata = "{oops}"})) ==
          "KV PUT failed: 400 Metadata must be valid JSON.");
}

TEST_CASE("a time to live starts now and is at least a minute", "[kv]") {
  World world;
  const auto text = [&](int64_t ttl_s) {
    return TextOf(world.kv->Put("key", "v", {.expiration_ttl_s = ttl_s}));
  };
  REQUIRE(text(0) ==
          "KV PUT failed: 400 Invalid expiration_ttl of 0. Please specify integer greater than 0.");
  REQUIRE(
      text(-1) ==
      "KV PUT failed: 400 Invalid expiration_ttl of -1. Please specify integer greater than 0.");
  REQUIRE(text(59) ==
          "KV PUT failed: 400 Invalid expiration_ttl of 59. Expiration TTL must be at least 60.");
  REQUIRE(text(60).empty());
  REQUIRE(world.kv->List().value().keys[0].expiration_s == 1060);
  REQUIRE(text(INT64_MAX).empty());
  REQUIRE(world.kv->List().value().keys[0].expiration_s == INT64_MAX);
}

TEST_CASE("an absolute expiration is at least a minute ahead", "[kv]") {
  World world;
  const auto text = [&](int64_t expiration_s) {
    return TextOf(world.kv->Put("key", "v", {.expiration_s = expiration_s}));
  };
  const std::string not_ahead =
      ". Please specify integer greater than the current number of seconds since the UNIX epoch.";
  REQUIRE(text(0) == "KV PUT failed: 400 Invalid expiration of 0" + not_ahead);
  REQUIRE(text(1000) == "KV PUT failed: 400 Invalid expiration of 1000" + not_ahead);
  REQUIRE(text(1059) ==
          "KV PUT failed: 400 Invalid expiration of 1059. Expiration times must be at least 60 "
          "seconds in the future.");
  REQUIRE(text(1060).empty());
  REQUIRE(world.kv->List().value().keys[0].expiration_s == 1060);
}

TEST_CASE("the time to live wins over the absolute expiration", "[kv]") {
  World world;
  REQUIRE(world.kv->Put("key", "v", {.expiration_ttl_s = 100, .expiration_s = 1}).ok());
  REQUIRE(world.kv->List().value().keys[0].expiration_s == 1100);
  REQUIRE(world.kv->Put("key", "v").ok());
  REQUIRE(world.kv->List().value().keys[0].expiration_s == 0);
}

TEST_CASE("an entry is gone at its expiration, for get and for list", "[kv]") {
  World world;
  REQUIRE(world.kv->Put("key", "v", {.expiration_ttl_s = 60}).ok());
  world.clock.Advance(59'999);
  REQUIRE(world.kv->Get("key").value() == Value("v"));
  REQUIRE(world.kv->List().value().keys.size() == 1);
  world.clock.Advance(1);
  REQUIRE(world.kv->Get("key").value() == Value());
  REQUIRE(world.kv->List().value().keys.empty());
  REQUIRE(world.kv->GetMany({"key"}).value()[0] == Value());
  // The absence is known now: the origin, which still has the row, is asked no more.
  const int gets = world.origin->gets;
  REQUIRE(world.kv->Get("key").value() == Value());
  REQUIRE(world.origin->gets == gets);
}

TEST_CASE("an expiration beyond the year 2106 is kept", "[kv]") {
  World world;
  REQUIRE(world.kv->Put("key", "v", {.expiration_s = 9'999'999'999}).ok());
  REQUIRE(world.kv->Get("key").value() == Value("v"));
  REQUIRE(world.kv->List().value().keys[0].expiration_s == 9'999'999'999);
}

TEST_CASE("a list is in byte order, with expiration and metadata", "[kv]") {
  World world;
  // U+FFFD sorts after U+1F511 in UTF-16, before it in UTF-8.
  const std::vector<std::string> names = {"A", "a", "a:1", "b", "\xEF\xBF\xBD", "\xF0\x9F\x94\x91"};
  for (size_t i = names.size(); i-- > 0;) REQUIRE(world.kv->Put(names[i], "v").ok());
  REQUIRE(world.kv->Put("b", "v", {.expiration_ttl_s = 60, .metadata = "[1]"}).ok());
  const ListPage page = world.kv->List().value();
  REQUIRE(page.list_complete);
  REQUIRE(page.cursor.empty());
  REQUIRE(page.keys.size() == names.size());
  for (size_t i = 0; i < names.size(); ++i) REQUIRE(page.keys[i].name == names[i]);
  REQUIRE(page.keys[3].expiration_s == 1060);
  REQUIRE(page.keys[3].metadata == "[1]");
}

TEST_CASE("a list prefix is literal", "[kv]") {
  World world;
  for (const char* key : {"a%b", "a_b", "a\\b", "axb", "A_b"})
    REQUIRE(world.kv->Put(key, "v").ok());
  REQUIRE(world.kv->List({.prefix = "a_"}).value().keys.size() == 1);
  REQUIRE(world.kv->List({.prefix = "a%"}).value().keys.size() == 1);
  REQUIRE(world.kv->List({.prefix = "a\\"}).value().keys.size() == 1);
  REQUIRE(world.kv->List({.prefix = "a"}).value().keys.size() == 4);
  REQUIRE(world.kv->List({.prefix = "zzz"}).value().keys.empty());
  REQUIRE(TextOf(world.kv->List({.prefix = kLongKey}).status()) == "KV GET" + kTooLong);
}

TEST_CASE("a list limit is at most 1000, and 0 or less means 1000", "[kv]") {
  World world;
  for (int i = 0; i < 1001; ++i) REQUIRE(world.kv->Put("key" + std::to_string(i), "").ok());
  REQUIRE(TextOf(world.kv->List({.limit = 1001}).status()) ==
          "KV GET failed: 400 Invalid key_count_limit of 1001. Please specify an integer less than "
          "1000.");
  REQUIRE(world.kv->List({.limit = 1000}).value().keys.size() == 1000);
  for (const int64_t unset : {int64_t{0}, int64_t{-1}}) {
    const ListPage page = world.kv->List({.limit = unset}).value();
    REQUIRE(page.keys.size() == 1000);
    REQUIRE(!page.list_complete);
    REQUIRE(world.kv->List({.cursor = page.cursor}).value().keys.size() == 1);
  }
}

TEST_CASE("a list goes on at its cursor, whatever changed meanwhile", "[kv]") {
  World world;
  for (const char* key : {"k1", "k2", "k3", "k5"}) REQUIRE(world.kv->Put(key, "v").ok());
  const ListPage first = world.kv->List({.prefix = "k", .limit = 2}).value();
  REQUIRE(!first.list_complete);
  REQUIRE(first.keys.back().name == "k2");
  REQUIRE(world.kv->Put("k0", "before the cursor").ok());
  REQUIRE(world.kv->Put("k4", "after it").ok());
  REQUIRE(world.kv->Delete("k2").ok());
  const ListPage rest = world.kv->List({.prefix = "k", .limit = 3, .cursor = first.cursor}).value();
  REQUIRE(rest.list_complete);
  REQUIRE(rest.keys.size() == 3);
  REQUIRE(rest.keys[0].name == "k3");
  REQUIRE(rest.keys[1].name == "k4");
  REQUIRE(rest.keys[2].name == "k5");
}

TEST_CASE("a page that ends with the last key is complete", "[kv]") {
  World world;
  REQUIRE(world.kv->Put("a", "v").ok());
  REQUIRE(world.kv->Put("b", "v").ok());
  REQUIRE(world.kv->List({.limit = 2}).value().list_complete);
  REQUIRE(world.kv->Put("c", "v", {.expiration_ttl_s = 60}).ok());
  world.clock.Advance(60'000);
  REQUIRE(world.kv->List({.limit = 2}).value().list_complete);
}

TEST_CASE("a cursor from elsewhere is refused", "[kv]") {
  World world;
  for (const char* key : {"a1", "a2", "b1"}) REQUIRE(world.kv->Put(key, "v").ok());
  const std::string cursor = world.kv->List({.prefix = "a", .limit = 1}).value().cursor;
  REQUIRE(TextOf(world.kv->List({.prefix = "b", .cursor = cursor}).status()) ==
          "KV GET failed: 400 Invalid cursor: made by a list with another prefix.");
  for (const std::string& bad : {std::string("nonsense"), std::string("!"), cursor + "A",
                                 cursor.substr(1), std::string(5000, 'A')}) {
    REQUIRE(world.kv->List({.prefix = "a", .cursor = bad}).status().code() ==
            StatusCode::kInvalidArgument);
  }
}

TEST_CASE("a cache_ttl is at least 30 and bounds the age of what is read", "[kv]") {
  World world;
  REQUIRE(TextOf(world.kv->Get("key", {.cache_ttl_s = 29}).status()) ==
          "KV GET failed: 400 Invalid cache_ttl of 29. Cache TTL must be at least 30.");
  REQUIRE(TextOf(world.kv->GetMany({"key"}, {.cache_ttl_s = 0}).status()) ==
          "KV GET_BULK failed: 400 Invalid cache_ttl of 0. Cache TTL must be at least 30.");
  REQUIRE(world.kv->Put("key", "old").ok());
  REQUIRE(world.origin->behind.Put("key", {"new"}).ok());  // behind our back
  world.clock.Advance(29'000);
  REQUIRE(world.kv->Get("key", {.cache_ttl_s = 30}).value() == Value("old"));
  world.clock.Advance(1'000);
  REQUIRE(world.kv->Get("key", {.cache_ttl_s = 60}).value() == Value("old"));
  REQUIRE(world.kv->Get("key", {.cache_ttl_s = 30}).value() == Value("new"));
}

TEST_CASE("writes of others are seen within the freshness of the options", "[kv]") {
  World world({.fresh_for_s = 60, .absent_fresh_for_s = 10});
  REQUIRE(world.kv->Get("key").value() == Value());
  REQUIRE(world.origin->behind.Put("key", {"1"}).ok());
  REQUIRE(world.kv->Get("key").value() == Value());
  world.clock.Advance(10'000);
  REQUIRE(world.kv->Get("key").value() == Value("1"));
  REQUIRE(world.origin->behind.Put("key", {"2"}).ok());
  world.clock.Advance(59'000);
  REQUIRE(world.kv->Get("key").value() == Value("1"));
  world.clock.Advance(1'000);
  REQUIRE(world.kv->Get("key").value() == Value("2"));
}

TEST_CASE("a stale entry is served while one reader fetches it anew", "[kv][threads]") {
  World world({.fresh_for_s = 60, .stale_for_s = 30});
  REQUIRE(world.kv->Put("key", "old").ok());
  REQUIRE(world.origin->behind.Put("key", {"new"}).ok());
  world.clock.Advance(60'000);
  world.origin->Close();
  Value fetched;
  std::thread first([&] { fetched = world.kv->Get("key").value(); });
  world.origin->AwaitHeld(1);
  const auto meanwhile = world.kv->GetWithMetadata("key").value();
  REQUIRE(meanwhile->value == "old");
  REQUIRE(meanwhile->stale);
  REQUIRE(meanwhile->age_s == 60);
  REQUIRE(world.kv->GetMany({"key"}).value()[0] == Value("old"));
  world.origin->Open();
  first.join();
  REQUIRE(fetched == Value("new"));
  REQUIRE(!world.kv->GetWithMetadata("key").value()->stale);
  REQUIRE(world.origin->gets == 1);
  REQUIRE(world.kv->stats().stale == 2);
}

TEST_CASE("while the origin fails, stale entries are served and it is left alone", "[kv]") {
  World world({.fresh_for_s = 60, .stale_if_error_s = 100});
  REQUIRE(world.kv->Put("key", "old").ok());
  REQUIRE(world.kv->Put("expiring", "old", {.expiration_ttl_s = 70}).ok());
  REQUIRE(world.origin->behind.Put("key", {"new"}).ok());
  world.clock.Advance(60'000);
  world.origin->SetFailure(Unavailable("away"));
  REQUIRE(world.kv->GetWithMetadata("key").value()->stale);
  REQUIRE(world.kv->GetMany({"key"}).value()[0] == Value("old"));
  REQUIRE(world.origin->gets + world.origin->get_manys == 1);  // not asked again so soon
  world.clock.Advance(1'000);
  REQUIRE(world.kv->Get("key").value() == Value("old"));
  REQUIRE(world.origin->gets == 2);
  world.clock.Advance(1'000);  // now it waits for two seconds
  REQUIRE(world.kv->Get("key").value() == Value("old"));
  REQUIRE(world.origin->gets == 2);
  REQUIRE(world.kv->Get("expiring").value() == Value("old"));
  REQUIRE(world.kv->Get("key", {.cache_ttl_s = 30}).status().code() == StatusCode::kUnavailable);
  world.clock.Advance(8'000);
  REQUIRE(world.kv->Get("expiring").status().code() == StatusCode::kUnavailable);  // expired
  world.origin->SetFailure(OkStatus());
  REQUIRE(world.kv->Get("key").value() == Value("new"));
  REQUIRE(world.kv->Put("other", "old").ok());
  world.clock.Advance(160'000);
  world.origin->SetFailure(Unavailable("away"));
  REQUIRE(world.kv->Get("other").status().code() == StatusCode::kUnavailable);  // too old
}

TEST_CASE("an answer says where it came from and how old it is", "[kv]") {
  World world;
  REQUIRE(world.origin->behind.Put("key", {"v"}).ok());
  auto answer = world.kv->GetWithMetadata("key").value();
  REQUIRE(answer->source == Source::kOrigin);
  REQUIRE(answer->age_s == 0);
  world.clock.Advance(7'000);
  answer = world.kv->GetWithMetadata("key").value();
  REQUIRE(answer->source == Source::kHot);
  REQUIRE(answer->age_s == 7);
}

TEST_CASE("a hit does not ask the origin, nor does a known absence", "[kv]") {
  World world;
  REQUIRE(world.origin->behind.Put("there", {"v"}).ok());
  for (int i = 0; i < 5; ++i) {
    REQUIRE(world.kv->Get("there").value() == Value("v"));
    REQUIRE(world.kv->Get("missing").value() == Value());
  }
  REQUIRE(world.origin->gets == 2);
  const Stats stats = world.kv->stats();
  REQUIRE(stats.hits == 8);
  REQUIRE(stats.misses == 2);
  REQUIRE(stats.hit_ratio() == Approx(0.8));
  REQUIRE(stats.entries == 2);
}

TEST_CASE("an error of the origin is handed on and not kept", "[kv]") {
  World world;
  REQUIRE(world.kv->Put("hot", "v").ok());
  world.origin->SetFailure(Unavailable("the origin is away"));
  REQUIRE(world.kv->Get("cold").status().code() == StatusCode::kUnavailable);
  REQUIRE(world.kv->GetMany({"hot", "cold"}).status().code() == StatusCode::kUnavailable);
  REQUIRE(world.kv->List().status().code() == StatusCode::kUnavailable);
  REQUIRE(world.kv->Get("hot").value() == Value("v"));
  world.origin->SetFailure(OkStatus());
  REQUIRE(world.kv->Get("cold").value() == Value());
}

TEST_CASE("after a failed write the origin is asked", "[kv]") {
  World world;
  REQUIRE(world.kv->Put("key", "1").ok());
  world.origin->SetFailure(Unavailable("lost on the way back"));
  REQUIRE(!world.kv->Put("key", "2").ok());
  REQUIRE(world.origin->behind.Put("key", {"2"}).ok());  // it had arrived after all
  world.origin->SetFailure(OkStatus());
  REQUIRE(world.kv->Get("key").value() == Value("2"));
}

TEST_CASE("an origin that throws or lies does no harm", "[kv]") {
  struct BadOrigin final : Origin {
    StatusOr<std::optional<Entry>> Get(std::string_view key) override {
      if (key == "throw") throw std::runtime_error("boom");
      if (key == "metadata") return std::optional<Entry>(Entry{"v", std::string(2000, '1'), 0});
      return std::optional<Entry>(Entry{std::string(26'214'401, 'x'), "", 0});
    }
    StatusOr<std::vector<std::optional<Entry>>> GetMany(
        std::span<const std::string_view>) override {
      return std::vector<std::optional<Entry>>{};
    }
    StatusOr<Version> Put(std::string_view, const EntryView&) override { throw 7; }
    StatusOr<Version> Delete(std::string_view, Version version) override { return version; }
    StatusOr<OriginListPage> List(const OriginListQuery&) override { return OriginListPage{}; }
  };
  auto kv = Namespace::Open(std::make_shared<BadOrigin>()).value();
  REQUIRE(TextOf(kv.Get("throw").status()) == "kv: the origin threw: boom");
  REQUIRE(kv.Get("metadata").status().code() == StatusCode::kDataLoss);
  REQUIRE(kv.Get("huge").status().code() == StatusCode::kDataLoss);
  REQUIRE(kv.GetMany({"a", "b"}).status().code() == StatusCode::kInternal);
  REQUIRE(kv.Put("key", "v").code() == StatusCode::kUnknown);
}

TEST_CASE("options out of range are refused", "[kv]") {
  const auto code = [](const Options& options) {
    return Namespace::Open(std::make_shared<MemoryOrigin>(), options).status().code();
  };
  REQUIRE(code({.hot_bytes_max = 1000}) == StatusCode::kInvalidArgument);
  REQUIRE(code({.shard_count = 3}) == StatusCode::kInvalidArgument);
  REQUIRE(code({.shard_count = 512}) == StatusCode::kInvalidArgument);
  REQUIRE(code({.fresh_for_s = -1}) == StatusCode::kInvalidArgument);
  REQUIRE(code({.stale_for_s = -1}) == StatusCode::kInvalidArgument);
  REQUIRE(code({.value_bytes_max = 1 << 30}) == StatusCode::kInvalidArgument);
  REQUIRE(code({.hot_bytes_max = 256 << 10, .shard_count = 1}) == StatusCode::kOk);
  REQUIRE(Namespace::Open(nullptr).status().code() == StatusCode::kInvalidArgument);
}

TEST_CASE("a value above the hot tier's share is served by the origin", "[kv]") {
  World world({.hot_bytes_max = 256 << 10, .shard_count = 1});
  const std::string big(200'000, 'b');
  REQUIRE(world.kv->Put("big", "small").ok());
  REQUIRE(world.kv->Put("big", big).ok());
  REQUIRE(world.kv->Get("big").value() == Value(big));
  REQUIRE(world.kv->Get("big").value() == Value(big));
  REQUIRE(world.origin->gets == 2);
  REQUIRE(world.kv->stats().bytes <= world.kv->stats().bytes_max);
}

TEST_CASE("a pinned value stays while it is overwritten, evicted and its store closed", "[kv]") {
  std::vector<PinnedValue> pins;
  {
    World world({.hot_bytes_max = 256 << 10, .shard_count = 1});
    REQUIRE(world.kv->Put("small", "first", {.metadata = "1"}).ok());
    REQUIRE(world.kv->Put("large", std::string(30'000, 'L')).ok());
    pins.push_back(*world.kv->Pin("small").value());
    pins.push_back(*world.kv->Pin("large").value());
    REQUIRE(!world.kv->Pin("missing").value());
    REQUIRE(world.kv->Put("small", "second").ok());
    for (int i = 0; i < 10'000; ++i) {
      REQUIRE(world.kv->Put("filler" + std::to_string(i), std::string(100, 'f')).ok());
    }
    REQUIRE(pins[0].value() == "first");
    REQUIRE(world.kv->Get("small").value() == Value("second"));
    REQUIRE(world.kv->stats().bytes <= world.kv->stats().bytes_max);
  }
  REQUIRE(pins[0].value() == "first");
  REQUIRE(pins[0].metadata() == "1");
  REQUIRE(pins[1].value() == std::string(30'000, 'L'));
  PinnedValue moved = std::move(pins[0]);
  REQUIRE(moved.value() == "first");
  REQUIRE(pins[0].value().empty());
}

TEST_CASE("pins without end turn into copies, and the tier goes on", "[kv]") {
  World world({.hot_bytes_max = 256 << 10, .shard_count = 1});
  std::vector<PinnedValue> pins;
  for (int i = 0; i < 5'000; ++i) {
    const std::string key = "key" + std::to_string(i);
    REQUIRE(world.kv->Put(key, key + std::string(200, '.')).ok());
    pins.push_back(*world.kv->Pin(key).value());
  }
  for (int i = 0; i < 5'000; ++i) {
    REQUIRE(pins[static_cast<size_t>(i)].value() ==
            "key" + std::to_string(i) + std::string(200, '.'));
  }
  REQUIRE(world.kv->stats().bytes <= world.kv->stats().bytes_max);
  pins.clear();
  REQUIRE(world.kv->Put("after", "v").ok());
  REQUIRE(world.kv->Get("after").value() == Value("v"));
}

TEST_CASE("expired rows are swept from the origin by later writes", "[kv]") {
  World world;
  for (int i = 0; i < 50; ++i) {
    REQUIRE(world.kv->Put("old" + std::to_string(i), "v", {.expiration_ttl_s = 60}).ok());
  }
  world.clock.Advance(60'000);
  for (int i = 0; i < 256; ++i) REQUIRE(world.kv->Put("new", "v").ok());
  REQUIRE(world.origin->behind.size() == 1);
}
