// What every FileSystem shares: whole-file reading and atomic replacement.
#include "edge/base/file_system.h"

#include "edge/base/errors.h"

namespace edge {

StatusOr<Bytes> ReadFile(FileSystem& files, const std::string& path, uint64_t bytes_max) {
  EDGE_ASSIGN_OR_RETURN(auto file, files.Open(path, OpenMode::kRead));
  EDGE_ASSIGN_OR_RETURN(const uint64_t size, file->Size());
  if (size > bytes_max) {
    return ResourceExhausted("{}: {} bytes, at most {} allowed", path, size, bytes_max);
  }
  Bytes content(size);
  EDGE_ASSIGN_OR_RETURN(const size_t got, file->ReadAt(0, content));
  if (got != size) return DataLoss("{}: read {} of {} bytes", path, got, size);
  return content;
}

Status WriteFileAtomic(FileSystem& files, const std::string& path, ByteView bytes) {
  const std::string temporary = path + ".tmp";
  {
    EDGE_ASSIGN_OR_RETURN(auto file, files.Open(temporary, OpenMode::kCreateTruncate));
    EDGE_RETURN_IF_ERROR(file->WriteAt(0, bytes));
    EDGE_RETURN_IF_ERROR(file->Sync());
  }
  EDGE_RETURN_IF_ERROR(files.Rename(temporary, path));
  const size_t slash = path.rfind('/');
  return files.SyncDirectory(slash == std::string::npos ? "." : path.substr(0, slash + 1));
}

}  // namespace edge
