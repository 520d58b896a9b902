// Writing and reading messages of a session, in either of their two forms: the JSON text of
// Cap'n Web, or the compact binary form of the same trees that two edge peers agree on
// (docs/formats/edge-rpc.md). Whoever writes names the tree once; the form is a flag.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "edge/base/bytes.h"
#include "edge/base/status.h"
#include "edge/rpc/value.h"

namespace edge::rpc {

enum class Codec : uint8_t { kJson, kBinary };

// The words of the protocol: message types and tags, as of capnweb 0.12.0. One byte each in
// the binary form, by their place here, so the order is part of that format: only append.
enum class Word : uint8_t {
  kPush,
  kPull,
  kResolve,
  kReject,
  kRelease,
  kStream,
  kPipe,
  kAbort,
  kImport,
  kPipeline,
  kRemap,
  kExport,
  kPromise,
  kWritable,
  kReadable,
  kUndefined,
  kInf,
  kMinusInf,
  kNan,
  kBigInt,
  kDate,
  kBytes,
  kError,
  kUrl,
  kHeaders,
  kRequest,
  kResponse,
  kBlob,
};
inline constexpr std::string_view kWords[] = {
    "push",     "pull",      "resolve",  "reject",  "release", "stream",   "pipe",
    "abort",    "import",    "pipeline", "remap",   "export",  "promise",  "writable",
    "readable", "undefined", "inf",      "-inf",    "nan",     "bigint",   "date",
    "bytes",    "error",     "url",      "headers", "request", "response", "blob"};

// Appends one message, or a part of one, to `out`. Counts are of elements or members, and
// must be right: the binary form has no end marks. Single-threaded.
class MessageWriter {
 public:
  explicit MessageWriter(std::string* out, Codec codec = Codec::kJson)
      : out_(*out), binary_(codec == Codec::kBinary) {}

  void BeginArray(size_t count);
  void EndArray();
  void BeginObject(size_t count);
  void EndObject();
  void Key(std::string_view key);
  void Put(Word word);
  void String(std::string_view text);
  void Int(int64_t value);
  void Double(double finite);
  void Bool(bool value);  // NOLINT(google-explicit-constructor)
  void Null();
  void Bytes(ByteView bytes);        // base64 in JSON
  void Raw(std::string_view value);  // a value that a writer of the same codec wrote

  Codec codec() const { return binary_ ? Codec::kBinary : Codec::kJson; }
  size_t size() const { return out_.size(); }

 private:
  void Comma() {
    if (need_comma_) out_.push_back(',');
    need_comma_ = true;
  }
  void Head(uint8_t first, size_t small_max, uint8_t large, size_t count);
  std::string& out_;
  const bool binary_;
  bool need_comma_ = false;
};

// Reads a message whose shape is guessed: each call is false if what comes next is something
// else, and the reader is then good for nothing. Borrows the message.
class MessageReader {
 public:
  MessageReader(std::string_view message, Codec codec, size_t depth_max)
      : in_(message), binary_(codec == Codec::kBinary), depth_max_(depth_max) {}

  bool Open();         // an array
  bool Close();        // it has no more elements
  bool Is(Word word);  // false: may be tried again with another word
  bool Int(int64_t* value);
  // An array of strings (without escapes), as many as `names` holds at most.
  bool Names(std::span<std::string_view> names, size_t* count);
  bool Tree(Value* value);  // whatever it is
  bool done() const { return at_ == in_.size(); }

 private:
  static constexpr size_t kOpenMax = 4;
  bool Byte(char expected);
  bool Next();  // an element of the innermost open array begins
  bool OpenBinary(size_t* count);
  bool Varint(uint64_t* value);

  const std::string_view in_;
  const bool binary_;
  const size_t depth_max_;
  size_t at_ = 0;
  size_t open_ = 0;                      // arrays
  std::array<size_t, kOpenMax> left_{};  // elements to come in each, if binary
  bool need_comma_ = false;              // if JSON
};

// The tree of one binary message, as ParseJson gives that of a text; bytes are BytesValues.
// InvalidArgument with the byte offset.
StatusOr<Value> ParseBinary(std::string_view message, size_t depth_max);

void AppendBase64(ByteView bytes, std::string* out);  // without padding
bool ParseBase64(std::string_view text, Bytes* out);  // with or without

}  // namespace edge::rpc
