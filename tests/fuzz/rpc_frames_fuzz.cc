// WebSocket frames of a hostile peer, whole and byte by byte, masked and not.
//
// However the bytes are cut, the same frames come out with the same end; nothing is read
// beyond them, and no more is kept than the limit allows.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "edge/base/check.h"
#include "src/rpc/frames.h"

namespace {

using namespace edge;
using namespace edge::rpc;

constexpr size_t kMessageBytesMax = 512;

class Recorder : public FrameReader::Sink {
 public:
  FrameReader::Next OnFrame(Opcode opcode, std::string_view payload) override {
    EDGE_CHECK(payload.size() <= kMessageBytesMax);
    frames.emplace_back(static_cast<char>(opcode) + std::string(payload));
    if (opcode == Opcode::kClose) {
      uint16_t code = 0;
      std::string_view reason;
      ReadClosePayload(payload, &code, &reason);
    }
    return opcode == Opcode::kPong ? FrameReader::Next::kPause : FrameReader::Next::kGoOn;
  }
  std::vector<std::string> frames;
};

// The frames, then the code of the end.
std::vector<std::string> Read(std::string_view bytes, bool masked, size_t step) {
  FrameReader reader(masked, kMessageBytesMax);
  Recorder recorder;
  std::string scratch;
  Status status;
  while (!bytes.empty() && status.ok()) {
    status = reader.Feed(bytes.substr(0, step), recorder, scratch);
    bytes.remove_prefix(std::min(step, bytes.size()));
    EDGE_CHECK(reader.pending_bytes() <= 2 * kMessageBytesMax + 65536);
  }
  for (size_t before = SIZE_MAX; status.ok() && reader.pending_bytes() < before;) {
    before = reader.pending_bytes();
    status = reader.Feed("", recorder, scratch);  // what a pause left
  }
  recorder.frames.push_back(std::to_string(static_cast<int>(status.code())));
  return recorder.frames;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0 || size > 65536) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const bool masked = (data[0] & 1) != 0;
  EDGE_CHECK(Read(bytes, masked, bytes.size() + 1) == Read(bytes, masked, 1 + data[0] / 2));
  return 0;
}
