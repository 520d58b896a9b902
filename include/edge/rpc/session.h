// edge/rpc/session.h - one Cap'n Web conversation: a state machine without I/O.
//
// Text messages go in by OnMessage and come out of TakeOutput; there are no sockets, clocks
// or threads inside, so it runs the same under a WebSocket, in an HTTP batch, under a test
// with a seed or a fuzzer. Both ends are equal: each may offer a main object (id 0), import
// the other's, and pass further objects by reference. docs/formats/capnweb.md has the rows.
//
// Everything a peer can make us hold has a limit; past it the session is aborted with
// ResourceExhausted, as it is (InvalidArgument) for a message that is not of the protocol.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "edge/base/callback.h"
#include "edge/base/status.h"
#include "edge/rpc/hook.h"
#include "edge/rpc/stub.h"
#include "edge/rpc/value.h"

namespace edge::rpc {

struct SessionLimits {
  size_t message_bytes_max = 16 << 20;  // one message, either way
  size_t depth_max = 256;               // nesting of one message
  size_t bigint_digits_max = 16384;
  size_t exports_max = 100000;          // of our objects and results that the peer holds
  size_t imports_max = 100000;          // of its objects and results that we hold
  size_t path_max = 64;                 // names in one property path
  size_t output_bytes_max = 64 << 20;   // not yet taken: a peer that reads too slowly
  size_t calls_max = 10000;             // of the peer, whose answers it waits for
  size_t pipeline_max = 1000;           // calls, each on the unsettled result of another
  size_t memory_bytes_max = 256 << 20;  // of messages and results that exports keep alive
  size_t stream_bytes_max = 64 << 20;   // of chunks that we have not acknowledged yet
  size_t blob_bytes_max = 64 << 20;     // of one blob
  size_t map_steps_max = 1'000'000;     // instructions x elements of one map
  size_t map_bytes_max = 64 << 20;      // of its instructions, copied for each element
  // Do stacks, and the texts of exceptions that are no edge::Error, reach the peer?
  bool reveals_internals = false;
};

// Single-threaded: belongs to the loop (if any) on which it was made. Stubs that came from
// it live on after it, failing with the Status of its end.
class Session {
 public:
  struct Counts {
    size_t imports = 0;  // both with their entry 0
    size_t exports = 0;
  };

  // `main` is what the peer finds at id 0; null: an object without members. `on_output`, if
  // given, runs when output was added to an empty queue; it must not call the session.
  static std::unique_ptr<Session> Create(HookPtr main, const SessionLimits& limits = {},
                                         Callback<void()> on_output = nullptr);
  ~Session();  // as OnClosed(Unavailable)
  Session(const Session&) = delete;

  // The peer's main object.
  AnyStub main() const;

  // Takes one message. Not OK: the session has ended, by our judgement or by the peer's
  // abort; send what TakeOutput still gives, then close the transport.
  Status OnMessage(std::string_view text);
  // The transport is gone: every call that waits fails with `reason` (never OK).
  void OnClosed(Status reason);
  // Ends the session: tells the peer why (the next TakeOutput), then as OnClosed.
  void Abort(Status reason);

  // The oldest message that waits to be sent; false if there is none.
  bool TakeOutput(std::string* message);
  // From now on each message goes to `sink` as it is made, and none waits here: the transport
  // has the queue and its limit. `on_ended` runs when the session ends, whoever ends it, after
  // its last message. Neither may call the session.
  void SendTo(Callback<void(std::string_view)> sink, Callback<void()> on_ended = nullptr);
  // Both ends have agreed on the binary form (docs/formats/edge-rpc.md): before any message.
  void UseBinary();
  bool has_output() const;
  size_t output_bytes() const;

  bool ended() const;
  const Status& end_status() const;  // OK until then
  Counts counts() const;
  // Those of the session whose message this thread is handling now, with the entry that the
  // message is for; nothing outside of that.
  static std::optional<Counts> CallerCounts();
  // Pulls of the peer that have no answer yet. An HTTP batch is done at 0.
  size_t unanswered_pulls() const;
  // Runs after each message or answer that left no unanswered pull.
  void set_on_idle(Callback<void()> on_idle);

 private:
  class Core;
  friend class ImportHook;
  explicit Session(std::shared_ptr<Core> core);
  std::shared_ptr<Core> core_;  // owners: the session and the stubs that came from it
};

}  // namespace edge::rpc
