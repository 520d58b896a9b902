// The readers of the disk tier take any bytes as a segment or a manifest: what they find lies
// inside of it, and a tier over such files gives only what was put under the key, or nothing.
#include "edge/base/check.h"
#include "edge/base/file_system.h"
#include "kv/disk_tier.h"

namespace kv = edge::kv;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const edge::ByteView bytes(reinterpret_cast<const std::byte*>(data), size);
  if (const auto places = kv::DiskTier::ScanSegment(bytes, 1); places.ok()) {
    for (const auto& place : *places) {
      EDGE_CHECK((uint64_t{place.offset} + place.units) * 16 <= size);
    }
  }
  kv::DiskTier::ReadManifest(bytes, 1).status().IgnoreError();
  if (size < 2) return 0;

  // A real tier whose files are damaged: the first byte chooses which, the rest goes over it.
  const auto files = edge::MemoryFileSystem::Create();
  const kv::DiskTierOptions options{files.get(), "cache", 1 << 20, 64 << 10};
  {
    auto tier = kv::DiskTier::Open(options).value();
    for (char c = 'a'; c < 'i'; ++c) {
      const std::string key(1, c);
      EDGE_CHECK(tier->Insert({.key = key, .value = key}).ok());
    }
  }
  const bool is_manifest = (data[0] & 1) != 0;
  const std::string path =
      std::string("cache/segment-0000000000000001.") + (is_manifest ? "manifest" : "log");
  auto file = files->Open(path, edge::OpenMode::kReadWrite).value();
  EDGE_CHECK(file->WriteAt(data[0] >> 1, bytes.subspan(1)).ok());
  auto tier = kv::DiskTier::Open(options).value();
  for (char c = 'a'; c < 'i'; ++c) {
    const std::string key(1, c);
    const auto got = tier->Get(key);
    EDGE_CHECK(got.ok());
    if (*got && size < 40) EDGE_CHECK((*got)->value == key);  // too short to forge a record
  }
  EDGE_CHECK(tier->Insert({.key = "new", .value = "value"}).ok());
  EDGE_CHECK(tier->Get("new").value()->value == "value");
  return 0;
}
