// edge/base/network.h - byte-stream connections as a dependency.
//
// Addresses are "127.0.0.1:7000", "[::1]:7000" or "unix:/run/edge.sock"; port 0 takes a
// free one. Every object belongs to the loop it was made on and calls back there, never
// from inside the caller's own call. TLS is a layer above (edge::srs, edge::rpc).
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "edge/base/bytes.h"
#include "edge/base/callback.h"
#include "edge/base/executor.h"
#include "edge/base/status.h"

namespace edge {

// Single-threaded: its loop's. Destroying it closes at once and calls back no more.
class Connection {
 public:
  struct Handlers {
    Callback<void(ByteView)> on_data;  // valid during the call
    Callback<void(Status)> on_close;   // OK: the peer closed; once, and the last call
    Callback<void()> on_drained;       // may be empty: buffered_bytes() fell to 0
  };
  virtual ~Connection() = default;
  // Starts delivery. Once, before any callback can happen.
  virtual void Start(Handlers handlers) = 0;
  // Queues `bytes`. ResourceExhausted above the buffer limit (16 MiB), Unavailable when
  // closed; nothing of `bytes` is then sent.
  virtual Status Write(ByteView bytes) = 0;
  virtual size_t buffered_bytes() const = 0;
  // Stop and resume on_data: back-pressure.
  virtual void PauseReading(bool paused) = 0;
  // Sends what is queued, then closes; on_close(OK) follows.
  virtual void Close() = 0;
  virtual const std::string& peer_address() const = 0;
};

// Accepts until destroyed.
class Listener {
 public:
  virtual ~Listener() = default;
  virtual const std::string& address() const = 0;  // with the port that was taken
};

// Thread-safe; the objects it makes belong to `loop`, and each call must be made on it.
class Network {
 public:
  virtual ~Network() = default;
  // Unavailable ("address in use"), PermissionDenied, InvalidArgument (bad address).
  virtual StatusOr<std::unique_ptr<Listener>> Listen(
      Loop& loop, const std::string& address,
      Callback<void(std::unique_ptr<Connection>)> on_accept) = 0;
  // Calls `done` on the loop: a connection, or Unavailable, DeadlineExceeded (10 s).
  virtual void Connect(Loop& loop, const std::string& address,
                       Callback<void(StatusOr<std::unique_ptr<Connection>>)> done) = 0;
};

// Sockets of the machine, over Loop::WatchFd. Lives for ever.
Network& PosixNetwork();

}  // namespace edge
