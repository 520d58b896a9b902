#include "src/rpc/frames.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "edge/base/errors.h"
#include "src/rpc/json.h"

namespace edge::rpc {
namespace {

constexpr size_t kControlBytesMax = 125;
constexpr size_t kBytesKept = 4096;  // by a reader that has nothing to keep them for
constexpr size_t kReserveMax = 1 << 20;
constexpr uint16_t kNoCode = 1005;

// to[i] = from[i] ^ mask, which starts over every four bytes.
void ApplyMask(const char* from, size_t size, const char (&mask)[4], char* to) {
  char twice[8];
  std::memcpy(twice, mask, 4);
  std::memcpy(twice + 4, mask, 4);
  uint64_t wide = 0;
  std::memcpy(&wide, twice, 8);
  size_t i = 0;
  for (; i + 8 <= size; i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, from + i, 8);
    word ^= wide;
    std::memcpy(to + i, &word, 8);
  }
  for (; i < size; ++i) to[i] = static_cast<char>(from[i] ^ mask[i & 3]);
}

uint64_t BigEndian(std::string_view bytes) {
  uint64_t value = 0;
  for (const char c : bytes) value = value << 8 | static_cast<unsigned char>(c);
  return value;
}

bool IsValidCloseCode(uint64_t code) {
  return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) ||
         (code >= 3000 && code <= 4999);
}

}  // namespace

struct FrameReader::Frame {
  uint8_t opcode = 0;  // 0: a continuation
  bool is_last = false;
  bool is_whole = false;
  char mask[4] = {};
  std::string_view payload;
  size_t bytes = 0;  // of the frame; a lower bound if it is not whole
};

Status FrameReader::Parse(std::string_view bytes, Frame* frame) const {
  frame->bytes = masked_ ? 6 : 2;
  if (bytes.size() < 2) return OkStatus();
  const auto first = static_cast<uint8_t>(bytes[0]);
  const auto second = static_cast<uint8_t>(bytes[1]);
  frame->opcode = first & 15;
  frame->is_last = (first & 0x80) != 0;
  const bool is_control = frame->opcode >= 8;
  if ((first & 0x70) != 0) return InvalidArgument("a frame with reserved bits");
  if (frame->opcode > 10 || (frame->opcode > 2 && !is_control))
    return InvalidArgument("a frame with the unknown opcode {}", int{frame->opcode});
  if (((second & 0x80) != 0) != masked_)
    return InvalidArgument(masked_ ? "a frame without a mask" : "a frame with a mask");
  if (!is_control && (frame->opcode == 0) != in_message_)
    return InvalidArgument(in_message_ ? "a message inside another" : "nothing to continue");
  uint64_t size = second & 0x7F;
  size_t at = 2;
  if (is_control && (size > kControlBytesMax || !frame->is_last))
    return InvalidArgument("a control frame that is long or in fragments");
  if (size >= 126) {
    const size_t length_bytes = size == 126 ? 2 : 8;
    frame->bytes += length_bytes;
    if (bytes.size() < at + length_bytes) return OkStatus();
    size = BigEndian(bytes.substr(at, length_bytes));
    at += length_bytes;
    if (size < (length_bytes == 2 ? 126 : 65536))
      return InvalidArgument("a frame length in more bytes than it needs");
  }
  if (!is_control && size > message_bytes_max_ - std::min(message_.size(), message_bytes_max_))
    return ResourceExhausted("a message of {} bytes or more; {} are allowed",
                             message_.size() + size, message_bytes_max_);
  if (masked_) {
    if (bytes.size() < at + 4) return OkStatus();
    std::memcpy(frame->mask, bytes.data() + at, 4);
    at += 4;
  }
  frame->bytes = at + size;
  if (bytes.size() < frame->bytes) return OkStatus();
  frame->payload = bytes.substr(at, size);
  frame->is_whole = true;
  return OkStatus();
}

StatusOr<FrameReader::Next> FrameReader::Deliver(const Frame& frame, Sink& sink,
                                                 std::string& scratch) {
  const bool is_control = frame.opcode >= 8;
  if (!is_control && (in_message_ || !frame.is_last)) {
    if (!std::exchange(in_message_, true)) message_opcode_ = static_cast<Opcode>(frame.opcode);
    const size_t before = message_.size();
    message_.resize(before + frame.payload.size());
    ApplyMask(frame.payload.data(), frame.payload.size(), frame.mask, message_.data() + before);
    if (!frame.is_last) return Next::kGoOn;
    in_message_ = false;
    const std::string message = std::exchange(message_, {});
    return sink.OnFrame(message_opcode_, message);
  }
  const auto opcode = static_cast<Opcode>(frame.opcode);
  if (!masked_) return sink.OnFrame(opcode, frame.payload);
  // The sink may run anything: what it leads to must find the scratch free.
  std::string plain = std::exchange(scratch, {});
  plain.resize(frame.payload.size());
  ApplyMask(frame.payload.data(), frame.payload.size(), frame.mask, plain.data());
  const Next next = sink.OnFrame(opcode, plain);
  if (plain.capacity() > scratch.capacity()) scratch = std::move(plain);
  return next;
}

Status FrameReader::Feed(std::string_view bytes, Sink& sink, std::string& scratch) {
  std::string held = std::exchange(pending_, {});
  const bool holds = !held.empty();
  if (holds) {
    held.append(bytes);
    bytes = held;
  }
  Frame frame;
  while (!bytes.empty()) {
    frame = {};
    EDGE_RETURN_IF_ERROR(Parse(bytes, &frame));
    if (!frame.is_whole) break;
    EDGE_ASSIGN_OR_RETURN(const Next next, Deliver(frame, sink, scratch));
    bytes.remove_prefix(frame.bytes);
    frame.bytes = 0;
    if (next == Next::kStop) return OkStatus();
    if (next == Next::kPause) break;
  }
  if (holds) {
    held.erase(0, held.size() - bytes.size());
    if (!held.empty() || held.capacity() <= kBytesKept) pending_ = std::move(held);
  } else if (!bytes.empty()) {
    pending_.reserve(std::min(std::max(frame.bytes, bytes.size()), kReserveMax));
    pending_ = bytes;
  }
  return OkStatus();
}

size_t WriteFrameHeader(Opcode opcode, size_t payload_bytes, char (&header)[10]) {
  header[0] = static_cast<char>(0x80 | static_cast<uint8_t>(opcode));
  const size_t length_bytes = payload_bytes < 126 ? 0 : payload_bytes < 65536 ? 2 : 8;
  header[1] = static_cast<char>(length_bytes == 0 ? payload_bytes : length_bytes == 2 ? 126 : 127);
  for (size_t i = 0; i < length_bytes; ++i)
    header[2 + i] = static_cast<char>(payload_bytes >> 8 * (length_bytes - 1 - i));
  return 2 + length_bytes;
}

void AppendFrame(Opcode opcode, std::string_view payload, uint32_t mask, std::string* out) {
  char header[10];
  const size_t header_bytes = WriteFrameHeader(opcode, payload.size(), header);
  if (mask == 0) {
    out->append(header, header_bytes);
    out->append(payload);
    return;
  }
  header[1] = static_cast<char>(header[1] | 0x80);
  char key[4];
  std::memcpy(key, &mask, 4);
  out->append(header, header_bytes);
  out->append(key, 4);
  const size_t before = out->size();
  out->resize(before + payload.size());
  ApplyMask(payload.data(), payload.size(), key, out->data() + before);
}

std::string ClosePayload(CloseCode code, std::string_view reason) {
  size_t size = std::min(reason.size(), kControlBytesMax - 2);
  if (size < reason.size())
    while (size > 0 && (static_cast<unsigned char>(reason[size]) & 0xC0) == 0x80) --size;
  const auto number = static_cast<uint16_t>(code);
  std::string payload = {static_cast<char>(number >> 8), static_cast<char>(number & 255)};
  payload += ToWtf8(reason.substr(0, size)).substr(0, kControlBytesMax - 2);
  return payload;
}

bool ReadClosePayload(std::string_view payload, uint16_t* code, std::string_view* reason) {
  *code = kNoCode;
  *reason = {};
  if (payload.empty()) return true;
  if (payload.size() < 2) return false;
  const uint64_t number = BigEndian(payload.substr(0, 2));
  *code = static_cast<uint16_t>(number);
  *reason = payload.substr(2);
  return IsValidCloseCode(number) && IsWtf8(*reason);
}

}  // namespace edge::rpc
