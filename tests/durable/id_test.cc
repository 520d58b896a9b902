#include "edge/durable/id.h"

#include "durable/sha256.h"

using namespace edge;           // NOLINT
using namespace edge::durable;  // NOLINT

TEST_CASE("SHA-256 and HMAC give the published results", "[durable]") {
  REQUIRE(ToHex(Sha256({})) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  REQUIRE(ToHex(Sha256(AsBytes("abc"))) ==
          "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  REQUIRE(ToHex(Sha256(AsBytes("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"))) ==
          "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  REQUIRE(ToHex(HmacSha256(AsBytes("Jefe"), AsBytes("what do ya want for nothing?"))) ==
          "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  // A key above one block (RFC 4231, case 6).
  REQUIRE(ToHex(HmacSha256(Bytes(131, std::byte{0xaa}),
                           AsBytes("Test Using Larger Than Block-Size Key - Hash Key First"))) ==
          "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

TEST_CASE("a name always gives the same id, and ids read back from text", "[durable]") {
  const IdKey flights("secret", "FLIGHTS");
  const ObjectId id = flights.FromName("UA17");
  REQUIRE(id == flights.FromName("UA17"));
  REQUIRE(id != flights.FromName("UA18"));
  REQUIRE(id.name() == "UA17");
  REQUIRE(id.ToString().size() == 64);
  REQUIRE(flights.FromString(id.ToString()).value() == id);
  SeededRandom random(1);
  const ObjectId unique = flights.Unique(random);
  REQUIRE(unique != flights.Unique(random));
  REQUIRE(flights.FromString(unique.ToString()).value() == unique);
}

TEST_CASE("an id is refused by every namespace but its own", "[durable]") {
  const IdKey flights("secret", "FLIGHTS");
  const std::string id = flights.FromName("UA17").ToString();
  for (const IdKey& other : {IdKey("secret", "SEATS"), IdKey("other", "FLIGHTS")}) {
    REQUIRE(Message(other.FromString(id).status()) ==
            "Durable Object ID is not valid for this namespace.");
    REQUIRE(!other.Owns(flights.FromName("UA17")));
    REQUIRE(other.FromName("UA17") != flights.FromName("UA17"));
  }
  for (size_t i = 0; i < id.size(); ++i) {  // nor is it one with any digit changed
    std::string forged = id;
    forged[i] = forged[i] == '0' ? '1' : '0';
    REQUIRE(flights.FromString(forged).status().code() == StatusCode::kInvalidArgument);
  }
  for (const char* text : {"", "abc", "zz"}) {
    REQUIRE(Message(flights.FromString(text).status()) ==
            "Invalid Durable Object ID: must be 64 hex digits");
  }
}
