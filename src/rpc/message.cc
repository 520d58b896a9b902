#include "src/rpc/message.h"

#include <array>
#include <bit>
#include <charconv>
#include <cstring>
#include <iterator>
#include <utility>

#include "edge/base/errors.h"
#include "src/rpc/json.h"

namespace edge::rpc {
namespace {

// docs/formats/edge-rpc.md. Below kString: the integer itself.
constexpr uint8_t kString = 0x80;  // + length
constexpr uint8_t kArray = 0xA0;   // + count
constexpr uint8_t kWord = 0xC0;    // + place in kWords
constexpr uint8_t kNull = 0xE0;
constexpr uint8_t kFalse = 0xE1;
constexpr uint8_t kTrue = 0xE2;
constexpr uint8_t kInt = 0xE3;         // zigzag varint
constexpr uint8_t kDouble = 0xE4;      // 8 bytes, little-endian
constexpr uint8_t kLongString = 0xE5;  // varint, bytes
constexpr uint8_t kLongArray = 0xE6;   // varint
constexpr uint8_t kObject = 0xE7;      // varint, then keys (varint, bytes) and values
constexpr uint8_t kBytesValue = 0xE8;  // varint, bytes
constexpr size_t kShortMax = 31;
constexpr uint8_t kSmallIntMax = 0x7F;

void AppendVarint(uint64_t value, std::string* out) {
  for (; value >= 0x80; value >>= 7) out->push_back(static_cast<char>(value | 0x80));
  out->push_back(static_cast<char>(value));
}

class BinaryParser {
 public:
  BinaryParser(std::string_view in, size_t depth_max) : in_(in), depth_max_(depth_max) {}

  // Reads one value at *at and moves it behind that.
  bool ReadAt(size_t* at, size_t depth, Value* value) {
    at_ = *at;
    const bool read = Read(value, depth);
    *at = at_;
    return read;
  }

  StatusOr<Value> Run() {
    Value value;
    if (!Read(&value, 0)) return failure_;
    if (at_ != in_.size()) {
      Fail("bytes after the value");
      return failure_;
    }
    return value;
  }

 private:
  bool Fail(std::string_view what) {
    if (failure_.ok()) failure_ = InvalidArgument("bad message at byte {}: {}", at_, what);
    return false;
  }
  size_t left() const { return in_.size() - at_; }

  bool Varint(uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (left() == 0) return Fail("unexpected end");
      const auto byte = static_cast<uint8_t>(in_[at_++]);
      if (shift == 63 && byte > 1) break;
      *value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return true;
    }
    return Fail("a number of more than 64 bits");
  }
  bool Take(uint64_t size, std::string_view* text) {
    if (size > left()) return Fail("unexpected end");
    *text = in_.substr(at_, size);
    at_ += size;
    return true;
  }
  bool LongText(std::string_view* text) {
    uint64_t size = 0;
    return Varint(&size) && Take(size, text);
  }
  // Strings reach code that trusts them to be UTF-8, whichever form they came in.
  bool Text(std::string_view text, Value* out) {
    if (!IsWtf8(text)) return Fail("not UTF-8");
    *out = Value(text);
    return true;
  }

  bool Items(uint64_t count, Value* out, size_t depth) {
    if (depth >= depth_max_) return Fail("nested too deeply");
    if (count > left()) return Fail("unexpected end");  // each takes a byte or more
    Array items(count);
    for (Value& item : items)
      if (!Read(&item, depth + 1)) return false;
    *out = Value(std::move(items));
    return true;
  }

  bool Members(Value* out, size_t depth) {
    uint64_t count = 0;
    if (depth >= depth_max_) return Fail("nested too deeply");
    if (!Varint(&count)) return false;
    if (count > left() / 2) return Fail("unexpected end");
    Object object;
    object.members().resize(count);
    for (Member& member : object.members()) {
      std::string_view key;
      if (!LongText(&key)) return false;
      if (!IsWtf8(key)) return Fail("not UTF-8");
      member.key = key;
      if (!Read(&member.value, depth + 1)) return false;
    }
    RemoveDuplicates(&object);
    *out = Value(std::move(object));
    return true;
  }

  bool Read(Value* out, size_t depth) {
    if (left() == 0) return Fail("unexpected end");
    const auto tag = static_cast<uint8_t>(in_[at_++]);
    std::string_view text;
    if (tag < kString) {
      *out = Value(int64_t{tag});
      return true;
    }
    if (tag < kArray) return Take(tag - kString, &text) && Text(text, out);
    if (tag < kWord) return Items(tag - kArray, out, depth);
    if (tag < kNull) {
      if (tag - kWord >= static_cast<int>(std::size(kWords))) return Fail("unknown word");
      *out = Value(kWords[tag - kWord]);
      return true;
    }
    uint64_t number = 0;
    switch (tag) {
      case kNull:
        *out = Value(nullptr);
        return true;
      case kFalse:
      case kTrue:
        *out = Value(tag == kTrue);
        return true;
      case kInt:
        if (!Varint(&number)) return false;
        *out = Value(static_cast<int64_t>(number >> 1 ^ (~(number & 1) + 1)));
        return true;
      case kDouble:
        if (!Take(8, &text)) return false;
        std::memcpy(&number, text.data(), 8);
        *out = Value(std::bit_cast<double>(number));
        return true;
      case kLongString:
        return LongText(&text) && Text(text, out);
      case kLongArray:
        return Varint(&number) && Items(number, out, depth);
      case kObject:
        return Members(out, depth);
      case kBytesValue: {
        if (!LongText(&text)) return false;
        BytesValue bytes;
        const auto* data = reinterpret_cast<const std::byte*>(text.data());
        bytes.bytes.assign(data, data + text.size());
        *out = Value(std::move(bytes));
        return true;
      }
      default:
        return Fail("unknown tag");
    }
  }

  const std::string_view in_;
  const size_t depth_max_;
  size_t at_ = 0;
  Status failure_;
};

constexpr std::string_view kBase64 =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

constexpr auto kBase64Digits = [] {
  std::array<int8_t, 256> digits{};
  digits.fill(-1);
  for (size_t i = 0; i < kBase64.size(); ++i)
    digits[static_cast<unsigned char>(kBase64[i])] = static_cast<int8_t>(i);
  return digits;
}();

}  // namespace

void MessageWriter::Head(uint8_t first, size_t small_max, uint8_t large, size_t count) {
  if (count <= small_max) {
    out_.push_back(static_cast<char>(first + count));
  } else {
    out_.push_back(static_cast<char>(large));
    AppendVarint(count, &out_);
  }
}

void MessageWriter::BeginArray(size_t count) {
  if (binary_) return Head(kArray, kShortMax, kLongArray, count);
  Comma();
  out_.push_back('[');
  need_comma_ = false;
}

void MessageWriter::EndArray() {
  if (binary_) return;
  out_.push_back(']');
  need_comma_ = true;
}

void MessageWriter::BeginObject(size_t count) {
  if (binary_) {
    out_.push_back(static_cast<char>(kObject));
    return AppendVarint(count, &out_);
  }
  Comma();
  out_.push_back('{');
  need_comma_ = false;
}

void MessageWriter::EndObject() {
  if (binary_) return;
  out_.push_back('}');
  need_comma_ = true;
}

void MessageWriter::Key(std::string_view key) {
  if (binary_) {
    if (!IsWtf8(key)) return Key(ToWtf8(key));
    AppendVarint(key.size(), &out_);
    out_.append(key);
    return;
  }
  Comma();
  AppendJsonString(key, &out_);
  out_.push_back(':');
  need_comma_ = false;
}

void MessageWriter::Put(Word word) {
  if (binary_) {
    out_.push_back(static_cast<char>(kWord + static_cast<uint8_t>(word)));
    return;
  }
  Comma();
  out_.push_back('"');
  out_.append(kWords[static_cast<size_t>(word)]);
  out_.push_back('"');
}

void MessageWriter::String(std::string_view text) {
  if (binary_) {
    if (!IsWtf8(text)) return String(ToWtf8(text));
    Head(kString, kShortMax, kLongString, text.size());
    out_.append(text);
    return;
  }
  Comma();
  AppendJsonString(text, &out_);
}

void MessageWriter::Int(int64_t value) {
  if (binary_) {
    if (value >= 0 && value <= kSmallIntMax) {
      out_.push_back(static_cast<char>(value));
      return;
    }
    out_.push_back(static_cast<char>(kInt));
    const auto bits = static_cast<uint64_t>(value);
    return AppendVarint(bits << 1 ^ (value < 0 ? ~uint64_t{0} : 0), &out_);
  }
  Comma();
  AppendJsonNumber(value, &out_);
}

void MessageWriter::Double(double finite) {
  if (binary_) {
    out_.push_back(static_cast<char>(kDouble));
    char bytes[sizeof finite];
    std::memcpy(bytes, &finite, sizeof finite);
    out_.append(bytes, sizeof bytes);
    return;
  }
  Comma();
  AppendJsonNumber(finite, &out_);
}

void MessageWriter::Bool(bool value) {
  if (binary_) {
    out_.push_back(static_cast<char>(value ? kTrue : kFalse));
    return;
  }
  Comma();
  out_.append(value ? "true" : "false");
}

void MessageWriter::Null() {
  if (binary_) {
    out_.push_back(static_cast<char>(kNull));
    return;
  }
  Comma();
  out_.append("null");
}

void MessageWriter::Bytes(ByteView bytes) {
  if (binary_) {
    out_.push_back(static_cast<char>(kBytesValue));
    AppendVarint(bytes.size(), &out_);
    out_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return;
  }
  Comma();
  out_.push_back('"');
  AppendBase64(bytes, &out_);
  out_.push_back('"');
}

void MessageWriter::Raw(std::string_view value) {
  if (!binary_) Comma();
  out_.append(value);
}

bool MessageReader::Byte(char expected) {
  if (at_ >= in_.size() || in_[at_] != expected) return false;
  ++at_;
  return true;
}

bool MessageReader::Next() {
  if (open_ == 0) return at_ == 0;
  if (!binary_) return !std::exchange(need_comma_, true) || Byte(',');
  if (left_[open_ - 1] == 0) return false;
  --left_[open_ - 1];
  return true;
}

bool MessageReader::Varint(uint64_t* value) {
  *value = 0;
  for (int shift = 0; shift < 63; shift += 7) {
    if (at_ >= in_.size()) return false;
    const auto byte = static_cast<uint8_t>(in_[at_++]);
    *value |= uint64_t{byte & 0x7Fu} << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

bool MessageReader::OpenBinary(size_t* count) {
  if (at_ >= in_.size()) return false;
  const auto tag = static_cast<uint8_t>(in_[at_]);
  if (tag < kArray || tag >= kWord) return false;
  ++at_;
  *count = tag - kArray;
  return true;
}

bool MessageReader::Open() {
  if (!Next() || open_ == kOpenMax) return false;
  if (binary_ ? !OpenBinary(&left_[open_]) : !Byte('[')) return false;
  ++open_;
  need_comma_ = false;
  return true;
}

bool MessageReader::Close() {
  if (open_ == 0) return false;
  --open_;
  need_comma_ = true;
  return binary_ ? left_[open_] == 0 : Byte(']');
}

bool MessageReader::Is(Word word) {
  const std::string_view text = kWords[static_cast<size_t>(word)];
  if (binary_) {
    if (open_ == 0 || left_[open_ - 1] == 0) return false;
    if (!Byte(static_cast<char>(kWord + static_cast<uint8_t>(word)))) return false;
    --left_[open_ - 1];
    return true;
  }
  // Only as the first element: where a tag can be.
  const size_t end = at_ + 1 + text.size();
  if (need_comma_ || end >= in_.size() || in_[at_] != '"' || in_[end] != '"' ||
      in_.substr(at_ + 1, text.size()) != text)
    return false;
  at_ = end + 1;
  need_comma_ = true;
  return true;
}

bool MessageReader::Int(int64_t* value) {
  if (!Next() || at_ >= in_.size()) return false;
  if (binary_) {
    const auto tag = static_cast<uint8_t>(in_[at_++]);
    *value = tag;
    if (tag < kString) return true;
    uint64_t bits = 0;
    if (tag != kInt || !Varint(&bits)) return false;
    *value = static_cast<int64_t>(bits >> 1 ^ (~(bits & 1) + 1));
    return true;
  }
  constexpr size_t kDigitsMax = 15;  // below 2^53, so always an integer
  const char* const first = in_.data() + at_;
  const char* const last = in_.data() + in_.size();
  const auto [end, error] = std::from_chars(first, last, *value);
  const size_t size = static_cast<size_t>(end - first);
  const bool minus = *first == '-';
  if (error != std::errc() || size > kDigitsMax || end == last) return false;
  if (first[minus] == '0' && size != 1) return false;  // "00", "-0"
  if (*end != ',' && *end != ']') return false;        // a fraction, say
  at_ += size;
  return true;
}

bool MessageReader::Names(std::span<std::string_view> names, size_t* count) {
  if (!Open()) return false;
  *count = 0;
  if (binary_) {
    for (; left_[open_ - 1] > 0; ++*count) {
      if (*count == names.size() || !Next() || at_ >= in_.size()) return false;
      const auto tag = static_cast<uint8_t>(in_[at_++]);
      if (tag < kString || tag >= kArray || in_.size() - at_ < size_t{tag} - kString) return false;
      names[*count] = in_.substr(at_, tag - kString);
      if (!IsWtf8(names[*count])) return false;
      at_ += names[*count].size();
    }
    return Close();
  }
  while (at_ < in_.size() && in_[at_] != ']') {
    if (*count == names.size() || !Next() || !Byte('"')) return false;
    const size_t end = PlainEnd(in_, at_);
    if (end >= in_.size() || in_[end] != '"') return false;
    names[(*count)++] = in_.substr(at_, end - at_);
    at_ = end + 1;
  }
  return Close();
}

bool MessageReader::Tree(Value* value) {
  if (!Next()) return false;
  return binary_ ? BinaryParser(in_, depth_max_).ReadAt(&at_, open_, value)
                 : ParseJsonAt(in_, &at_, open_, depth_max_, value);
}

StatusOr<Value> ParseBinary(std::string_view message, size_t depth_max) {
  return BinaryParser(message, depth_max).Run();
}

// Two digits at a time, from a table of all 4096 pairs.
void AppendBase64(ByteView bytes, std::string* out) {
  static constexpr auto kPairs = [] {
    std::array<std::array<char, 2>, 4096> pairs{};
    for (size_t i = 0; i < pairs.size(); ++i) pairs[i] = {kBase64[i >> 6], kBase64[i & 63]};
    return pairs;
  }();
  const auto at = [&](size_t k) { return std::to_integer<uint32_t>(bytes[k]); };
  const size_t start = out->size();
  const size_t rest = bytes.size() % 3;
  out->resize(start + bytes.size() / 3 * 4 + (rest == 0 ? 0 : rest + 1));
  char* to = out->data() + start;
  size_t i = 0;
  for (; i + 3 <= bytes.size(); i += 3, to += 4) {
    const uint32_t group = at(i) << 16 | at(i + 1) << 8 | at(i + 2);
    std::memcpy(to, kPairs[group >> 12].data(), 2);
    std::memcpy(to + 2, kPairs[group & 4095].data(), 2);
  }
  if (rest != 0) {
    const uint32_t group = at(i) << 16 | (rest == 2 ? at(i + 1) << 8 : 0);
    std::memcpy(to, kPairs[group >> 12].data(), 2);
    if (rest == 2) to[2] = kBase64[group >> 6 & 63];
  }
}

bool ParseBase64(std::string_view text, Bytes* out) {
  if (text.size() % 4 == 0 && text.ends_with('=')) {
    text.remove_suffix(1);
    if (text.ends_with('=')) text.remove_suffix(1);
  }
  const size_t rest = text.size() % 4;
  if (rest == 1) return false;
  out->resize(text.size() / 4 * 3 + (rest == 0 ? 0 : rest - 1));
  std::byte* to = out->data();
  const auto digit = [&](size_t i) {
    return int32_t{kBase64Digits[static_cast<unsigned char>(text[i])]};
  };
  int32_t bad = 0;  // negative once a digit was none
  size_t i = 0;
  for (; i + 4 <= text.size(); i += 4, to += 3) {
    const int32_t a = digit(i), b = digit(i + 1), c = digit(i + 2), d = digit(i + 3);
    bad |= a | b | c | d;
    const uint32_t group = static_cast<uint32_t>(a) << 18 | static_cast<uint32_t>(b) << 12 |
                           static_cast<uint32_t>(c) << 6 | static_cast<uint32_t>(d);
    to[0] = static_cast<std::byte>(group >> 16 & 255);
    to[1] = static_cast<std::byte>(group >> 8 & 255);
    to[2] = static_cast<std::byte>(group & 255);
  }
  if (rest != 0) {
    const int32_t a = digit(i), b = digit(i + 1), c = rest == 3 ? digit(i + 2) : 0;
    bad |= a | b | c;
    const uint32_t group = static_cast<uint32_t>(a) << 18 | static_cast<uint32_t>(b) << 12 |
                           static_cast<uint32_t>(c) << 6;
    to[0] = static_cast<std::byte>(group >> 16 & 255);
    if (rest == 3) to[1] = static_cast<std::byte>(group >> 8 & 255);
  }
  return bad >= 0;
}

}  // namespace edge::rpc
