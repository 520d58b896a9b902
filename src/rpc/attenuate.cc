#include "edge/rpc/attenuate.h"

#include <algorithm>
#include <utility>

#include "edge/base/errors.h"

namespace edge::rpc {
namespace {

// What a lent stub and all that came from it share. Owners: their hooks.
struct Terms {
  Clock* clock = nullptr;
  int64_t ends_ns = INT64_MAX;
  bool has_budget = false;
  std::atomic<uint64_t> calls_left{0};
  std::shared_ptr<Revocation> revocation;

  Status Check() const {
    if (revocation != nullptr && revocation->revoked())
      return PermissionDenied("this stub was revoked");
    if (ends_ns != INT64_MAX && clock->monotonic_ns() >= ends_ns)
      return PermissionDenied("this stub has expired");
    return OkStatus();
  }
  bool TakeCall() {
    uint64_t left = calls_left.load(std::memory_order_relaxed);
    while (left != 0)
      if (calls_left.compare_exchange_weak(left, left - 1, std::memory_order_relaxed)) return true;
    return false;
  }
};

class LentHook : public Hook {
 public:
  LentHook(HookPtr inner, std::shared_ptr<Terms> terms, std::vector<std::string> methods,
           bool is_stream)
      : Hook(inner->home()),
        inner_(std::move(inner)),
        terms_(std::move(terms)),
        methods_(std::move(methods)),
        is_stream_(is_stream) {}

 protected:
  HookPtr DoCall(PathView path, Array args) override {
    if (Status status = Admit(path); !status.ok()) return FailedHook(std::move(status));
    return Lend(inner_->Call(path, std::move(args)));
  }
  HookPtr DoGet(PathView path) override {
    if (path.empty()) return Self();
    if (Status status = Admit(path); !status.ok()) return FailedHook(std::move(status));
    return Lend(inner_->Get(path));
  }
  void DoPull(Settled done) override {
    inner_->Pull([self = Self(), done = std::move(done)](StatusOr<Value> outcome) mutable {
      auto* lent = static_cast<LentHook*>(self.get());
      if (Status status = lent->terms_->Check(); !status.ok()) return done(std::move(status));
      // The object itself: still under our own list.
      if (StubRef* stub = outcome.ok() ? outcome->As<StubRef>() : nullptr) {
        if (stub->hook == lent->inner_) return done(Value(StubRef{self}));
        stub->hook = MakeHook<LentHook>(std::move(stub->hook), lent->terms_, lent->methods_, false);
        return done(std::move(outcome));
      }
      if (outcome.ok()) lent->LendAllIn(*outcome);
      done(std::move(outcome));
    });
  }
  void DoOnBroken(Callback<void(Status)> broken) override { inner_->OnBroken(std::move(broken)); }

 private:
  Status Admit(PathView path) {
    EDGE_RETURN_IF_ERROR(terms_->Check());
    const std::string_view name = path.empty() ? std::string_view() : path[0];
    if (!methods_.empty() && std::ranges::find(methods_, name) == methods_.end())
      return PermissionDenied("'{}' is not allowed by this stub", name);
    if (terms_->has_budget && !is_stream_ && !terms_->TakeCall())
      return ResourceExhausted("the budget of this stub is spent");
    return OkStatus();
  }

  HookPtr Lend(HookPtr hook, bool is_stream = false) const {
    return MakeHook<LentHook>(std::move(hook), terms_, std::vector<std::string>(), is_stream);
  }
  void LendAllIn(Value& value) const {
    if (Array* array = value.As<Array>()) {
      for (Value& item : *array) LendAllIn(item);
    } else if (Object* object = value.As<Object>()) {
      for (Member& member : object->members()) LendAllIn(member.value);
    } else if (StubRef* stub = value.As<StubRef>()) {
      stub->hook = Lend(std::move(stub->hook));
    } else if (PromiseRef* promise = value.As<PromiseRef>()) {
      promise->hook = Lend(std::move(promise->hook));
    } else if (ReadableRef* readable = value.As<ReadableRef>()) {
      readable->hook = Lend(std::move(readable->hook), true);
    } else if (WritableRef* writable = value.As<WritableRef>()) {
      writable->hook = Lend(std::move(writable->hook), true);
    } else if (Request* request = value.As<Request>()) {
      LendAllIn(request->body);
    } else if (Response* response = value.As<Response>()) {
      LendAllIn(response->body);
    }
  }

  const HookPtr inner_;
  const std::shared_ptr<Terms> terms_;
  const std::vector<std::string> methods_;
  const bool is_stream_;
};

}  // namespace

HookPtr AttenuateHook(HookPtr hook, Attenuation limits) {
  auto terms = std::make_shared<Terms>();
  Loop* const loop = hook->home() != nullptr ? hook->home() : Loop::Current();
  terms->clock = loop != nullptr ? &loop->clock() : &SystemClock();
  if (limits.lifetime_ms > 0)
    terms->ends_ns = terms->clock->monotonic_ns() + limits.lifetime_ms * 1'000'000;
  terms->has_budget = limits.calls_max > 0;
  terms->calls_left = limits.calls_max;
  terms->revocation = std::move(limits.revocation);
  return MakeHook<LentHook>(std::move(hook), std::move(terms), std::move(limits.methods), false);
}

}  // namespace edge::rpc
