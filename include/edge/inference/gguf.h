// edge/inference/gguf.h - reads GGUF model files (versions 2 and 3, little-endian).
//
// The whole file is checked when it is opened: every length, count, offset, type and
// overlap. After that, reading cannot fail, and nothing handed out leaves the file. The
// layout is in docs/formats/gguf.md. Errors are InvalidArgument, and name the file, the
// offset and what is wrong there; a missing file is NotFound.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "edge/base/bytes.h"
#include "edge/base/file_system.h"
#include "edge/base/status.h"

namespace edge::inference {

// The numbers are those of the file.
enum class TensorType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ8_1 = 9,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kQ8_K = 15,
  kIQ4_NL = 20,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kBF16 = 30,
};

// "Q4_0"; "?" for a number that is none of the above.
std::string_view TensorTypeName(TensorType type);

// How a type is stored: `block_elements` values in `block_bytes` bytes. Zeros if unknown.
struct TensorLayout {
  uint32_t block_elements = 0;
  uint32_t block_bytes = 0;
};
TensorLayout LayoutOf(TensorType type);

struct GgufTensor {
  std::string_view name;
  TensorType type;
  uint32_t dimension_count;            // 1 to 4
  std::array<uint64_t, 4> dimensions;  // fastest first; unused ones are 1
  uint64_t offset;                     // of `bytes` in the file
  ByteView bytes;

  uint64_t columns() const { return dimensions[0]; }
  uint64_t rows() const { return dimensions[1] * dimensions[2] * dimensions[3]; }
};

// Immutable. All views point into the file and live as long as this object.
class GgufFile {
 public:
  // Maps `path`. `files` must outlive the call only.
  static StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& path,
                                                  FileSystem& files = PosixFileSystem());
  // The same for bytes in memory, borrowed for the life of the result; `name` stands for
  // the path in messages.
  static StatusOr<std::unique_ptr<GgufFile>> Parse(ByteView bytes, std::string name);
  ~GgufFile();

  const std::string& name() const { return name_; }
  uint32_t version() const { return version_; }
  std::span<const GgufTensor> tensors() const { return tensors_; }
  const GgufTensor* FindTensor(std::string_view name) const;  // null if absent

  bool Has(std::string_view key) const;
  // The value of a key. Each is empty when the key is absent, and InvalidArgument when it
  // has another type than asked for (any integer type that holds the value will do).
  StatusOr<std::optional<uint64_t>> Uint(std::string_view key) const;
  StatusOr<std::optional<double>> Number(std::string_view key) const;  // float or integer
  StatusOr<std::optional<bool>> Bool(std::string_view key) const;
  StatusOr<std::optional<std::string_view>> Text(std::string_view key) const;
  StatusOr<std::optional<std::vector<std::string_view>>> Texts(std::string_view key) const;
  StatusOr<std::optional<std::vector<float>>> Floats(std::string_view key) const;
  StatusOr<std::optional<std::vector<int32_t>>> Ints(std::string_view key) const;

 private:
  friend class GgufParser;
  struct Value {
    std::string_view key;
    uint32_t type;
    uint32_t element_type;  // of an array
    uint64_t count;         // of an array
    uint64_t offset;        // of the value's (or the first element's) bytes
  };
  GgufFile() = default;
  const Value* FindValue(std::string_view key) const;
  Status WrongType(const Value& value, std::string_view wanted) const;

  std::string name_;
  uint32_t version_ = 0;
  std::unique_ptr<MappedFile> mapped_;
  ByteView bytes_;
  std::vector<Value> values_;        // sorted by key
  std::vector<GgufTensor> tensors_;  // in file order
  std::vector<uint32_t> by_name_;    // indices of tensors_, sorted by name
};

}  // namespace edge::inference
