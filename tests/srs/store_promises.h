// tests/srs/store_promises.h - what every object store must do, for all of their tests.
#pragma once
#include "edge/srs/object_store.h"
#include "tests/srs/srs_test_util.h"

namespace edge::srs {

inline void CheckStorePromises(ObjectStore& store) {
  CHECK(store.List("").value().empty());
  CHECK(store.Get("a/b").status().code() == StatusCode::kNotFound);
  CHECK(store.Head("a/b").status().code() == StatusCode::kNotFound);
  CHECK(store.Delete("a/b").ok());

  const std::string etag = store.Put("a/b", AsBytes("hello"), {.if_absent = true}).value();
  CHECK(store.Put("a/b", AsBytes("x"), {.if_absent = true}).status().code() ==
        StatusCode::kAlreadyExists);
  CHECK(AsText(store.Get("a/b").value()) == "hello");
  CHECK(AsText(store.Get("a/b", {1, 3}).value()) == "ell");
  CHECK(AsText(store.Get("a/b", {3, 100}).value()) == "lo");
  CHECK(AsText(store.Get("a/b", {2, UINT64_MAX}).value()) == "llo");
  CHECK(store.Get("a/b", {9, 1}).value().empty());
  CHECK(store.Get("a/b", {1, 0}).value().empty());
  CHECK(store.Head("a/b").value().etag == etag);
  CHECK(store.Head("a/b").value().bytes == 5);

  CHECK(store.Put("a/b", AsBytes("new"), {.if_etag = "\"other\""}).status().code() ==
        StatusCode::kAborted);
  CHECK(store.Put("none", AsBytes("new"), {.if_etag = etag}).status().code() ==
        StatusCode::kAborted);
  const std::string second = store.Put("a/b", AsBytes("new"), {.if_etag = etag}).value();
  CHECK(second != etag);
  CHECK(AsText(store.Get("a/b").value()) == "new");

  for (const char* key : {"a-b/c", "a.x", "a/c", "a0", "b/1"}) {
    REQUIRE(store.Put(key, AsBytes("x")).ok());
  }
  const auto keys = [&](const std::string& prefix, const std::string& after, size_t count) {
    std::string text;
    const auto found = store.List(prefix, after, count).value();
    for (const ObjectInfo& info : found) text += info.key + " ";
    return text;
  };
  CHECK(keys("", "", 100) == "a-b/c a.x a/b a/c a0 b/1 ");
  CHECK(keys("a/", "", 100) == "a/b a/c ");
  CHECK(keys("a", "a/b", 2) == "a/c a0 ");
  CHECK(keys("a/c", "", 9) == "a/c ");
  CHECK(store.Delete("a/b").ok());
  CHECK(keys("a/", "", 100) == "a/c ");
  for (const char* bad : {"", "/a", "a/", "a//b", "../a", "a/./b", "a b", "a~"}) {
    CAPTURE(bad);
    CHECK(store.Put(bad, AsBytes("x")).status().code() == StatusCode::kInvalidArgument);
  }
}

}  // namespace edge::srs
