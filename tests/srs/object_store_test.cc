#include "edge/srs/object_store.h"

#include "edge/base/file_system.h"
#include "tests/srs/store_promises.h"

namespace edge::srs {
namespace {

TEST_CASE("stores keep their promises", "[srs]") {
  auto files = MemoryFileSystem::Create();
  const bool folder = GENERATE(false, true);
  CAPTURE(folder);
  auto store = folder ? FolderStore("bucket", *files) : MemoryStore();
  CheckStorePromises(*store);
}

}  // namespace
}  // namespace edge::srs
