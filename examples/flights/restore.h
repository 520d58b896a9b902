// Loses the local files of one database and brings them back from the object store.
#pragma once
#include <cstdint>
#include <string>

#include "edge/base/status.h"

struct RestoreResult {
  uint64_t lsn = 0;         // the newest commit that came back
  uint64_t bytes_read = 0;  // from the store
  double milliseconds = 0;
};

// The server must not be running: it owns the folder.
edge::StatusOr<RestoreResult> LoseAndRestore(const std::string& data, const std::string& database);
