#include "restore.h"

#include <algorithm>
#include <chrono>
#include <memory>

#include "edge/base/errors.h"
#include "edge/srs/relay.h"

namespace {

// Removes every local file of the database: the relay keeps them under its name, with '~'
// for '/'. What is left of it is the object store.
edge::StatusOr<int> RemoveLocalFiles(const std::string& folder, std::string database) {
  std::ranges::replace(database, '/', '~');
  edge::FileSystem& files = edge::PosixFileSystem();
  EDGE_ASSIGN_OR_RETURN(const auto entries, files.List(folder));
  int removed = 0;
  for (const auto& entry : entries) {
    if (!entry.name.starts_with(database)) continue;
    EDGE_RETURN_IF_ERROR(files.Remove(folder + "/" + entry.name));
    ++removed;
  }
  return removed;
}

}  // namespace

edge::StatusOr<RestoreResult> LoseAndRestore(const std::string& data, const std::string& database) {
  EDGE_ASSIGN_OR_RETURN(const int removed, RemoveLocalFiles(data + "/host/databases", database));
  if (removed == 0) return edge::Internal("{} has no local files to lose", database);
  edge::srs::RelayOptions options;
  options.directory = data + "/host";
  options.store = edge::srs::FolderStore(data + "/store");
  EDGE_ASSIGN_OR_RETURN(const auto relay, edge::srs::Relay::Open(std::move(options)));
  const auto start = std::chrono::steady_clock::now();
  EDGE_ASSIGN_OR_RETURN(const auto report, relay->Restore(database, {}));
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
  return RestoreResult{report.lsn, report.bytes_read, took.count()};
}
