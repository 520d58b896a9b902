// A plain SQLite connection whose every commit can be had back: a bad UPDATE is undone, and a
// lost database file comes back from the store.
#include <sqlite3.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "edge/srs/object_store.h"
#include "edge/srs/relay.h"

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

void Run(sqlite3* db, const char* sql) {
  if (sqlite3_exec(db, sql, nullptr, nullptr, nullptr) == SQLITE_OK) return;
  std::fprintf(stderr, "%s: %s\n", sql, sqlite3_errmsg(db));
  std::exit(1);
}

std::string Occupant(sqlite3* db) {
  std::string who;
  sqlite3_exec(
      db, "SELECT who FROM seats WHERE seat = '1A'",
      [](void* out, int, char** values, char**) {
        *static_cast<std::string*>(out) = values[0];
        return 0;
      },
      &who, nullptr);
  return who;
}

}  // namespace

int main() {
  std::string folder = (std::filesystem::temp_directory_path() / "srs-XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) return 1;
  {
    auto relay = Must(srs::Relay::Open(
        {.directory = folder + "/data", .store = srs::FolderStore(folder + "/backup")}));
    std::string before;
    {
      auto db = Must(relay->OpenDatabase("UA17"));
      Run(db->handle(), "CREATE TABLE seats(seat TEXT PRIMARY KEY, who TEXT)");
      Run(db->handle(), "INSERT INTO seats VALUES('1A', 'ada')");
      before = db->GetCurrentBookmark();
      Run(db->handle(), "UPDATE seats SET who = 'oops'");
      Must(db->WaitDurable());  // it would survive kill -9 from here on
    }
    std::string undo;
    Must(relay->Restore("UA17", {.bookmark = before}, &undo).status());
    std::printf("1A after the restore: %s\n",
                Occupant(Must(relay->OpenDatabase("UA17"))->handle()).c_str());

    Must(relay->Flush());
    std::filesystem::remove(folder + "/data/databases/UA17.db");
    auto db = Must(relay->OpenDatabase("UA17"));
    std::printf("1A after losing the file: %s\n", Occupant(db->handle()).c_str());
    if (Occupant(db->handle()) != "ada") return 1;
  }
  std::filesystem::remove_all(folder);
  std::printf("every commit was there\n");
  return 0;
}
