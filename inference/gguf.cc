// inference/gguf.cc - the GGUF parser. Layout: docs/formats/gguf.md.
//
// One pass over the header with every count held against the bytes that remain, so a
// lying number is caught where it stands and before anything is allocated for it.
#include "edge/inference/gguf.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "edge/base/errors.h"

namespace edge::inference {
namespace {

enum ValueType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kText,
  kArray,
  kU64,
  kI64,
  kF64,
  kTypeCount
};
constexpr std::string_view kValueTypeNames[] = {"u8",   "i8",   "u16",   "i16", "u32", "i32", "f32",
                                                "bool", "text", "array", "u64", "i64", "f64"};

// Bytes of a fixed-size value; 0 for texts and arrays.
constexpr uint32_t kValueBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

constexpr uint64_t kTensorsMax = 1 << 16;
constexpr uint64_t kValuesMax = 1 << 16;
constexpr uint64_t kNameBytesMax = 1 << 16;
constexpr uint64_t kAlignmentMax = 1 << 20;
constexpr int kArrayDepthMax = 4;

// A file's name in a message: it is foreign text, so keep it short and printable.
std::string Printable(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 80)) {
    const auto byte = static_cast<unsigned char>(c);
    out += byte >= 0x20 && byte != 0x7f ? c : '?';
  }
  if (text.size() > 80) out += "...";
  return out;
}

}  // namespace

std::string_view TensorTypeName(TensorType type) {
  switch (type) {
    case TensorType::kF32:
      return "F32";
    case TensorType::kF16:
      return "F16";
    case TensorType::kQ4_0:
      return "Q4_0";
    case TensorType::kQ4_1:
      return "Q4_1";
    case TensorType::kQ5_0:
      return "Q5_0";
    case TensorType::kQ5_1:
      return "Q5_1";
    case TensorType::kQ8_0:
      return "Q8_0";
    case TensorType::kQ8_1:
      return "Q8_1";
    case TensorType::kQ2_K:
      return "Q2_K";
    case TensorType::kQ3_K:
      return "Q3_K";
    case TensorType::kQ4_K:
      return "Q4_K";
    case TensorType::kQ5_K:
      return "Q5_K";
    case TensorType::kQ6_K:
      return "Q6_K";
    case TensorType::kQ8_K:
      return "Q8_K";
    case TensorType::kIQ4_NL:
      return "IQ4_NL";
    case TensorType::kI8:
      return "I8";
    case TensorType::kI16:
      return "I16";
    case TensorType::kI32:
      return "I32";
    case TensorType::kI64:
      return "I64";
    case TensorType::kF64:
      return "F64";
    case TensorType::kBF16:
      return "BF16";
  }
  return "?";
}

TensorLayout LayoutOf(TensorType type) {
  switch (type) {
    case TensorType::kF32:
      return {1, 4};
    case TensorType::kF16:
      return {1, 2};
    case TensorType::kQ4_0:
      return {32, 18};
    case TensorType::kQ4_1:
      return {32, 20};
    case TensorType::kQ5_0:
      return {32, 22};
    case TensorType::kQ5_1:
      return {32, 24};
    case TensorType::kQ8_0:
      return {32, 34};
    case TensorType::kQ8_1:
      return {32, 36};
    case TensorType::kQ2_K:
      return {256, 84};
    case TensorType::kQ3_K:
      return {256, 110};
    case TensorType::kQ4_K:
      return {256, 144};
    case TensorType::kQ5_K:
      return {256, 176};
    case TensorType::kQ6_K:
      return {256, 210};
    case TensorType::kQ8_K:
      return {256, 292};
    case TensorType::kIQ4_NL:
      return {32, 18};
    case TensorType::kI8:
      return {1, 1};
    case TensorType::kI16:
      return {1, 2};
    case TensorType::kI32:
      return {1, 4};
    case TensorType::kI64:
      return {1, 8};
    case TensorType::kF64:
      return {1, 8};
    case TensorType::kBF16:
      return {1, 2};
  }
  return {};
}

class GgufParser {
 public:
  explicit GgufParser(GgufFile* file) : file_(*file), bytes_(file->bytes_) {}

  Status Parse() {
    EDGE_RETURN_IF_ERROR(ParseHeader());
    EDGE_RETURN_IF_ERROR(ParseValues());
    EDGE_RETURN_IF_ERROR(ReadAlignment());
    EDGE_RETURN_IF_ERROR(ParseTensors());
    return PlaceTensors();
  }

 private:
  template <typename... Args>
  Status Bad(uint64_t offset, std::string_view format, const Args&... args) const {
    return InvalidArgument("{}: offset {}: {}", file_.name_, offset,
                           Format(format, {FormatArg(args)...}));
  }
  Status Truncated(std::string_view what) const {
    return Bad(at_, "the file ends inside {} ({} bytes in all)", what, bytes_.size());
  }
  uint64_t remaining() const { return bytes_.size() - at_; }

  template <typename T>
  Status Read(T* out, std::string_view what) {
    if (remaining() < sizeof(T)) return Truncated(what);
    *out = LoadLittle<T>(bytes_.data() + at_);
    at_ += sizeof(T);
    return OkStatus();
  }

  Status ReadText(std::string_view* out, uint64_t bytes_max, std::string_view what) {
    const uint64_t start = at_;
    uint64_t length = 0;
    EDGE_RETURN_IF_ERROR(Read(&length, what));
    if (length > bytes_max)
      return Bad(start, "{} of {} bytes, at most {}", what, length, bytes_max);
    if (length > remaining()) {
      return Bad(start, "{} of {} bytes, but {} remain in the file", what, length, remaining());
    }
    *out = AsText(bytes_.subspan(at_, length));
    at_ += length;
    return OkStatus();
  }

  Status ParseHeader() {
    if (bytes_.size() < 4 || std::memcmp(bytes_.data(), "GGUF", 4) != 0) {
      return Bad(0, "not a GGUF file (it does not begin with \"GGUF\")");
    }
    at_ = 4;
    EDGE_RETURN_IF_ERROR(Read(&file_.version_, "the version"));
    if (file_.version_ == 0x02000000 || file_.version_ == 0x03000000) {
      return Bad(4, "a big-endian file; only little-endian ones can be read");
    }
    if (file_.version_ != 2 && file_.version_ != 3) {
      return Bad(4, "version {}; versions 2 and 3 can be read", file_.version_);
    }
    EDGE_RETURN_IF_ERROR(Read(&tensor_count_, "the tensor count"));
    EDGE_RETURN_IF_ERROR(Read(&value_count_, "the metadata count"));
    // A tensor's entry takes at least 32 bytes, a metadata entry 13.
    if (tensor_count_ > kTensorsMax || tensor_count_ > remaining() / 32) {
      return Bad(8, "{} tensors in a file of {} bytes", tensor_count_, bytes_.size());
    }
    if (value_count_ > kValuesMax || value_count_ > remaining() / 13) {
      return Bad(16, "{} metadata entries in a file of {} bytes", value_count_, bytes_.size());
    }
    return OkStatus();
  }

  Status ParseValues() {
    file_.values_.reserve(value_count_);
    for (uint64_t i = 0; i < value_count_; ++i) {
      const uint64_t start = at_;
      GgufFile::Value value{};
      EDGE_RETURN_IF_ERROR(ReadText(&value.key, kNameBytesMax, "a metadata key"));
      if (value.key.empty()) return Bad(start, "an empty metadata key");
      EDGE_RETURN_IF_ERROR(Read(&value.type, "a metadata type"));
      if (value.type >= kTypeCount) {
        return Bad(at_ - 4, "metadata {} has the unknown type {}", Printable(value.key),
                   value.type);
      }
      value.offset = at_;
      EDGE_RETURN_IF_ERROR(SkipValue(value.type, value.key, 0, &value));
      file_.values_.push_back(value);
    }
    auto by_key = [](const GgufFile::Value& a, const GgufFile::Value& b) { return a.key < b.key; };
    std::stable_sort(file_.values_.begin(), file_.values_.end(), by_key);
    for (size_t i = 1; i < file_.values_.size(); ++i) {
      if (file_.values_[i].key == file_.values_[i - 1].key) {
        return Bad(file_.values_[i].offset, "metadata {} is there twice",
                   Printable(file_.values_[i].key));
      }
    }
    return OkStatus();
  }

  // Checks one value and steps over it; `value` (the outermost one) learns array details.
  Status SkipValue(uint32_t type, std::string_view key, int depth, GgufFile::Value* value) {
    if (type == kText) {
      std::string_view text;
      return ReadText(&text, std::numeric_limits<uint64_t>::max(), "a metadata text");
    }
    if (type == kArray) return SkipArray(key, depth, value);
    if (remaining() < kValueBytes[type]) return Truncated("a metadata value");
    if (type == kBool) {
      const auto byte = LoadLittle<uint8_t>(bytes_.data() + at_);
      if (byte > 1) return Bad(at_, "metadata {} is a bool of value {}", Printable(key), byte);
    }
    at_ += kValueBytes[type];
    return OkStatus();
  }

  Status SkipArray(std::string_view key, int depth, GgufFile::Value* value) {
    const uint64_t start = at_;
    uint32_t element_type = 0;
    uint64_t count = 0;
    EDGE_RETURN_IF_ERROR(Read(&element_type, "an array's type"));
    EDGE_RETURN_IF_ERROR(Read(&count, "an array's length"));
    if (element_type >= kTypeCount) {
      return Bad(start, "array {} has the unknown type {}", Printable(key), element_type);
    }
    if (depth >= kArrayDepthMax) {
      return Bad(start, "array {} is nested deeper than {}", Printable(key), kArrayDepthMax);
    }
    const uint64_t least = element_type == kText    ? 8
                           : element_type == kArray ? 12
                                                    : kValueBytes[element_type];
    if (count > remaining() / least) {
      return Bad(start, "array {} of {} elements, but {} bytes remain in the file", Printable(key),
                 count, remaining());
    }
    if (depth == 0) {
      value->element_type = element_type;
      value->count = count;
      value->offset = at_;
    }
    if (element_type != kText && element_type != kArray && element_type != kBool) {
      at_ += count * kValueBytes[element_type];
      return OkStatus();
    }
    for (uint64_t i = 0; i < count; ++i) {
      EDGE_RETURN_IF_ERROR(SkipValue(element_type, key, depth + 1, value));
    }
    return OkStatus();
  }

  Status ReadAlignment() {
    EDGE_ASSIGN_OR_RETURN(const auto alignment, file_.Uint("general.alignment"));
    if (!alignment) return OkStatus();
    if (*alignment == 0 || *alignment > kAlignmentMax || (*alignment & (*alignment - 1)) != 0) {
      return Bad(file_.FindValue("general.alignment")->offset,
                 "general.alignment is {}, not a power of two up to {}", *alignment, kAlignmentMax);
    }
    alignment_ = *alignment;
    return OkStatus();
  }

  Status ParseTensors() {
    file_.tensors_.reserve(tensor_count_);
    for (uint64_t i = 0; i < tensor_count_; ++i) {
      EDGE_RETURN_IF_ERROR(ParseTensor());
    }
    std::vector<uint32_t>& order = file_.by_name_;
    order.resize(file_.tensors_.size());
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
      return file_.tensors_[a].name < file_.tensors_[b].name;
    });
    for (size_t i = 1; i < order.size(); ++i) {
      const GgufTensor& tensor = file_.tensors_[order[i]];
      if (tensor.name == file_.tensors_[order[i - 1]].name) {
        return Bad(entry_offsets_[order[i]], "tensor {} is there twice", Printable(tensor.name));
      }
    }
    return OkStatus();
  }

  Status ParseTensor() {
    const uint64_t start = at_;
    GgufTensor tensor{};
    EDGE_RETURN_IF_ERROR(ReadText(&tensor.name, kNameBytesMax, "a tensor's name"));
    const std::string name = Printable(tensor.name);
    EDGE_RETURN_IF_ERROR(Read(&tensor.dimension_count, "a tensor's dimension count"));
    if (tensor.dimension_count < 1 || tensor.dimension_count > 4) {
      return Bad(start, "tensor {} has {} dimensions, not 1 to 4", name, tensor.dimension_count);
    }
    tensor.dimensions = {1, 1, 1, 1};
    uint64_t elements = 1;
    for (uint32_t d = 0; d < tensor.dimension_count; ++d) {
      EDGE_RETURN_IF_ERROR(Read(&tensor.dimensions[d], "a tensor's dimensions"));
      const uint64_t extent = tensor.dimensions[d];
      // 2^48 elements keep every later product far from overflow.
      if (extent == 0 || extent > (uint64_t{1} << 48) / elements) {
        return Bad(start, "tensor {}: dimension {} is {}", name, d, extent);
      }
      elements *= extent;
    }
    uint32_t type = 0;
    EDGE_RETURN_IF_ERROR(Read(&type, "a tensor's type"));
    EDGE_RETURN_IF_ERROR(Read(&tensor.offset, "a tensor's offset"));
    tensor.type = static_cast<TensorType>(type);
    const TensorLayout layout = LayoutOf(tensor.type);
    if (layout.block_bytes == 0) return Bad(start, "tensor {} has the unknown type {}", name, type);
    if (tensor.dimensions[0] % layout.block_elements != 0) {
      return Bad(start, "tensor {}: rows of {} values do not divide into {} blocks of {}", name,
                 tensor.dimensions[0], TensorTypeName(tensor.type), layout.block_elements);
    }
    if (tensor.offset % alignment_ != 0) {
      return Bad(start, "tensor {} is placed at {}, not a multiple of {}", name, tensor.offset,
                 alignment_);
    }
    file_.tensors_.push_back(tensor);
    sizes_.push_back(elements / layout.block_elements * layout.block_bytes);
    entry_offsets_.push_back(start);
    return OkStatus();
  }

  // The data begins at the next aligned offset; no two tensors may share a byte.
  Status PlaceTensors() {
    const uint64_t data = (at_ + alignment_ - 1) / alignment_ * alignment_;
    std::vector<uint32_t> order(file_.tensors_.size());
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
      return file_.tensors_[a].offset < file_.tensors_[b].offset;
    });
    uint64_t end = 0;  // of the tensor before, relative to `data`
    for (size_t i = 0; i < order.size(); ++i) {
      GgufTensor& tensor = file_.tensors_[order[i]];
      const uint64_t size = sizes_[order[i]];
      const uint64_t available = bytes_.size() > data ? bytes_.size() - data : 0;
      if (tensor.offset > available || size > available - tensor.offset) {
        return Bad(entry_offsets_[order[i]],
                   "tensor {} takes bytes {} to {} of the data, but the file holds {}",
                   Printable(tensor.name), tensor.offset, tensor.offset + size, available);
      }
      if (tensor.offset < end) {
        return Bad(entry_offsets_[order[i]], "tensors {} and {} overlap", Printable(tensor.name),
                   Printable(file_.tensors_[order[i - 1]].name));
      }
      end = tensor.offset + size;
      tensor.offset += data;
      tensor.bytes = bytes_.subspan(tensor.offset, size);
    }
    return OkStatus();
  }

  GgufFile& file_;
  const ByteView bytes_;
  uint64_t at_ = 0;
  uint64_t tensor_count_ = 0;
  uint64_t value_count_ = 0;
  uint64_t alignment_ = 32;
  std::vector<uint64_t> sizes_;          // of each tensor's bytes
  std::vector<uint64_t> entry_offsets_;  // of each tensor's entry, for messages
};

GgufFile::~GgufFile() = default;

StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path, FileSystem& files) {
  EDGE_ASSIGN_OR_RETURN(auto mapped, files.Map(path));
  EDGE_ASSIGN_OR_RETURN(auto file, Parse(mapped->bytes(), path));
  file->mapped_ = std::move(mapped);
  return file;
}

StatusOr<std::unique_ptr<GgufFile>> GgufFile::Parse(ByteView bytes, std::string name) {
  std::unique_ptr<GgufFile> file(new GgufFile);
  file->name_ = std::move(name);
  file->bytes_ = bytes;
  EDGE_RETURN_IF_ERROR(GgufParser(file.get()).Parse());
  return file;
}

const GgufTensor* GgufFile::FindTensor(std::string_view name) const {
  const auto found = std::lower_bound(
      by_name_.begin(), by_name_.end(), name,
      [&](uint32_t index, std::string_view wanted) { return tensors_[index].name < wanted; });
  if (found == by_name_.end() || tensors_[*found].name != name) return nullptr;
  return &tensors_[*found];
}

const GgufFile::Value* GgufFile::FindValue(std::string_view key) const {
  const auto found = std::lower_bound(
      values_.begin(), values_.end(), key,
      [](const Value& value, std::string_view wanted) { return value.key < wanted; });
  return found == values_.end() || found->key != key ? nullptr : &*found;
}

bool GgufFile::Has(std::string_view key) const {
  return FindValue(key) != nullptr;
}

Status GgufFile::WrongType(const Value& value, std::string_view wanted) const {
  return InvalidArgument("{}: offset {}: metadata {} is {} {}, expected {}", name_, value.offset,
                         Printable(value.key), value.type == kArray ? "an array of" : "of type",
                         kValueTypeNames[value.type == kArray ? value.element_type : value.type],
                         wanted);
}

StatusOr<std::optional<uint64_t>> GgufFile::Uint(std::string_view key) const {
  const Value* value = FindValue(key);
  if (value == nullptr) return std::optional<uint64_t>();
  const std::byte* at = bytes_.data() + value->offset;
  int64_t number = 0;
  switch (value->type) {
    case kU8:
      number = LoadLittle<uint8_t>(at);
      break;
    case kI8:
      number = LoadLittle<int8_t>(at);
      break;
    case kU16:
      number = LoadLittle<uint16_t>(at);
      break;
    case kI16:
      number = LoadLittle<int16_t>(at);
      break;
    case kU32:
      number = LoadLittle<uint32_t>(at);
      break;
    case kI32:
      number = LoadLittle<int32_t>(at);
      break;
    case kU64:
      return std::optional<uint64_t>(LoadLittle<uint64_t>(at));
    case kI64:
      number = LoadLittle<int64_t>(at);
      break;
    default:
      return WrongType(*value, "a whole number");
  }
  if (number < 0) return WrongType(*value, "a number not below 0");
  return std::optional<uint64_t>(static_cast<uint64_t>(number));
}

StatusOr<std::optional<double>> GgufFile::Number(std::string_view key) const {
  const Value* value = FindValue(key);
  if (value == nullptr) return std::optional<double>();
  const std::byte* at = bytes_.data() + value->offset;
  double number = 0;
  if (value->type == kF32) {
    number = static_cast<double>(std::bit_cast<float>(LoadLittle<uint32_t>(at)));
  } else if (value->type == kF64) {
    number = std::bit_cast<double>(LoadLittle<uint64_t>(at));
  } else {
    EDGE_ASSIGN_OR_RETURN(const auto whole, Uint(key));
    number = static_cast<double>(*whole);
  }
  if (!std::isfinite(number)) return WrongType(*value, "a finite number");
  return std::optional<double>(number);
}

StatusOr<std::optional<bool>> GgufFile::Bool(std::string_view key) const {
  const Value* value = FindValue(key);
  if (value == nullptr) return std::optional<bool>();
  if (value->type != kBool) return WrongType(*value, "a bool");
  return std::optional<bool>(LoadLittle<uint8_t>(bytes_.data() + value->offset) != 0);
}

StatusOr<std::optional<std::string_view>> GgufFile::Text(std::string_view key) const {
  const Value* value = FindValue(key);
  if (value == nullptr) return std::optional<std::string_view>();
  if (value->type != kText) return WrongType(*value, "text");
  const std::byte* at = bytes_.data() + value->offset;
  const auto length = LoadLittle<uint64_t>(at);
  return std::optional<std::string_view>(AsText({at + 8, length}));
}

StatusOr<std::optional<std::vector<std::string_view>>> GgufFile::Texts(std::string_view key) const {
  using Result = std::optional<std::vector<std::string_view>>;
  const Value* value = FindValue(key);
  if (value == nullptr) return Result();
  if (value->type != kArray || value->element_type != kText) return WrongType(*value, "texts");
  std::vector<std::string_view> texts;
  texts.reserve(value->count);
  const std::byte* at = bytes_.data() + value->offset;
  for (uint64_t i = 0; i < value->count; ++i) {
    const auto length = LoadLittle<uint64_t>(at);
    texts.push_back(AsText({at + 8, length}));
    at += 8 + length;
  }
  return Result(std::move(texts));
}

StatusOr<std::optional<std::vector<float>>> GgufFile::Floats(std::string_view key) const {
  using Result = std::optional<std::vector<float>>;
  const Value* value = FindValue(key);
  if (value == nullptr) return Result();
  if (value->type != kArray || value->element_type != kF32) {
    return WrongType(*value, "an array of f32");
  }
  std::vector<float> numbers(value->count);
  if (!numbers.empty())
    std::memcpy(numbers.data(), bytes_.data() + value->offset, 4 * value->count);
  return Result(std::move(numbers));
}

StatusOr<std::optional<std::vector<int32_t>>> GgufFile::Ints(std::string_view key) const {
  using Result = std::optional<std::vector<int32_t>>;
  const Value* value = FindValue(key);
  if (value == nullptr) return Result();
  if (value->type != kArray || (value->element_type != kI32 && value->element_type != kU32)) {
    return WrongType(*value, "an array of i32");
  }
  std::vector<int32_t> numbers(value->count);
  if (!numbers.empty())
    std::memcpy(numbers.data(), bytes_.data() + value->offset, 4 * value->count);
  return Result(std::move(numbers));
}

}  // namespace edge::inference
