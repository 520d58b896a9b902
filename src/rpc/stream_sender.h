// The near end of a writable stream of the peer: chunks out, within the flow window.
#pragma once
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string_view>

#include "edge/base/callback.h"
#include "edge/base/status.h"
#include "edge/rpc/hook.h"
#include "src/rpc/flow_window.h"

namespace edge::rpc {

class StreamSender;

// What a sender needs of its session.
class StreamCarrier {
 public:
  virtual ~StreamCarrier() = default;
  // Sends ["stream", [.., id, [method], args]]; `ack` runs with its answer, or when the
  // session ends. `bytes`: its size on the wire. A failure: nothing was sent.
  virtual Status SendStream(int64_t id, std::string_view method, const Array& args, size_t* bytes,
                            Callback<void(Status)> ack) = 0;
  // May a stream with `in_flight` bytes send more, as far as the whole session goes? If not,
  // Resume runs when that may have changed.
  virtual bool MaySend(size_t in_flight) = 0;
  virtual int64_t now_us() = 0;  // -1: there is no clock, and windows keep their first size
  virtual void AddSender(StreamSender* sender) = 0;
  virtual void RemoveSender(StreamSender* sender) = 0;
};

// Methods write, close and abort, as of any writable hook. A chunk leaves when the window has
// room; that is also when its write is answered. Dropping the hook releases the peer's end.
class StreamSender : public MethodHook {
 public:
  // `import`: the peer's end; its id is `id`.
  StreamSender(Loop* home, std::shared_ptr<StreamCarrier> carrier, HookPtr import, int64_t id);
  ~StreamSender() override;

  void Write(Value chunk, Resolver done);
  void Close(Resolver done);
  void Abort(const Status& reason);
  // As Abort, once all chunks that left have been acknowledged: a peer may drop what it has
  // not read yet when it hears of the end.
  void AbortInOrder(const Status& reason);
  HookPtr TryRef() { return TrySelf(); }
  void Resume();             // there may be room
  void Fail(Status reason);  // the session ended, or the peer broke the stream off
  // Runs once if the stream breaks from the other side.
  void set_on_broken(Callback<void(Status)> on_broken) { on_broken_ = std::move(on_broken); }

 protected:
  void OnCall(std::string_view method, Array args, Resolver done) override;

 private:
  struct Step {
    Array args;
    bool is_close;
    Resolver done;
  };
  void SendChunk(Step step);
  void SendClose(Resolver done);

  const std::shared_ptr<StreamCarrier> carrier_;  // the session, with all that came from it
  HookPtr import_;                                // null once the stream is over
  const int64_t id_;
  FlowWindow window_;
  std::deque<Step> waiting_;
  bool closing_ = false;
  bool running_ = false;
  Status last_words_;  // of AbortInOrder, while it waits
  Status failed_;
  Callback<void(Status)> on_broken_;
};

}  // namespace edge::rpc
