#include "src/rpc/message.h"

#include <catch2/catch.hpp>
#include <random>

#include "edge/rpc/session.h"
#include "edge/rpc/stub.h"
#include "src/rpc/expression.h"

namespace edge::rpc {
namespace {

std::string Hex(std::string_view bytes) {
  std::string hex;
  for (const char c : bytes) {
    constexpr char kDigits[] = "0123456789ABCDEF";
    const auto byte = static_cast<unsigned char>(c);
    if (!hex.empty()) hex += ' ';
    hex += {kDigits[byte >> 4], kDigits[byte & 15]};
  }
  return hex;
}

std::string Binary(const Value& value) {
  References none;
  std::string written;
  MessageWriter out(&written, Codec::kBinary);
  REQUIRE(WriteExpression(value, SessionLimits{}, none, out).ok());
  return written;
}

StatusOr<Value> FromBinary(std::string_view message) {
  References none;
  StatusOr<Value> tree = ParseBinary(message, 600);
  if (!tree.ok()) return tree;
  return Evaluate(std::move(*tree), SessionLimits{}, none);
}

Value RandomValue(std::mt19937& rng, int depth) {
  switch (rng() % (depth > 3 ? 9 : 11)) {
    case 0:
      return {};
    case 1:
      return nullptr;
    case 2:
      return rng() % 2 == 0;
    case 3:
      return static_cast<int64_t>(rng()) - (1 << 30);
    case 4:
      return static_cast<int64_t>(uint64_t{rng()} << 32 | rng());
    case 5:
      return static_cast<double>(rng()) / 7;
    case 6:
      return std::string(rng() % 70, 'x') + "\"\n\xC3\xA9";
    case 7: {
      Bytes bytes(rng() % 300);
      for (std::byte& byte : bytes) byte = static_cast<std::byte>(rng());
      return bytes;
    }
    case 8:
      return ErrorValue{
          .name = "TypeError", .message = "m", .stack = std::nullopt, .properties = {{"code", 5}}};
    case 9: {
      Array items;
      for (auto i = rng() % 40; i > 0; --i) items.push_back(RandomValue(rng, depth + 1));
      return items;
    }
    default: {
      Object object;
      for (auto i = rng() % 5; i > 0; --i)
        object.Set("k" + std::to_string(i), RandomValue(rng, depth + 1));
      return object;
    }
  }
}

TEST_CASE("any random tree reads back from its binary form, and is the one of its text",
          "[rpc][property]") {
  const auto seed = GENERATE(range(1u, 65u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  const Value value = RandomValue(rng, 0);
  const std::string written = Binary(value);
  const std::string text = Encode(value).value();
  CHECK(FromBinary(written).value() == Decode(text).value());
  CHECK(Encode(FromBinary(written).value()).value() == text);
  for (size_t size = 0; size < written.size(); size += 1 + size / 8)
    CHECK_FALSE(FromBinary(std::string_view(written).substr(0, size)).ok());
}

TEST_CASE("a message has the bytes that the format page gives it", "[rpc]") {
  const auto session = Session::Create(nullptr);
  session->UseBinary();
  std::vector<std::string> sent;
  session->SendTo([&sent](std::string_view message) { sent.emplace_back(message); });
  const Promise<Value> promise = session->main().Call("square", 7);
  REQUIRE(sent.size() == 1);
  CHECK(Hex(sent[0]) == "A2 C0 A4 C9 00 A1 86 73 71 75 61 72 65 A1 07");
  CHECK(Hex(Binary(ArrayOf(-1, 200, 1.5, true))) ==
        "A1 A4 E3 01 E3 90 03 E4 00 00 00 00 00 00 F8 3F E2");
  CHECK(Hex(Binary(Bytes{std::byte{255}})) == "A2 D5 E8 01 FF");
}

TEST_CASE("what is not the binary form is refused, whatever it claims to hold", "[rpc]") {
  for (const std::string_view bad :
       {"\xFF", "\xC0\xC0", "\xE6\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", "\xE8\xFF\xFF\xFF\x7F",
        "\xE7\x05", "\x81\xFF", "\xDF", "", "\xE3\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F"})
    CHECK(ParseBinary(bad, 100).status().code() == StatusCode::kInvalidArgument);
  std::string deep(5000, '\xA1');
  deep += '\x01';
  CHECK(Message(ParseBinary(deep, 100).status()) == "bad message at byte 101: nested too deeply");
}

class Adder : public Target {
 public:
  int Add(int a, int b) { return a + b; }
  Promise<int> Apply(Stub<int(int)> f, int x) { return f(x); }
  void Fail() { throw NotFound("no seat {}", 9); }
  Value Echo(Value value) { return value; }
  using Rpc = Methods<&Adder::Add, &Adder::Apply, &Adder::Fail, &Adder::Echo>;
};

TEST_CASE("two sessions that agreed on the binary form behave as with text", "[rpc]") {
  const auto a = Session::Create(nullptr);
  const auto b = Session::Create(MakeStub<Adder>().hook());
  const bool binary = GENERATE(false, true);
  if (binary) {
    a->UseBinary();
    b->UseBinary();
  }
  const auto pump = [&] {
    for (std::string message; a->has_output() || b->has_output();) {
      while (a->TakeOutput(&message)) REQUIRE(b->OnMessage(message).ok());
      while (b->TakeOutput(&message)) REQUIRE(a->OnMessage(message).ok());
    }
  };
  std::vector<std::string> seen;
  const auto see = [&seen](const StatusOr<Value>& outcome) {
    seen.push_back(outcome.ok() ? Encode(*outcome).value()
                                : std::string(Message(outcome.status())));
  };
  a->main().Call("add", 2, 40).Then(see);
  a->main().Call("fail").Then(see);
  a->main().Call("apply", Stub<int(int)>([](int x) { return x * 3; }), 5).Then(see);
  a->main().Call("echo", Bytes(3)).Then(see);
  a->main().Call("echo", ArrayOf(ArrayOf(), 1e300, -7, "\xED\xA0\x80")).Then(see);
  pump();
  CHECK(seen == std::vector<std::string>{"42", "no seat 9", R"(["bytes","AAAA"])",
                                         R"([[[[]],1e+300,-7,"\ud800"]])", "15"});
  CHECK(a->counts().imports == 1);
  CHECK(b->counts().exports == 1);
}

TEST_CASE("spaces and escapes in a call change nothing", "[rpc]") {
  const auto session = Session::Create(MakeStub<Adder>().hook());
  for (const char* message : {R"( [ "push" , [ "pipeline", 0, ["add"], [1, 2] ] ] )",
                              R"(["push",["pipeline",0,["\u0061dd"],[1,2]]])",
                              R"(["push",["pipeline",0,["add"],[1,2]]])"})
    REQUIRE(session->OnMessage(message).ok());
  for (const char* message : {R"(["pull", 1])", R"(["pull",2])", R"( ["pull",3] )"})
    REQUIRE(session->OnMessage(message).ok());
  std::string message;
  for (const char* expected : {R"(["resolve",1,3])", R"(["resolve",2,3])", R"(["resolve",3,3])"}) {
    REQUIRE(session->TakeOutput(&message));
    CHECK(message == expected);
  }
}

}  // namespace
}  // namespace edge::rpc
