#include "edge/rpc/service.h"

#include <algorithm>
#include <utility>

#include "edge/base/errors.h"
#include "edge/rpc/map.h"
#include "edge/rpc/web_socket.h"

namespace edge::rpc {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;
constexpr int64_t kFirstRetryMs = 50;

Status TooLate(int64_t deadline_ms) {
  return DeadlineExceeded("no answer within {} ms", deadline_ms);
}

// A promise whose outcome is awaited until a deadline. What is pipelined on it goes straight
// to the promise behind it.
class DeadlineHook final : public Hook {
 public:
  DeadlineHook(Loop& home, HookPtr inner, int64_t at_ns, int64_t deadline_ms)
      : Hook(&home), loop_(home), inner_(std::move(inner)), at_ns_(at_ns), ms_(deadline_ms) {}

 protected:
  HookPtr DoCall(PathView path, Array args) override {
    return Next(inner_->Call(path, std::move(args)));
  }
  HookPtr DoGet(PathView path) override { return Next(inner_->Get(path)); }
  HookPtr DoMap(PathView path, MapProgram program) override {
    return Next(inner_->Map(path, std::move(program)));
  }
  void DoOnBroken(Callback<void(Status)> broken) override { inner_->OnBroken(std::move(broken)); }
  void DoPull(Settled done) override {
    struct Race {  // owners: the timer and the answer
      Settled done;
      Loop::TimerId timer = 0;
    };
    auto race = std::make_shared<Race>();
    race->done = std::move(done);
    race->timer = loop_.At(at_ns_, [race, self = HookPtr(this), ms = ms_] {
      race->timer = 0;
      static_cast<DeadlineHook*>(self.get())->inner_ = FailedHook(TooLate(ms));
      if (auto late = std::exchange(race->done, nullptr)) late(TooLate(ms));
    });
    HookPtr(inner_)->Pull([race, &loop = loop_](StatusOr<Value> outcome) {
      if (race->timer != 0) loop.CancelTimer(std::exchange(race->timer, 0));
      if (auto in_time = std::exchange(race->done, nullptr)) in_time(std::move(outcome));
    });
  }

 private:
  HookPtr Next(HookPtr inner) {
    return MakeHook<DeadlineHook>(loop_, std::move(inner), at_ns_, ms_);
  }
  Loop& loop_;
  HookPtr inner_;
  const int64_t at_ns_;
  const int64_t ms_;
};

// Owners: the Service and the stubs that came from it.
class Core : public std::enable_shared_from_this<Core> {
 public:
  Core(Io& io, ServiceOptions options) : io_(&io), loop_(io.loop()), options_(std::move(options)) {}

  HookPtr Call(PathView path, Array args, bool is_get) {
    if (io_ == nullptr) return FailedHook(Closed());
    Pending pending = MakePromise(&loop_);
    auto call = std::make_shared<PendingCall>();
    call->path.assign(path.begin(), path.end());
    call->args = std::move(args);
    call->is_get = is_get;
    call->resolver = std::move(pending.resolver);
    if (!is_get && path.size() == 1 &&
        std::ranges::find(options_.idempotent, path[0]) != options_.idempotent.end())
      call->retries_left = options_.retries_max;
    call->may_repeat = call->retries_left > 0;
    if (options_.deadline_ms != 0) {
      call->deadline_ns = loop_.clock().monotonic_ns() + options_.deadline_ms * kNsPerMs;
      call->timer = loop_.At(call->deadline_ns, [this, self = shared_from_this(), call] {
        call->timer = 0;
        Settle(*call, TooLate(options_.deadline_ms));
      });
    }
    Start(call);
    return std::move(pending.promise);
  }

  // The Io may go after this.
  void Close() {
    io_ = nullptr;
    session_ = nullptr;
    for (const auto& call : std::exchange(waiting_, {})) Settle(*call, Closed());
  }
  bool connected() const { return session_ != nullptr && !session_->session().ended(); }

 private:
  struct PendingCall {
    Path path;
    Array args;
    bool is_get = false;
    bool may_repeat = false;
    int retries_left = 0;
    int64_t deadline_ns = 0;
    Loop::TimerId timer = 0;
    Resolver resolver;
  };
  using CallPtr = std::shared_ptr<PendingCall>;

  static Status Closed() { return Unavailable("the service was closed"); }

  void Settle(PendingCall& call, StatusOr<Value> outcome) {
    if (call.timer != 0) loop_.CancelTimer(std::exchange(call.timer, 0));
    if (call.resolver) std::exchange(call.resolver, {}).Settle(std::move(outcome));
  }

  void Start(const CallPtr& call) {
    if (!call->resolver) return;  // too late meanwhile
    if (io_ == nullptr) return Settle(*call, Closed());
    if (connected()) return Send(call);
    waiting_.push_back(call);
    if (!std::exchange(connecting_, true)) Connect();
  }

  void Connect() {
    WebSocketSession::Options options;
    options.limits = options_.limits;
    options.headers = options_.headers;
    options.tls = options_.tls;
    if (options_.deadline_ms != 0)
      options.connect_timeout_ms = std::min(options.connect_timeout_ms, options_.deadline_ms);
    if ((options_.trace.trace_id_high | options_.trace.trace_id_low) != 0)
      options.headers.emplace_back("traceparent", options_.trace.ToTraceparent());
    WebSocketSession::Connect(
        *io_, options_.url, std::move(options),
        [weak = weak_from_this()](StatusOr<std::unique_ptr<WebSocketSession>> session) {
          if (const auto self = weak.lock()) self->Connected(std::move(session));
        });
  }

  void Connected(StatusOr<std::unique_ptr<WebSocketSession>> session) {
    connecting_ = false;
    if (io_ == nullptr) return;
    if (session.ok()) session_ = std::move(*session);
    for (const CallPtr& call : std::exchange(waiting_, {})) {
      if (!session.ok()) {
        Failed(call, session.status());
      } else if (call->resolver) {
        Send(call);
      }
    }
  }

  void Send(const CallPtr& call) {
    const std::vector<std::string_view> path(call->path.begin(), call->path.end());
    const HookPtr main = session_->main().hook();
    if (!call->may_repeat) {
      HookPtr inner = call->is_get ? main->Get(path) : main->Call(path, std::move(call->args));
      if (call->timer != 0) {
        loop_.CancelTimer(std::exchange(call->timer, 0));
        inner = MakeHook<DeadlineHook>(loop_, std::move(inner), call->deadline_ns,
                                       options_.deadline_ms);
      }
      return std::exchange(call->resolver, {}).Follow(std::move(inner));
    }
    main->Call(path, call->args)->Pull([weak = weak_from_this(), call](StatusOr<Value> outcome) {
      const auto self = weak.lock();
      if (self == nullptr) return;
      if (outcome.ok()) return self->Settle(*call, std::move(outcome));
      self->Failed(call, outcome.status());
    });
  }

  void Failed(const CallPtr& call, const Status& status) {
    if (status.code() != StatusCode::kUnavailable || call->retries_left == 0 || io_ == nullptr)
      return Settle(*call, status);
    const int attempt = options_.retries_max - call->retries_left--;
    loop_.After((kFirstRetryMs << std::min(attempt, 10)) * kNsPerMs,
                [self = shared_from_this(), call] { self->Start(call); });
  }

  Io* io_;  // null once closed
  Loop& loop_;
  const ServiceOptions options_;
  std::unique_ptr<WebSocketSession> session_;
  std::vector<CallPtr> waiting_;  // for a connection
  bool connecting_ = false;
};

class MainHook final : public Hook {
 public:
  MainHook(Loop& home, std::shared_ptr<Core> core) : Hook(&home), core_(std::move(core)) {}

 protected:
  HookPtr DoCall(PathView path, Array args) override {
    return core_->Call(path, std::move(args), false);
  }
  HookPtr DoGet(PathView path) override { return core_->Call(path, {}, true); }
  void DoPull(Settled done) override { done(Value(StubRef{Self()})); }

 private:
  const std::shared_ptr<Core> core_;
};

class ServiceImpl final : public Service {
 public:
  ServiceImpl(Io& io, ServiceOptions options)
      : core_(std::make_shared<Core>(io, std::move(options))),
        main_(MakeHook<MainHook>(io.loop(), core_)) {}
  ~ServiceImpl() override { core_->Close(); }
  HookPtr main() const override { return main_; }
  bool connected() const override { return core_->connected(); }

 private:
  const std::shared_ptr<Core> core_;
  const HookPtr main_;
};

}  // namespace

std::unique_ptr<Service> Service::Create(Io& io, ServiceOptions options) {
  return std::make_unique<ServiceImpl>(io, std::move(options));
}

}  // namespace edge::rpc
