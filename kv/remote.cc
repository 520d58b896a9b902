#include "edge/kv/remote.h"

#include <utility>

#include "edge/base/errors.h"
#include "edge/base/mutex.h"
#include "edge/base/task.h"
#include "edge/rpc/target.h"

namespace edge::kv {
namespace {

struct WireEntry {
  Bytes value;
  std::string metadata;
  int64_t expiration_s = 0;
  uint64_t version = 0;
  using Fields = rpc::Fields<&WireEntry::value, &WireEntry::metadata, &WireEntry::expiration_s,
                             &WireEntry::version>;
};

struct WireKey {
  std::string name;
  int64_t expiration_s = 0;
  std::string metadata;
  using Fields = rpc::Fields<&WireKey::name, &WireKey::expiration_s, &WireKey::metadata>;
};

struct WirePage {
  std::vector<WireKey> keys;
  bool complete = true;
  using Fields = rpc::Fields<&WirePage::keys, &WirePage::complete>;
};

using Entries = std::vector<std::optional<WireEntry>>;
using ChangeStub = rpc::Stub<void(std::string, uint64_t)>;

WireEntry ToWire(Entry entry) {
  return {ToBytes(entry.value), std::move(entry.metadata), entry.expiration_s, entry.version};
}
Entry FromWire(WireEntry entry) {
  return {std::string(AsText(entry.value)), std::move(entry.metadata), entry.expiration_s,
          entry.version};
}

// Waits, in a task on `loop`, for an answer that may come on any thread.
template <typename T, typename Start>
Deferred<StatusOr<T>> Ask(Loop* loop, Start start) {
  Deferred<StatusOr<T>> answer;
  start([loop, answer](StatusOr<T> result) mutable {
    if (loop->IsCurrent()) return answer.Set(std::move(result));
    loop->PostUrgent(
        [answer, result = std::move(result)]() mutable { answer.Set(std::move(result)); });
  });
  return answer;
}

class TierTarget final : public rpc::Target {
 public:
  TierTarget(std::shared_ptr<Origin> origin, Loop& loop)
      : origin_(std::move(origin)), loop_(&loop) {}

  Task<StatusOr<Entries>> Fetch(std::vector<std::string> keys) {
    auto answer = Ask<std::vector<std::optional<Entry>>>(loop_, [&](Origin::GetManyDone done) {
      origin_->StartGetMany(std::move(keys), std::move(done));
    });
    auto found = co_await answer;
    if (!found.ok()) co_return found.status();
    Entries entries;
    for (std::optional<Entry>& entry : *found) {
      entries.emplace_back();
      if (entry) entries.back() = ToWire(*std::move(entry));
    }
    co_return entries;
  }
  Task<StatusOr<uint64_t>> Put(std::string key, WireEntry entry) {
    auto answer = Ask<Version>(loop_, [&](Origin::WriteDone done) {
      origin_->StartPut(std::move(key), FromWire(std::move(entry)), std::move(done));
    });
    co_return co_await answer;
  }
  Task<StatusOr<uint64_t>> Remove(std::string key, uint64_t version) {
    auto answer = Ask<Version>(loop_, [&](Origin::WriteDone done) {
      origin_->StartDelete(std::move(key), version, std::move(done));
    });
    co_return co_await answer;
  }
  Task<StatusOr<WirePage>> List(std::string prefix, std::optional<std::string> after,
                                uint64_t count_max, int64_t now_s) {
    OriginListQuery query{std::move(prefix), std::move(after),
                          static_cast<size_t>(std::clamp<uint64_t>(count_max, 1, 1000)), now_s};
    auto answer = Ask<OriginListPage>(loop_, [&](Origin::ListDone done) {
      origin_->StartList(std::move(query), std::move(done));
    });
    auto found = co_await answer;
    if (!found.ok()) co_return found.status();
    WirePage page;
    page.complete = found->complete;
    for (ListedKey& key : found->keys) {
      page.keys.push_back({std::move(key.name), key.expiration_s, std::move(key.metadata)});
    }
    co_return page;
  }
  // One watcher for each session: a second one takes its place.
  Status Watch(ChangeStub on_change) {
    EDGE_ASSIGN_OR_RETURN(subscription_, origin_->Watch([loop = loop_, on_change](
                                                            std::string_view key, Version version) {
      loop->PostUrgent(
          [on_change, owned = std::string(key), version] { on_change(owned, version).Ignore(); });
    }));
    return OkStatus();
  }

  using Rpc = rpc::Methods<&TierTarget::Fetch, &TierTarget::Put, &TierTarget::Remove,
                           &TierTarget::List, &TierTarget::Watch>;

 private:
  std::shared_ptr<Origin> origin_;
  Loop* loop_;
  std::unique_ptr<Subscription> subscription_;
};

class Remote final : public RemoteOrigin, public std::enable_shared_from_this<Remote> {
 public:
  Remote(Loop& loop, const RemoteOriginOptions& options) : loop_(&loop), options_(options) {}

  void SetPeer(rpc::AnyStub peer) override {
    peer_ = std::move(peer);
    watchers_.Notify("", 0);  // changes of the time in between are not told again
    if (!peer_) return;
    const std::weak_ptr<Remote> weak = weak_from_this();
    peer_
        .Call<void>("watch", ChangeStub([weak](const std::string& key, uint64_t version) {
                      if (const auto self = weak.lock()) self->watchers_.Notify(key, version);
                    }))
        .Then([weak](const Status& status) {
          // Who cannot be watched is believed for as long as its answers are fresh.
          status.IgnoreError();
          if (const auto self = weak.lock()) self->watchers_.Notify("", 0);
        });
  }

  void StartGetMany(std::vector<std::string> keys, GetManyDone done) override {
    Start<Entries>(
        [keys = std::move(keys)](rpc::AnyStub& peer) { return peer.Call<Entries>("fetch", keys); },
        [done = std::move(done)](StatusOr<Entries> answer) mutable {
          if (!answer.ok()) return done(answer.status());
          std::vector<std::optional<Entry>> entries;
          for (std::optional<WireEntry>& entry : *answer) {
            entries.emplace_back();
            if (entry) entries.back() = FromWire(*std::move(entry));
          }
          done(std::move(entries));
        });
  }
  void StartPut(std::string key, Entry entry, WriteDone done) override {
    Start<uint64_t>([key = std::move(key), entry = ToWire(std::move(entry))](
                        rpc::AnyStub& peer) { return peer.Call<uint64_t>("put", key, entry); },
                    std::move(done));
  }
  void StartDelete(std::string key, Version version, WriteDone done) override {
    Start<uint64_t>([key = std::move(key), version](
                        rpc::AnyStub& peer) { return peer.Call<uint64_t>("remove", key, version); },
                    std::move(done));
  }
  void StartList(OriginListQuery query, ListDone done) override {
    Start<WirePage>(
        [query = std::move(query)](rpc::AnyStub& peer) {
          return peer.Call<WirePage>("list", query.prefix, query.after,
                                     static_cast<uint64_t>(query.count_max), query.now_s);
        },
        [done = std::move(done)](StatusOr<WirePage> answer) mutable {
          if (!answer.ok()) return done(answer.status());
          OriginListPage page;
          page.complete = answer->complete;
          for (WireKey& key : answer->keys) {
            page.keys.push_back({std::move(key.name), key.expiration_s, std::move(key.metadata)});
          }
          done(std::move(page));
        });
  }
  StatusOr<std::unique_ptr<Subscription>> Watch(OnChange on_change) override {
    return watchers_.Add(std::move(on_change));
  }

 private:
  // Makes the call on the loop; `done` gets its answer, or the end of its time.
  template <typename T, typename MakeCall, typename Done>
  void Start(MakeCall make, Done done) {
    struct Call {
      explicit Call(Done d) : done(std::move(d)) {}
      Done done;
      bool settled = false;
      Loop::TimerId timer = 0;
    };
    const auto call = std::make_shared<Call>(std::move(done));  // owners: timer and answer
    auto run = [self = shared_from_this(), make = std::move(make), call]() mutable {
      if (!self->peer_) return call->done(Unavailable("kv: the tier behind is not connected"));
      Loop* loop = self->loop_;
      const int64_t timeout_ms = self->options_.call_timeout_ms;
      call->timer = loop->After(timeout_ms * 1'000'000, [call, timeout_ms] {
        if (std::exchange(call->settled, true)) return;
        call->done(DeadlineExceeded("kv: the tier behind gave no answer in {} ms", timeout_ms));
      });
      make(self->peer_).Then([call, loop](StatusOr<T> answer) {
        if (std::exchange(call->settled, true)) return;
        loop->CancelTimer(call->timer);
        call->done(std::move(answer));
      });
    };
    if (loop_->IsCurrent()) return run();
    loop_->PostUrgent(std::move(run));
  }

  Loop* loop_;
  const RemoteOriginOptions options_;
  rpc::AnyStub peer_;  // the loop's
  Watchers watchers_;
};

}  // namespace

rpc::HookPtr ServeTier(std::shared_ptr<Origin> origin, Loop& loop) {
  return rpc::Stub<TierTarget>(std::make_shared<TierTarget>(std::move(origin), loop)).hook();
}

std::shared_ptr<RemoteOrigin> RemoteOrigin::Create(Loop& loop, const RemoteOriginOptions& options) {
  return std::make_shared<Remote>(loop, options);
}

}  // namespace edge::kv
