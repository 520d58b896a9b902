#include "kv/limits.h"

#include <random>

#include "kv/cursor.h"

using namespace edge;      // NOLINT
using namespace edge::kv;  // NOLINT

TEST_CASE("JSON is told from what is not", "[kv]") {
  for (const char* good :
       {"null", " true ", "0", "-0.5e+10", "1E9", "\"\"", R"("\u00e9\n\"")", "[]", "{}", "[[],{}]",
        R"({"a":[1,2,{"b":null}],"c":"d"})", "[1 , 2]", "{ \"a\" : 1 }", "\"\xc3\xa9\""}) {
    CAPTURE(good);
    REQUIRE(IsJson(good));
  }
  for (const char* bad : {"",        " ",        "nul",         "nulll",      "01",
                          "1.",      ".5",       "+1",          "1e",         "-",
                          "\"",      "\"\\x\"",  "\"\\u12g4\"", "\"\n\"",     "[",
                          "]",       "[1,]",     "[,1]",        "[1 2]",      "{",
                          "{\"a\"}", "{\"a\":}", "{a:1}",       "{\"a\":1,}", "{\"a\":1]",
                          "[1}",     "1 2",      "\"\xff\"",    "\"\\",       "{\"a\":1,\"b\"}",
                          "'a'"}) {
    CAPTURE(bad);
    REQUIRE(!IsJson(bad));
  }
  REQUIRE(IsJson(std::string(30'000, '[') + std::string(30'000, ']')));
  REQUIRE(!IsJson(std::string(60'000, '[')));
}

TEST_CASE("UTF-8 is told from what is not", "[kv]") {
  for (const char* good :
       {"", "a", "\xc2\x80", "\xed\x9f\xbf", "\xee\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    REQUIRE(IsUtf8(good));
  }
  for (const char* bad :
       {"\x80", "\xc0\x80", "\xc1\xbf", "\xc2", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
        "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "a\xe2\x82"}) {
    REQUIRE(!IsUtf8(bad));
  }
}

TEST_CASE("a cursor gives back its key, and damage is noticed", "[kv][property]") {
  const auto seed = GENERATE(range(1u, 65u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  std::string key(1 + rng() % 512, '\0');
  for (char& c : key) c = static_cast<char>(rng());
  const std::string cursor = EncodeCursor(key);
  REQUIRE(DecodeCursor(cursor, key.substr(0, rng() % key.size())).value() == key);
  std::string damaged = cursor;
  char& c = damaged[rng() % damaged.size()];
  c = c == 'A' ? 'B' : 'A';
  REQUIRE(!DecodeCursor(damaged, "").ok());
}
