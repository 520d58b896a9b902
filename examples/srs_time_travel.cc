// Looking back: yesterday's database beside today's, a copy that costs nothing, and a restore
// without the machine that wrote it. With a folder as argument, the store stays there for
// edge-srs to look at.
#include <sqlite3.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "edge/srs/object_store.h"
#include "edge/srs/relay.h"
#include "edge/srs/store_reader.h"

namespace srs = edge::srs;

namespace {

void Must(const edge::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}
template <typename T>
T Must(edge::StatusOr<T> result) {
  Must(result.status());
  return std::move(*result);
}

std::string Run(sqlite3* db, const char* sql) {
  std::string answer;
  const auto keep = [](void* out, int, char** values, char**) {
    *static_cast<std::string*>(out) = values[0];
    return 0;
  };
  if (sqlite3_exec(db, sql, keep, &answer, nullptr) == SQLITE_OK) return answer;
  std::fprintf(stderr, "%s: %s\n", sql, sqlite3_errmsg(db));
  std::exit(1);
}

}  // namespace

int main(int argc, char** argv) {
  std::string folder = (std::filesystem::temp_directory_path() / "srs-XXXXXX").string();
  if (argc > 1) {
    folder = argv[1];
  } else if (mkdtemp(folder.data()) == nullptr) {
    return 1;
  }
  const std::shared_ptr<srs::ObjectStore> store = srs::FolderStore(folder + "/store");
  const char* const total = "SELECT sum(amount) FROM orders";
  {
    auto relay = Must(srs::Relay::Open({.directory = folder + "/data", .store = store}));
    auto db = Must(relay->OpenDatabase("orders"));
    Run(db->handle(), "CREATE TABLE orders(id INTEGER PRIMARY KEY, amount INT)");
    for (int i = 0; i < 100; ++i) Run(db->handle(), "INSERT INTO orders(amount) VALUES(10)");
    const std::string before = db->GetCurrentBookmark();
    Run(db->handle(), "UPDATE orders SET amount = 0 WHERE id > 50");

    auto then = Must(relay->OpenReadOnly("orders", {.bookmark = before}));
    std::printf("total now %s, before %s\n", Run(db->handle(), total).c_str(),
                Run(then->handle(), total).c_str());
    if (Run(then->handle(), total) != "1000") return 1;

    Must(relay->Fork("orders", {.bookmark = before}, "orders-test"));
    Run(Must(relay->OpenDatabase("orders-test"))->handle(), "DELETE FROM orders");
    std::printf("after emptying the fork, still %s\n", Run(db->handle(), total).c_str());
    if (Run(db->handle(), total) != "500") return 1;
  }
  auto reader = Must(srs::StoreReader::Open({.store = store}));  // any machine
  const auto report = Must(reader->Restore("orders", {}, folder + "/copy.db"));
  std::printf("restored commit %llu\n", static_cast<unsigned long long>(report.lsn));
  if (argc == 1) std::filesystem::remove_all(folder);
  return report.lsn == 102 ? 0 : 1;
}
