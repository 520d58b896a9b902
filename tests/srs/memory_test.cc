// How much memory many databases take. Measured as the process's resident set.
#include <malloc.h>
#include <unistd.h>

#include <fstream>

#include "edge/base/errors.h"
#include "edge/srs/relay.h"
#include "srs/catalog.h"
#include "tests/srs/srs_test_util.h"

namespace edge::srs {
namespace {

constexpr int kKnown = 100'000;
constexpr int kOpen = 1'000;

uint64_t ResidentBytes() {
  malloc_trim(0);
  std::ifstream in("/proc/self/statm");
  uint64_t size = 0;
  uint64_t resident = 0;
  in >> size >> resident;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

TEST_CASE("a hundred thousand databases known and a thousand open take less than 512 MiB",
          "[srs]") {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  WARN("a sanitizer's own memory would be measured: skipped");
#else
  // Files in memory too, which only adds to what is measured.
  const auto files = MemoryFileSystem::Create();
  std::shared_ptr<ObjectStore> store = MemoryStore();
  const auto open_relay = [&](const char* directory) {
    return Relay::Open({.directory = directory,
                        .store = store,
                        .journal_file_bytes = 4 << 20,
                        .files = files.get()})
        .value();
  };
  const uint64_t before = ResidentBytes();
  State parent;
  {
    auto relay = open_relay("first");
    auto db = relay->OpenDatabase("template").value();
    MustRun(db->handle(), "CREATE TABLE t(a INTEGER PRIMARY KEY, b); INSERT INTO t VALUES(1, 2)");
    REQUIRE(relay->Flush().ok());
    Catalog catalog(store);
    REQUIRE(catalog.EnsureLoaded().ok());
    parent = catalog.Newest("template").value();
  }
  // As forks of one: that is quick to make, and each is a database like any other.
  constexpr int kPerPack = 10'000;
  for (int pack = 0; pack < kKnown / kPerPack; ++pack) {
    PackHeader header;
    header.journal_id = 77;
    header.seq = static_cast<uint64_t>(pack) + 1;
    PackWriter writer(header);
    for (int i = 0; i < kPerPack; ++i) {
      Section fork;
      fork.kind = SectionKind::kFork;
      fork.name = Format("tenant/{:06}", {pack * kPerPack + i});
      fork.state = parent;
      fork.parent = "template";
      fork.parent_epoch = parent.epoch;
      REQUIRE(writer.Add(fork, {}).ok());
    }
    REQUIRE(store->Put(Catalog::KeyOf(77, header.seq), writer.Finish()).ok());
  }
  auto relay = open_relay("data");
  REQUIRE(relay->ListDatabases().value().size() == kKnown + 1);
  std::vector<std::unique_ptr<Database> > open;
  for (int i = 0; i < kOpen; ++i) {
    open.push_back(relay->OpenDatabase(Format("tenant/{:06}", {i * 97})).value());
    MustRun(open.back()->handle(), "INSERT INTO t(b) VALUES(" + std::to_string(i) + ")");
    CHECK(Ask(open.back()->handle(), "SELECT count(*) FROM t") == "2");
  }
  const uint64_t used = ResidentBytes() - before;
  INFO("used " << used / 1048576 << " MiB");
  CHECK(used < uint64_t{512} << 20);
#endif
}

}  // namespace
}  // namespace edge::srs
