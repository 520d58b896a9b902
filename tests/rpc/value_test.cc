#include "edge/rpc/value.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <map>
#include <random>

#include "edge/base/errors.h"
#include "edge/rpc/convert.h"
#include "src/rpc/json.h"

namespace edge::rpc {
namespace {

std::string Text(const Value& value) {
  StatusOr<std::string> text = Encode(value);
  return text.ok() ? *text : "error: " + std::string(Message(text.status()));
}

struct Passenger {
  std::string name;
  std::optional<int> age;
  std::vector<std::pair<std::string, bool>> bags;
  using Fields = edge::rpc::Fields<&Passenger::name, &Passenger::age,
                                   edge::rpc::Named<"luggage", &Passenger::bags>>;
};

TEST_CASE("each kind of value has the text that Cap'n Web gives it", "[rpc]") {
  const double inf = std::numeric_limits<double>::infinity();
  CHECK(Text(Value()) == R"(["undefined"])");
  CHECK(Text(nullptr) == "null");
  CHECK(Text(true) == "true");
  CHECK(Text(-12) == "-12");
  CHECK(Text(0.5) == "0.5");
  CHECK(Text(-0.0) == "0");
  CHECK(Text(inf) == R"(["inf"])");
  CHECK(Text(-inf) == R"(["-inf"])");
  CHECK(Text(std::nan("")) == R"(["nan"])");
  CHECK(Text(int64_t{1} << 53) == "9007199254740992");
  CHECK(Text((int64_t{1} << 53) + 1) == R"(["bigint","9007199254740993"])");
  CHECK(Text(std::numeric_limits<uint64_t>::max()) == R"(["bigint","18446744073709551615"])");
  CHECK(Text("a\"\n\x01") == R"("a\"\n\u0001")");
  CHECK(Text(Bytes{std::byte{1}, std::byte{255}}) == R"(["bytes","Af8"])");
  CHECK(Text(BytesValue{Bytes(4), BytesKind::kFloat32Array}) ==
        R"(["bytes","AAAAAA","Float32Array"])");
  CHECK(Text(Date{1500.5}) == R"(["date",1500.5])");
  CHECK(Text(Date{std::nan("")}) == R"(["date",null])");
  CHECK(Text(Url{"http://a/"}) == R"(["url","http://a/"])");
  CHECK(Text(Headers{{{"a", "b"}}}) == R"(["headers",[["a","b"]]])");
  CHECK(Text(ArrayOf(1, ArrayOf())) == "[[1,[[]]]]");
  CHECK(Text(ObjectOf("a", 1, "b", ArrayOf("x"))) == R"({"a":1,"b":[["x"]]})");
  CHECK(Text(ErrorValue{"TypeError", "no", std::nullopt, {}}) == R"(["error","TypeError","no"])");
  CHECK(Text(ErrorValue{"Error", "no", std::nullopt, ObjectOf("code", 7)}) ==
        R"(["error","Error","no",null,{"code":7}])");
}

TEST_CASE("text of a value reads back as the same value", "[rpc]") {
  const std::vector<Value> values = {
      Value(),
      nullptr,
      false,
      3,
      2.25,
      BigInt{"-123456789012345678901"},
      "\xED\xA0\x80 lone",
      "caf\xC3\xA9 \xF0\x9F\x98\x80",
      Bytes(5),
      Date{-1},
      Url{"u:"},
      Headers{{{"k", "v"}}},
      ErrorValue{"RangeError", "m", "stack", ObjectOf("x", ArrayOf(1))},
      ArrayOf(ArrayOf(ArrayOf())),
      ObjectOf("a", ObjectOf("b", nullptr))};
  for (const Value& value : values) {
    CAPTURE(Text(value));
    StatusOr<Value> back = Decode(Text(value));
    REQUIRE(back.ok());
    CHECK(*back == value);
  }
}

TEST_CASE("what is not an expression is refused with a reason", "[rpc]") {
  const char* const bad[] = {"",
                             "[",
                             "{",
                             "{\"a\"}",
                             "[1]",
                             "[[1],2]",
                             "[]",
                             "[\"what\"]",
                             "01",
                             "1.",
                             "-",
                             "tru",
                             "\"\\x\"",
                             "\"\\ud8\"",
                             "\"\x80\"",
                             "[\"bigint\",\"1x\"]",
                             "[\"bigint\",5]",
                             "[\"date\"]",
                             "[\"bytes\",\"A\"]",
                             "[\"bytes\",\"AA!A\"]",
                             "[\"bytes\",\"AAAA\",\"Uint16Array\"]",
                             "[\"bytes\",\"AAAA\",\"Strange\"]",
                             "[\"error\",\"E\"]",
                             "[\"undefined\",1]",
                             "[\"import\",0]",
                             "[\"export\",-1]",
                             "[\"headers\",[[1,2]]]",
                             "1 2",
                             "\"a\nb\"",
                             "[\"remap\",0,[],[],[]]",
                             "[\"readable\",1]"};
  for (const char* text : bad) {
    CAPTURE(text);
    StatusOr<Value> value = Decode(text);
    CHECK_FALSE(value.ok());
  }
}

TEST_CASE("nesting is bounded in both directions", "[rpc]") {
  Value deep = 1;
  for (int i = 0; i < 256; ++i) deep = ArrayOf(std::move(deep));
  CHECK(Encode(deep).ok());
  CHECK(Decode(*Encode(deep)).ok());
  deep = ArrayOf(std::move(deep));
  CHECK(Encode(deep).status().code() == StatusCode::kInvalidArgument);
  CHECK_FALSE(Decode(std::string(100000, '[')).ok());
  CHECK_FALSE(Decode("[" + std::string(600, '[') + std::string(600, ']') + "]").ok());
}

TEST_CASE("a key given twice counts once, with the last value", "[rpc]") {
  CHECK(*Decode(R"({"a":1,"b":2,"a":3})") == ObjectOf("a", 3, "b", 2));
  std::string many = "{";
  for (int i = 0; i < 40; ++i)
    many += "\"k" + std::to_string(i % 20) + "\":" + std::to_string(i) + ",";
  many.back() = '}';
  StatusOr<Value> object = Decode(many);
  REQUIRE(object.ok());
  CHECK(object->object()->size() == 20);
  CHECK((*object)["k3"] == 23);
}

TEST_CASE("names of JavaScript's own object members are dropped from objects", "[rpc]") {
  CHECK(*Decode(R"({"__proto__":{"x":1},"toJSON":2,"constructor":3,"ok":4})") == ObjectOf("ok", 4));
}

TEST_CASE("integers convert exactly or are refused", "[rpc]") {
  CHECK(*FromValue<int>(7) == 7);
  CHECK(*FromValue<int>(7.0) == 7);
  CHECK(*FromValue<uint64_t>(BigInt{"18446744073709551615"}) ==
        std::numeric_limits<uint64_t>::max());
  CHECK(*FromValue<int64_t>(BigInt{"-9223372036854775808"}) == std::numeric_limits<int64_t>::min());
  CHECK(FromValue<int>(7.5).status().code() == StatusCode::kInvalidArgument);
  CHECK(FromValue<int>(int64_t{1} << 40).status().code() == StatusCode::kInvalidArgument);
  CHECK(FromValue<uint8_t>(-1).status().code() == StatusCode::kInvalidArgument);
  CHECK(FromValue<uint64_t>(-1).status().code() == StatusCode::kInvalidArgument);
  CHECK(FromValue<int64_t>(1e300).status().code() == StatusCode::kInvalidArgument);
  CHECK(FromValue<int>("7").status().code() == StatusCode::kInvalidArgument);
}

TEST_CASE("a struct that lists its fields crosses as an object", "[rpc]") {
  const Passenger ada{"ada", 36, {{"trunk", true}}};
  const Value value = ToValue(ada);
  CHECK(Text(value) == R"({"name":"ada","age":36,"luggage":[[[["trunk",true]]]]})");
  const StatusOr<Passenger> back = FromValue<Passenger>(value);
  REQUIRE(back.ok());
  CHECK(back->bags == ada.bags);
  CHECK(FromValue<Passenger>(ObjectOf("name", "x", "luggage", ArrayOf()))->age == std::nullopt);
  const Status wrong = FromValue<Passenger>(ObjectOf("name", 1)).status();
  CHECK(Message(wrong) == "'name': expected a string, got integer");
}

TEST_CASE("maps, tuples and vectors convert, and errors say where", "[rpc]") {
  const std::map<std::string, std::vector<int>> map = {{"a", {1, 2}}, {"b", {}}};
  CHECK(*FromValue<std::map<std::string, std::vector<int>>>(ToValue(map)) == map);
  const auto tuple = std::make_tuple(1, std::string("x"), true);
  CHECK(*FromValue<std::tuple<int, std::string, bool>>(ToValue(tuple)) == tuple);
  const Status wrong = FromValue<std::vector<int>>(ArrayOf(1, "x")).status();
  CHECK(Message(wrong) == "element 1: expected a whole number, got string");
}

TEST_CASE("a Status crosses as an error and comes back with its code", "[rpc]") {
  const Status lost = NotFound("No such seat: {}", "9Z");
  const Value error = ErrorFromStatus(lost);
  CHECK(Text(error) == R"(["error","Error","No such seat: 9Z",null,{"code":"NOT_FOUND"}])");
  CHECK(StatusFromError(error) == lost);
  CHECK(error.As<ErrorValue>()->name == "Error");
  CHECK(ErrorFromStatus(InvalidArgument("x")).As<ErrorValue>()->name == "TypeError");
}

TEST_CASE("a foreign rejection goes on as what it was", "[rpc]") {
  const Value thrown = ErrorValue{"SyntaxError", "m", std::nullopt, ObjectOf("line", 3)};
  CHECK(StatusFromError(thrown).code() == StatusCode::kUnknown);
  CHECK(ErrorFromStatus(StatusFromError(thrown)) == thrown);
  CHECK(ErrorFromStatus(RejectWith(ArrayOf(1, "x"))) == Value(ArrayOf(1, "x")));
  CHECK(Message(RejectWith("just text")) == "just text");
}

TEST_CASE("any random tree reads back from its text", "[rpc][property]") {
  const auto seed = GENERATE(range(1u, 17u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  const auto make = [&rng](auto& self, int depth) -> Value {
    switch (rng() % (depth > 5 ? 8u : 10u)) {
      case 0:
        return Value();
      case 1:
        return nullptr;
      case 2:
        return static_cast<int64_t>(static_cast<uint64_t>(rng()) * rng());
      case 3:
        return static_cast<double>(rng()) / 7.0;
      case 4: {
        std::string text;
        for (auto n = rng() % 9; n > 0; --n) text.push_back(static_cast<char>(rng() % 128));
        return text;
      }
      case 5:
        return Bytes(rng() % 20, static_cast<std::byte>(rng()));
      case 6:
        return rng() % 2 == 0;
      case 7:
        return Date{static_cast<double>(rng())};
      case 8: {
        Array items;
        for (auto n = rng() % 4; n > 0; --n) items.push_back(self(self, depth + 1));
        return items;
      }
      default: {
        Object object;
        for (auto n = rng() % 4; n > 0; --n)
          object.Set("k" + std::to_string(rng() % 9), self(self, depth + 1));
        return object;
      }
    }
  };
  for (int step = 0; step < 200; ++step) {
    const Value value = make(make, 0);
    StatusOr<Value> back = Decode(Text(value));
    REQUIRE(back.ok());
    // An integer beyond 2^53 comes back as a bigint: compare what is written again.
    REQUIRE(Text(*back) == Text(value));
  }
}

}  // namespace
}  // namespace edge::rpc
