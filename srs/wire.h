// srs/wire.h - what hosts and followers say to each other, and frames on a connection.
//
// Every frame carries its length and a checksum; every message of a host its group's epoch.
// Byte tables: docs/formats/replication.md.
#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "edge/base/bytes.h"
#include "edge/base/callback.h"
#include "edge/base/network.h"
#include "edge/base/status.h"
#include "srs/journal.h"

namespace edge::srs {

inline constexpr uint32_t kWireMagic = 0x31524445;  // "EDR1"
inline constexpr size_t kFrameBytesMax = size_t{300} << 20;
inline constexpr size_t kFetchBytes = 1 << 20;

enum class WireType : uint8_t {
  // host to follower
  kHello = 1,
  kAppend = 2,
  kBeat = 3,
  kFetch = 4,
  kReset = 5,
  // follower to host
  kWelcome = 65,
  kAck = 66,
  kBeatReply = 67,
  kEntries = 68,
  kReject = 69,
};

// Claims the group for `epoch`: the follower promises to obey no smaller one.
struct HelloMessage {
  std::string group;
  uint64_t epoch = 0;
  uint64_t host = 0;
};
struct AppendMessage {
  uint64_t epoch = 0;
  uint64_t confirmed = 0;
  ByteView payload;  // of the block; says its place
};
struct BeatMessage {
  uint64_t epoch = 0;
  uint64_t sequence = 0;
  uint64_t confirmed = 0;
  uint64_t persisted = 0;
  int64_t lease_ms = 0;  // asked for
};
struct FetchMessage {
  uint64_t epoch = 0;
  uint64_t from = 0;  // index
};
// Everything up to `base` is in the store: begin behind it.
struct ResetMessage {
  uint64_t epoch = 0;
  LogPlace base;
};
struct WelcomeMessage {
  uint64_t epoch = 0;     // that of the hello
  uint64_t follower = 0;  // made with its disk
  LogPlace base;          // entries up to here are gone: they are in the store
  LogPlace last;
  uint64_t confirmed = 0;
};
struct AckMessage {
  uint64_t epoch = 0;
  uint64_t index = 0;  // the host's log up to here is synced
};
struct BeatReplyMessage {
  uint64_t epoch = 0;
  uint64_t sequence = 0;
  int64_t lease_ms = 0;
};
struct EntriesMessage {
  uint64_t epoch = 0;
  std::vector<ByteView> payloads;
};
enum class RejectReason : uint8_t { kFenced = 1, kGap = 2, kFault = 3 };
struct RejectMessage {
  RejectReason reason = RejectReason::kFault;
  uint64_t promised = 0;
  std::string text;
};

// Whole bodies, type byte first.
Bytes Encode(const HelloMessage& m);
Bytes Encode(const AppendMessage& m);
Bytes Encode(const BeatMessage& m);
Bytes Encode(const FetchMessage& m);
Bytes Encode(const ResetMessage& m);
Bytes Encode(const WelcomeMessage& m);
Bytes Encode(const AckMessage& m);
Bytes Encode(const BeatReplyMessage& m);
Bytes Encode(const EntriesMessage& m);
Bytes Encode(const RejectMessage& m);

// The body without its type byte. DataLoss if it is malformed. Views point into it.
Status Decode(ByteView body, HelloMessage* m);
Status Decode(ByteView body, AppendMessage* m);
Status Decode(ByteView body, BeatMessage* m);
Status Decode(ByteView body, FetchMessage* m);
Status Decode(ByteView body, ResetMessage* m);
Status Decode(ByteView body, WelcomeMessage* m);
Status Decode(ByteView body, AckMessage* m);
Status Decode(ByteView body, BeatReplyMessage* m);
Status Decode(ByteView body, EntriesMessage* m);
Status Decode(ByteView body, RejectMessage* m);

// Splits a stream of bytes into checked frames. Single-threaded.
class FrameParser {
 public:
  // Calls `on_frame` for every frame that is complete; stops at its first error and returns
  // it. DataLoss: a checksum or length is wrong; the stream is of no more use.
  Status Feed(ByteView bytes, Callback<Status(ByteView body)>& on_frame);

 private:
  Bytes rest_;
};

// Frames over a connection, of any size whatever its buffer limit. Single-threaded: the
// connection's loop.
class FrameChannel {
 public:
  struct Handlers {
    // In order. An error closes the channel with it.
    Callback<Status(WireType, ByteView body)> on_message;
    Callback<void(const Status&)> on_close;  // once, the last call; it may destroy the channel
  };
  FrameChannel(std::unique_ptr<Connection> connection, Handlers handlers);
  FrameChannel(const FrameChannel&) = delete;
  void Send(ByteView body);
  size_t queued_bytes() const { return queued_bytes_ + connection_->buffered_bytes(); }
  const std::string& peer_address() const { return connection_->peer_address(); }

 private:
  void Pump();
  void CloseWith(const Status& status);
  std::unique_ptr<Connection> connection_;
  Handlers handlers_;
  FrameParser parser_;
  std::deque<Bytes> queue_;
  size_t queued_bytes_ = 0;
  bool is_closed_ = false;
  std::shared_ptr<bool> alive_;  // owners: this and the calls on the stack
};

}  // namespace edge::srs
