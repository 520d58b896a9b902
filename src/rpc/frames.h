// WebSocket frames (RFC 6455, section 5), without any I/O: bytes in, whole messages out.
//
// A message that lies whole and unmasked in what was read is handed on where it lies; only a
// part of one is kept, so an idle connection keeps nothing.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "edge/base/status.h"

namespace edge::rpc {

enum class Opcode : uint8_t { kText = 1, kBinary = 2, kClose = 8, kPing = 9, kPong = 10 };

// What a connection is closed with.
enum class CloseCode : uint16_t {
  kNormal = 1000,
  kGoingAway = 1001,
  kProtocolError = 1002,
  kUnsupported = 1003,
  kTooBig = 1009,
  kAborted = 3000,  // Cap'n Web: the session was aborted
};

// Single-threaded.
class FrameReader {
 public:
  enum class Next : uint8_t { kGoOn, kPause, kStop };
  class Sink {
   public:
    virtual ~Sink() = default;
    // A whole message or control frame, borrowed. kPause: not this one's successor yet;
    // kStop: nothing more at all. Must not call the reader.
    virtual Next OnFrame(Opcode opcode, std::string_view payload) = 0;
  };

  // `masked`: frames must be (they come from a client), or must not be.
  FrameReader(bool masked, size_t message_bytes_max)
      : masked_(masked), message_bytes_max_(message_bytes_max) {}

  // Takes what was read; after a pause, "" goes on with what waits. `scratch` is clobbered.
  // InvalidArgument: against the protocol (close with 1002); ResourceExhausted: a message
  // above the limit (1009). No call after either.
  Status Feed(std::string_view bytes, Sink& sink, std::string& scratch);

  // Of frames and messages that are not complete yet.
  size_t pending_bytes() const { return pending_.size() + message_.size(); }

 private:
  struct Frame;
  Status Parse(std::string_view bytes, Frame* frame) const;
  StatusOr<Next> Deliver(const Frame& frame, Sink& sink, std::string& scratch);

  const bool masked_;
  bool in_message_ = false;  // fragments have come
  bool paused_ = false;
  Opcode message_opcode_ = Opcode::kText;
  const size_t message_bytes_max_;
  std::string pending_;  // the start of a frame
  std::string message_;  // its fragments so far
};

// Appends a whole frame; `mask` 0 means unmasked (from a server).
void AppendFrame(Opcode opcode, std::string_view payload, uint32_t mask, std::string* out);
// The part before the payload, unmasked.
size_t WriteFrameHeader(Opcode opcode, size_t payload_bytes, char (&header)[10]);
// Payload of a close frame; `reason` is cut to what fits, between characters.
std::string ClosePayload(CloseCode code, std::string_view reason);
// False for one that is against the protocol. An empty payload is 1005, "no code".
bool ReadClosePayload(std::string_view payload, uint16_t* code, std::string_view* reason);

}  // namespace edge::rpc
