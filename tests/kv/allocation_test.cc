// Counts what a hit allocates, by replacing the program's operator new.
#include <cstdlib>
#include <new>

#include "tests/kv/support.h"

namespace {
thread_local size_t allocation_count = 0;
}  // namespace

// Out of line, so that no compiler sees malloc behind one and free behind the other. The
// nothrow form as well, or a sanitizer's own would serve it.
#define EDGE_OUT_OF_LINE __attribute__((noinline))
EDGE_OUT_OF_LINE void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  ++allocation_count;
  return std::malloc(bytes == 0 ? 1 : bytes);
}
EDGE_OUT_OF_LINE void* operator new(size_t bytes) {
  if (void* at = operator new(bytes, std::nothrow)) return at;
  throw std::bad_alloc();
}
EDGE_OUT_OF_LINE void operator delete(void* at) noexcept {
  std::free(at);
}
EDGE_OUT_OF_LINE void operator delete(void* at, size_t) noexcept {
  std::free(at);
}
EDGE_OUT_OF_LINE void operator delete(void* at, const std::nothrow_t&) noexcept {
  std::free(at);
}

using namespace edge;      // NOLINT
using namespace edge::kv;  // NOLINT

TEST_CASE("a hit into a string of the caller allocates nothing, nor does a known absence", "[kv]") {
  World world;
  REQUIRE(world.kv->Put("key", std::string(100, 'v'), {.expiration_ttl_s = 60}).ok());
  REQUIRE(!world.kv->Get("missing").value());
  std::string value(100, '\0');
  const std::vector<std::string_view> keys(100, "key");
  std::vector<std::optional<std::string>> values;
  REQUIRE(world.kv->GetManyInto(keys, &values).ok());
  const size_t before = allocation_count;
  bool good = true;
  for (int i = 0; i < 100; ++i) {
    good = good && world.kv->GetInto("key", &value).value();
    good = good && !world.kv->Get("missing").value();
    good = good && world.kv->Pin("key").value()->value() == value;
  }
  good = good && world.kv->GetManyInto(keys, &values).ok();
  const size_t allocated = allocation_count - before;
  REQUIRE(good);
  REQUIRE(allocated == 0);
}
