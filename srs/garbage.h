// srs/garbage.h - which packs nothing needs any more, and proof before they go.
#pragma once
#include <string>
#include <vector>

#include "edge/srs/store_reader.h"
#include "srs/catalog.h"

namespace edge::srs {

// The packs that no commit within the retention needs: all sections of each are dead. The
// newest pack of a journal always stays, since its number and position are needed.
std::vector<std::string> FindGarbage(const Catalog& catalog, int64_t edge_wall_ms);

// Restores the state at commit `from` in a file at `scratch` (gone afterwards), compares its
// hash, then replays every later commit, comparing again. Returns where that ends.
StatusOr<State> ProveLine(Catalog* catalog, FileSystem* files, const std::string& name,
                          uint32_t epoch, Lsn from, const std::string& scratch,
                          uint64_t* bytes_read, ProgressCallback progress);

StatusOr<GarbageReport> CollectGarbage(ObjectStore* store, Catalog* catalog, FileSystem* files,
                                       Clock* clock, const GarbageOptions& options,
                                       const std::string& scratch, ProgressCallback progress);

// The marks object: which packs may be deleted from when on. DataLoss if damaged.
struct GarbageMarks {
  int64_t wall_ms = 0;
  std::vector<std::string> keys;
};
Bytes EncodeMarks(const GarbageMarks& marks);
StatusOr<GarbageMarks> DecodeMarks(ByteView object);

}  // namespace edge::srs
