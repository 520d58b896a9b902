// Sockets of the machine over Loop::WatchFd: non-blocking, level-triggered.
//
// A handler may destroy the object that calls it. So handlers live in a Shared that the
// caller's frame holds on to, and after every call `owner` is looked at: null means gone.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <utility>

#include "edge/base/check.h"
#include "edge/base/errors.h"
#include "edge/base/network.h"

namespace edge {
namespace {

constexpr size_t kBufferBytesMax = size_t{16} << 20;
constexpr size_t kReadBytes = size_t{64} << 10;
constexpr int kReadsPerEvent = 4;  // then the loop's other work gets its turn
constexpr int kAcceptsPerEvent = 64;
constexpr int64_t kConnectTimeoutNs = 10'000'000'000;
constexpr int64_t kLingerNs = 1'000'000'000;  // for the peer to close its side too
constexpr int64_t kAcceptRetryNs = 100'000'000;

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

template <typename T>
T* As(SocketAddress& address) {
  address.size = sizeof(T);
  return reinterpret_cast<T*>(&address.storage);
}

StatusOr<SocketAddress> ParseAddress(const std::string& text) {
  SocketAddress address;
  if (text.starts_with("unix:")) {
    auto* local = As<sockaddr_un>(address);
    const std::string path = text.substr(5);
    if (path.empty() || path.size() >= sizeof local->sun_path) {
      return InvalidArgument("address '{}': a socket path has 1 to {} bytes", text,
                             sizeof local->sun_path - 1);
    }
    local->sun_family = AF_UNIX;
    std::memcpy(local->sun_path, path.c_str(), path.size() + 1);
    return address;
  }
  const size_t colon = text.rfind(':');
  uint16_t port = 0;
  const char* const end = text.data() + text.size();
  if (colon == std::string::npos || colon + 1 == text.size()) {
    return InvalidArgument("address '{}': no port", text);
  }
  const auto parsed = std::from_chars(text.data() + colon + 1, end, port);
  if (parsed.ec != std::errc() || parsed.ptr != end) {
    return InvalidArgument("address '{}': the port must be 0 to 65535", text);
  }
  std::string host = text.substr(0, colon);
  if (host == "localhost") host = "127.0.0.1";
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    auto* six = As<sockaddr_in6>(address);
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(port);
    if (inet_pton(AF_INET6, host.substr(1, host.size() - 2).c_str(), &six->sin6_addr) == 1) {
      return address;
    }
  } else {
    auto* four = As<sockaddr_in>(address);
    four->sin_family = AF_INET;
    four->sin_port = htons(port);
    if (inet_pton(AF_INET, host.c_str(), &four->sin_addr) == 1) return address;
  }
  return InvalidArgument("address '{}': want 127.0.0.1:7000, [::1]:7000 or unix:/path", text);
}

std::string AddressText(const SocketAddress& address) {
  char host[INET6_ADDRSTRLEN] = "?";
  switch (address.storage.ss_family) {
    case AF_INET: {
      const auto* four = reinterpret_cast<const sockaddr_in*>(&address.storage);
      inet_ntop(AF_INET, &four->sin_addr, host, sizeof host);
      return Format("{}:{}", {host, ntohs(four->sin_port)});
    }
    case AF_INET6: {
      const auto* six = reinterpret_cast<const sockaddr_in6*>(&address.storage);
      inet_ntop(AF_INET6, &six->sin6_addr, host, sizeof host);
      return Format("[{}]:{}", {host, ntohs(six->sin6_port)});
    }
    default: {
      const auto* local = reinterpret_cast<const sockaddr_un*>(&address.storage);
      return address.size > sizeof(sa_family_t) ? Format("unix:{}", {local->sun_path}) : "unix:";
    }
  }
}

// A descriptor that is closed with its owner.
class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

StatusOr<Fd> OpenSocket(const SocketAddress& address) {
  const int family = address.storage.ss_family;
  Fd fd(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (fd.get() < 0) return ErrnoStatus(errno, "open a socket");
  return fd;
}

void SendAtOnce(int fd) {  // fails on unix sockets, which do so anyway
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

class SocketConnection final : public Connection {
 public:
  SocketConnection(Loop& loop, Fd fd, std::string peer)
      : loop_(loop), fd_(std::move(fd)), peer_(std::move(peer)) {
    shared_->owner = this;
    SendAtOnce(fd_.get());
  }
  ~SocketConnection() override {
    shared_->owner = nullptr;
    Shut();
  }

  void Start(Handlers handlers) override {
    EDGE_CHECK(!started_);
    started_ = true;
    shared_->handlers = std::move(handlers);
    if (state_ == State::kFailed) return DeferClose();
    UpdateWatch();
  }

  Status Write(ByteView bytes) override {
    if (state_ != State::kOpen) return Unavailable("connection to {} is closed", peer_);
    if (bytes.size() > kBufferBytesMax - buffered_bytes()) {
      return ResourceExhausted("connection to {}: {} bytes are waiting, {} more would pass {}",
                               peer_, buffered_bytes(), bytes.size(), kBufferBytesMax);
    }
    if (bytes.empty()) return OkStatus();
    out_.insert(out_.end(), bytes.begin(), bytes.end());
    DeferFlush();
    return OkStatus();
  }

  size_t buffered_bytes() const override { return out_.size() - out_sent_; }

  void PauseReading(bool paused) override {
    if (paused_ == paused) return;
    paused_ = paused;
    UpdateWatch();
  }

  void Close() override {
    if (state_ != State::kOpen) return;
    state_ = State::kClosing;
    DeferFlush();  // from there, also if nothing waits: no callback inside this call
  }

  const std::string& peer_address() const override { return peer_; }

 private:
  enum class State : uint8_t {
    kOpen,
    kClosing,    // Close() was called, bytes are still to be sent
    kLingering,  // all sent, our side is shut; the peer's bytes are thrown away
    kFailed,     // on_close is to come
    kClosed
  };
  struct Shared {  // owners: the connection, and frames and tasks that may outlive it
    SocketConnection* owner;
    Handlers handlers;
  };

  void DeferFlush() {
    if (std::exchange(flush_waits_, true)) return;
    loop_.Defer([shared = shared_] {
      if (shared->owner == nullptr) return;
      shared->owner->flush_waits_ = false;
      shared->owner->Flush();
    });
  }

  // Sends what the socket takes; the rest when it is writable.
  void Flush() {
    if (state_ != State::kOpen && state_ != State::kClosing) return;
    const bool had_bytes = buffered_bytes() > 0;
    while (buffered_bytes() > 0) {
      const ssize_t sent = send(fd_.get(), out_.data() + out_sent_, buffered_bytes(), MSG_NOSIGNAL);
      if (sent < 0) {
        const int error = errno;
        if (error == EINTR) continue;
        if (error != EAGAIN) return Fail(ErrnoStatus(error, "send to " + peer_));
        break;
      }
      out_sent_ += static_cast<size_t>(sent);
    }
    if (buffered_bytes() == 0) {
      out_.clear();
      out_sent_ = 0;
      if (out_.capacity() > kReadBytes) out_.shrink_to_fit();
    } else if (out_sent_ > out_.size() / 2) {
      out_.erase(out_.begin(), out_.begin() + static_cast<ptrdiff_t>(out_sent_));
      out_sent_ = 0;
    }
    if (buffered_bytes() == 0 && state_ == State::kClosing) return Linger();
    UpdateWatch();
    if (buffered_bytes() == 0 && had_bytes && shared_->handlers.on_drained) {
      const auto shared = shared_;
      shared->handlers.on_drained();
    }
  }

  // Closing with unread bytes would send a reset, which may overtake what we sent last. So
  // our side is shut, and the socket stays until the peer shuts its own or time is up.
  void Linger() {
    state_ = State::kLingering;
    shutdown(fd_.get(), SHUT_WR);
    linger_timer_ = loop_.After(kLingerNs, [this] {
      linger_timer_ = 0;
      Fail(OkStatus());
    });
    UpdateWatch();
  }

  void UpdateWatch() {
    uint32_t events = 0;
    const bool reads = state_ == State::kLingering || (started_ && !paused_);
    if (reads && state_ != State::kFailed && state_ != State::kClosed) events |= EPOLLIN;
    if (buffered_bytes() > 0) events |= EPOLLOUT;
    if (state_ == State::kFailed || state_ == State::kClosed) events = 0;
    if (events == watched_events_) return;
    Status status;
    if (events == 0) {  // not watched with none: a hang-up would be told of without end
      loop_.UnwatchFd(fd_.get());
    } else if (watched_events_ == 0) {
      status = loop_.WatchFd(fd_.get(), events, [this](uint32_t ready) { OnReady(ready); });
    } else {
      status = loop_.ChangeFd(fd_.get(), events);
    }
    watched_events_ = status.ok() ? events : 0;
    if (!status.ok()) Fail(status);
  }

  void OnReady(uint32_t ready) {
    const auto shared = shared_;
    if ((ready & EPOLLOUT) != 0 || (watched_events_ & EPOLLIN) == 0) Flush();
    if (shared->owner == nullptr || (watched_events_ & EPOLLIN) == 0) return;
    if ((ready & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) Read();
  }

  void Read() {
    const auto shared = shared_;
    std::array<std::byte, kReadBytes> buffer;  // not cleared on purpose
    for (int i = 0; i < kReadsPerEvent; ++i) {
      const ssize_t got = recv(fd_.get(), buffer.data(), buffer.size(), 0);
      const int error = got < 0 ? errno : 0;
      if (error == EAGAIN || error == EINTR) return;
      if (error != 0) return Fail(ErrnoStatus(error, "receive from " + peer_));
      if (got == 0) return Fail(OkStatus());
      if (state_ == State::kOpen && shared->handlers.on_data) {
        shared->handlers.on_data({buffer.data(), static_cast<size_t>(got)});
        if (shared->owner == nullptr || paused_ || state_ != State::kOpen) return;
      }
      if (static_cast<size_t>(got) < buffer.size()) return;
    }
  }

  // The connection is over; tells so from the end of this turn.
  void Fail(Status status) {
    if (state_ == State::kFailed || state_ == State::kClosed) return;
    // After Close() was called, the end is what was wanted.
    failure_ = state_ == State::kLingering ? OkStatus() : std::move(status);
    state_ = State::kFailed;
    out_.clear();
    out_sent_ = 0;
    Shut();
    if (started_) DeferClose();
  }
  void DeferClose() {
    loop_.Defer([shared = shared_] {
      if (shared->owner == nullptr || shared->owner->state_ == State::kClosed) return;
      shared->owner->state_ = State::kClosed;
      const Status failure = std::move(shared->owner->failure_);
      if (shared->handlers.on_close) shared->handlers.on_close(failure);
    });
  }
  void Shut() {
    if (linger_timer_ != 0) loop_.CancelTimer(std::exchange(linger_timer_, 0));
    if (watched_events_ != 0) loop_.UnwatchFd(fd_.get());
    watched_events_ = 0;
    fd_ = Fd();
  }

  Loop& loop_;
  Fd fd_;
  const std::string peer_;
  const std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
  Bytes out_;
  size_t out_sent_ = 0;  // of out_
  uint32_t watched_events_ = 0;
  Loop::TimerId linger_timer_ = 0;
  State state_ = State::kOpen;
  Status failure_;
  bool started_ = false;
  bool paused_ = false;
  bool flush_waits_ = false;
};

class SocketListener final : public Listener {
 public:
  using OnAccept = Callback<void(std::unique_ptr<Connection>)>;
  SocketListener(Loop& loop, Fd fd, std::string address, OnAccept on_accept)
      : loop_(loop), fd_(std::move(fd)), address_(std::move(address)) {
    shared_->owner = this;
    shared_->on_accept = std::move(on_accept);
  }
  ~SocketListener() override {
    shared_->owner = nullptr;
    if (retry_timer_ != 0) loop_.CancelTimer(retry_timer_);
    loop_.UnwatchFd(fd_.get());
    if (address_.starts_with("unix:")) unlink(address_.c_str() + 5);
  }
  const std::string& address() const override { return address_; }

  Status Watch() {
    return loop_.WatchFd(fd_.get(), EPOLLIN, [this](uint32_t) { Accept(); });
  }

 private:
  struct Shared {  // owners: the listener, and a frame that calls out
    SocketListener* owner;
    OnAccept on_accept;
  };

  void Accept() {
    const auto shared = shared_;
    for (int i = 0; i < kAcceptsPerEvent; ++i) {
      SocketAddress peer;
      peer.size = sizeof peer.storage;
      Fd fd(accept4(fd_.get(), peer.get(), &peer.size, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (fd.get() < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) Rest();
        return;
      }
      shared->on_accept(
          std::make_unique<SocketConnection>(loop_, std::move(fd), AddressText(peer)));
      if (shared->owner == nullptr) return;
    }
  }
  // Out of descriptors: the event would come again at once and for ever.
  void Rest() {
    loop_.UnwatchFd(fd_.get());
    retry_timer_ = loop_.After(kAcceptRetryNs, [this] {
      retry_timer_ = 0;
      if (!Watch().ok()) Rest();
    });
  }

  Loop& loop_;
  const Fd fd_;
  const std::string address_;
  const std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
  Loop::TimerId retry_timer_ = 0;
};

// A socket file that no process listens on any more is in the way of a new one.
void RemoveStaleSocket(const SocketAddress& address) {
  const auto* local = reinterpret_cast<const sockaddr_un*>(&address.storage);
  struct stat info {};
  if (lstat(local->sun_path, &info) != 0 || !S_ISSOCK(info.st_mode)) return;
  const auto probe = OpenSocket(address);
  if (probe.ok() && connect(probe->get(), address.get(), address.size) != 0 &&
      errno == ECONNREFUSED) {
    unlink(local->sun_path);
  }
}

// A connection in the making. Owners: its watch and its timer.
struct Connecting {
  Loop& loop;
  Fd fd;
  std::string address;
  Callback<void(StatusOr<std::unique_ptr<Connection>>)> done;
  Loop::TimerId timer = 0;

  void Finish(Status status) {
    loop.UnwatchFd(fd.get());
    if (timer != 0) loop.CancelTimer(std::exchange(timer, 0));
    if (!status.ok()) return done(status);
    done(std::make_unique<SocketConnection>(loop, std::move(fd), address));
  }
};

class Sockets final : public Network {
 public:
  StatusOr<std::unique_ptr<Listener>> Listen(Loop& loop, const std::string& address,
                                             SocketListener::OnAccept on_accept) override {
    EDGE_ASSIGN_OR_RETURN(SocketAddress where, ParseAddress(address));
    EDGE_ASSIGN_OR_RETURN(Fd fd, OpenSocket(where));
    if (where.storage.ss_family == AF_UNIX) {
      RemoveStaleSocket(where);
    } else {
      const int on = 1;
      setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    }
    if (bind(fd.get(), where.get(), where.size) != 0 || listen(fd.get(), SOMAXCONN) != 0) {
      const int error = errno;
      if (error == EADDRINUSE) return Unavailable("listen on {}: address in use", address);
      return ErrnoStatus(error, "listen on " + address);
    }
    std::string taken = address;
    if (where.storage.ss_family != AF_UNIX) {
      where.size = sizeof where.storage;
      getsockname(fd.get(), where.get(), &where.size);
      taken = AddressText(where);
    }
    auto listener = std::make_unique<SocketListener>(loop, std::move(fd), std::move(taken),
                                                     std::move(on_accept));
    EDGE_RETURN_IF_ERROR(listener->Watch());
    return listener;
  }

  void Connect(Loop& loop, const std::string& address,
               Callback<void(StatusOr<std::unique_ptr<Connection>>)> done) override {
    auto state = std::make_shared<Connecting>(Connecting{loop, Fd(), address, std::move(done)});
    const Status begun = Begin(state);
    if (begun.ok()) return;
    loop.Defer([state, begun] { state->done(begun); });
  }

 private:
  static Status Begin(const std::shared_ptr<Connecting>& state) {
    EDGE_ASSIGN_OR_RETURN(const SocketAddress where, ParseAddress(state->address));
    EDGE_ASSIGN_OR_RETURN(state->fd, OpenSocket(where));
    if (connect(state->fd.get(), where.get(), where.size) != 0 && errno != EINPROGRESS) {
      const int error = errno;
      const Status failure = ErrnoStatus(error, "connect to " + state->address);
      // A path without a listener, and a unix listener with a full queue.
      if (error == ENOENT || error == EAGAIN) return Unavailable("{}", Message(failure));
      return failure;
    }
    EDGE_RETURN_IF_ERROR(state->loop.WatchFd(state->fd.get(), EPOLLOUT, [state](uint32_t) {
      int error = 0;
      socklen_t size = sizeof error;
      getsockopt(state->fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
      state->Finish(error == 0 ? OkStatus() : ErrnoStatus(error, "connect to " + state->address));
    }));
    state->timer = state->loop.After(kConnectTimeoutNs, [state] {
      state->timer = 0;
      state->Finish(DeadlineExceeded("connect to {}: no answer in {} s", state->address,
                                     kConnectTimeoutNs / 1'000'000'000));
    });
    return OkStatus();
  }
};

}  // namespace

Network& PosixNetwork() {
  static Sockets sockets;
  return sockets;
}

}  // namespace edge
