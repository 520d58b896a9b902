#include "srs/wire.h"

#include <algorithm>
#include <utility>

#include "edge/base/checksum.h"
#include "edge/base/errors.h"

namespace edge::srs {
namespace {

constexpr size_t kFrameHeaderBytes = 8;
constexpr size_t kChunkBytes = 1 << 20;
constexpr size_t kConnectionBytesMax = 4 << 20;  // of its 16 MiB

void PutPlace(ByteWriter* out, const LogPlace& place) {
  out->U64(place.epoch);
  out->U64(place.index);
  out->U64(place.chain.low);
  out->U64(place.chain.high);
}
LogPlace GetPlace(ByteReader* in) {
  LogPlace place;
  place.epoch = in->U64();
  place.index = in->U64();
  place.chain.low = in->U64();
  place.chain.high = in->U64();
  return place;
}

Status Checked(const ByteReader& in, std::string_view what) {
  if (!in.failed() && in.remaining() == 0) return OkStatus();
  return DataLoss("malformed message \"{}\"", what);
}

struct Writer {
  Bytes bytes;
  ByteWriter out{&bytes};
  explicit Writer(WireType type) { out.U8(static_cast<uint8_t>(type)); }
};

}  // namespace

Bytes Encode(const HelloMessage& m) {
  Writer w(WireType::kHello);
  w.out.U32(kWireMagic);
  w.out.U64(m.epoch);
  w.out.U64(m.host);
  w.out.Sized(AsBytes(m.group));
  return std::move(w.bytes);
}
Status Decode(ByteView body, HelloMessage* m) {
  ByteReader in(body);
  const uint32_t magic = in.U32();
  if (in.failed() || magic != kWireMagic) {
    return InvalidArgument("a peer that speaks another protocol: {:08x}, expected {:08x}", magic,
                           kWireMagic);
  }
  m->epoch = in.U64();
  m->host = in.U64();
  m->group = AsText(in.Sized());
  return Checked(in, "hello");
}
Bytes Encode(const AppendMessage& m) {
  Writer w(WireType::kAppend);
  w.bytes.reserve(17 + m.payload.size());
  w.out.U64(m.epoch);
  w.out.U64(m.confirmed);
  w.out.Raw(m.payload);
  return std::move(w.bytes);
}
Status Decode(ByteView body, AppendMessage* m) {
  ByteReader in(body);
  m->epoch = in.U64();
  m->confirmed = in.U64();
  m->payload = in.Raw(in.remaining());
  return Checked(in, "append");
}
Bytes Encode(const BeatMessage& m) {
  Writer w(WireType::kBeat);
  w.out.U64(m.epoch);
  w.out.U64(m.sequence);
  w.out.U64(m.confirmed);
  w.out.U64(m.persisted);
  w.out.U64(static_cast<uint64_t>(m.lease_ms));
  return std::move(w.bytes);
}
Status Decode(ByteView body, BeatMessage* m) {
  ByteReader in(body);
  m->epoch = in.U64();
  m->sequence = in.U64();
  m->confirmed = in.U64();
  m->persisted = in.U64();
  m->lease_ms = static_cast<int64_t>(in.U64());
  return Checked(in, "beat");
}
Bytes Encode(const FetchMessage& m) {
  Writer w(WireType::kFetch);
  w.out.U64(m.epoch);
  w.out.U64(m.from);
  return std::move(w.bytes);
}
Status Decode(ByteView body, FetchMessage* m) {
  ByteReader in(body);
  m->epoch = in.U64();
  m->from = in.U64();
  return Checked(in, "fetch");
}
Bytes Encode(const ResetMessage& m) {
  Writer w(WireType::kReset);
  w.out.U64(m.epoch);
  PutPlace(&w.out, m.base);
  return std::move(w.bytes);
}
Status Decode(ByteView body, ResetMessage* m) {
  ByteReader in(body);
  m->epoch = in.U64();
  m->base = GetPlace(&in);
  return Checked(in, "reset");
}
Bytes Encode(const WelcomeMessage& m) {
  Writer w(WireType::kWelcome);
  w.out.U64(m.epoch);
  w.out.U64(m.follower);
  PutPlace(&w.out, m.base);
  PutPlace(&w.out, m.last);
  w.out.U64(m.confirmed);
  return std::move(w.bytes);
}
Status Decode(ByteView body, WelcomeMessage* m) {
  ByteReader in(body);
  m->epoch = in.U64();
  m->follower = in.U64();
  m->base = GetPlace(&in);
  m->last = GetPlace(&in);
  m->confirmed = in.U64();
  return Checked(in, "welcome");
}
Bytes Encode(const AckMessage& m) {
  Writer w(WireType::kAck);
  w.out.U64(m.epoch);
  w.out.U64(m.index);
  return std::move(w.bytes);
}
Status Decode(ByteView body, AckMessage* m) {
  ByteReader in(body);
  m->epoch = in.U64();
  m->index = in.U64();
  return Checked(in, "ack");
}
Bytes Encode(const BeatReplyMessage& m) {
  Writer w(WireType::kBeatReply);
  w.out.U64(m.epoch);
  w.out.U64(m.sequence);
  w.out.U64(static_cast<uint64_t>(m.lease_ms));
  return std::move(w.bytes);
}
Status Decode(ByteView body, BeatReplyMessage* m) {
  ByteReader in(body);
  m->epoch = in.U64();
  m->sequence = in.U64();
  m->lease_ms = static_cast<int64_t>(in.U64());
  return Checked(in, "beat reply");
}
Bytes Encode(const EntriesMessage& m) {
  Writer w(WireType::kEntries);
  w.out.U64(m.epoch);
  w.out.Varint(m.payloads.size());
  for (const ByteView payload : m.payloads) w.out.Sized(payload);
  return std::move(w.bytes);
}
Status Decode(ByteView body, EntriesMessage* m) {
  ByteReader in(body);
  m->epoch = in.U64();
  const uint64_t count = in.Varint();
  for (uint64_t i = 0; i < count && !in.failed(); ++i) m->payloads.push_back(in.Sized());
  return Checked(in, "entries");
}
Bytes Encode(const RejectMessage& m) {
  Writer w(WireType::kReject);
  w.out.U8(static_cast<uint8_t>(m.reason));
  w.out.U64(m.promised);
  w.out.Sized(AsBytes(m.text));
  return std::move(w.bytes);
}
Status Decode(ByteView body, RejectMessage* m) {
  ByteReader in(body);
  const uint8_t reason = in.U8();
  if (reason < 1 || reason > 3) return DataLoss("unknown reason {} of a rejection", reason);
  m->reason = static_cast<RejectReason>(reason);
  m->promised = in.U64();
  m->text = AsText(in.Sized());
  return Checked(in, "reject");
}

Status FrameParser::Feed(ByteView bytes, Callback<Status(ByteView)>& on_frame) {
  // Whole frames are handed out from where they came in; only an incomplete one is kept.
  Bytes joined;
  if (!rest_.empty()) {
    rest_.insert(rest_.end(), bytes.begin(), bytes.end());
    if (rest_.size() >= kFrameHeaderBytes) {
      const auto size = LoadLittle<uint32_t>(rest_.data());
      if (size <= kFrameBytesMax && rest_.size() < kFrameHeaderBytes + size) return OkStatus();
    }
    joined.swap(rest_);
    bytes = joined;
  }
  size_t at = 0;
  while (bytes.size() - at >= kFrameHeaderBytes) {
    const auto size = LoadLittle<uint32_t>(bytes.data() + at);
    const auto crc = LoadLittle<uint32_t>(bytes.data() + at + 4);
    if (size == 0 || size > kFrameBytesMax) {
      return DataLoss("a frame of {} bytes: 1 to {} allowed", size, kFrameBytesMax);
    }
    if (bytes.size() - at - kFrameHeaderBytes < size) break;
    const ByteView body = bytes.subspan(at + kFrameHeaderBytes, size);
    const uint32_t found = Crc32c(body);
    if (found != crc) {
      return DataLoss("a frame of {} bytes: checksum {:08x}, expected {:08x}", size, found, crc);
    }
    at += kFrameHeaderBytes + size;
    EDGE_RETURN_IF_ERROR(on_frame(body));
  }
  rest_.assign(bytes.begin() + static_cast<ptrdiff_t>(at), bytes.end());
  return OkStatus();
}

FrameChannel::FrameChannel(std::unique_ptr<Connection> connection, Handlers handlers)
    : connection_(std::move(connection)),
      handlers_(std::move(handlers)),
      alive_(std::make_shared<bool>(true)) {
  connection_->Start({
      .on_data =
          [this](ByteView bytes) {
            const std::weak_ptr<bool> alive = alive_;
            Callback<Status(ByteView)> on_frame = [this, alive](ByteView body) -> Status {
              const Status done =
                  handlers_.on_message(static_cast<WireType>(body[0]), body.subspan(1));
              if (alive.expired()) return Cancelled("the channel is gone");
              return done;
            };
            const Status fed = parser_.Feed(bytes, on_frame);
            if (!alive.expired() && !fed.ok()) CloseWith(fed);
          },
      .on_close = [this](const Status& status) { CloseWith(status); },
      .on_drained = [this] { Pump(); },
  });
}

void FrameChannel::Send(ByteView body) {
  if (is_closed_) return;
  Bytes frame(kFrameHeaderBytes);
  frame.reserve(kFrameHeaderBytes + body.size());
  StoreLittle(frame.data(), static_cast<uint32_t>(body.size()));
  StoreLittle(frame.data() + 4, Crc32c(body));
  frame.insert(frame.end(), body.begin(), body.end());
  queued_bytes_ += frame.size();
  queue_.push_back(std::move(frame));
  Pump();
}

void FrameChannel::Pump() {
  while (!queue_.empty() && connection_->buffered_bytes() < kConnectionBytesMax) {
    Bytes& front = queue_.front();
    const size_t count = std::min(front.size(), kChunkBytes);
    // A connection that has failed says so by on_close.
    if (!connection_->Write(ByteView(front).first(count)).ok()) return;
    queued_bytes_ -= count;
    if (count == front.size()) {
      queue_.pop_front();
    } else {
      front.erase(front.begin(), front.begin() + static_cast<ptrdiff_t>(count));
    }
  }
}

void FrameChannel::CloseWith(const Status& status) {
  if (std::exchange(is_closed_, true)) return;
  auto on_close = std::move(handlers_.on_close);
  if (on_close) on_close(status);
}

}  // namespace edge::srs
