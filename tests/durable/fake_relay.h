// A relay whose durability is in the test's hands: databases in memory, an image kept of each
// commit, and commits that become durable, or are lost, when the test says so.
#pragma once
#include <sqlite3.h>

#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "edge/base/check.h"
#include "edge/base/errors.h"
#include "edge/base/mutex.h"
#include "edge/srs/relay.h"
#include "edge/srs/store_reader.h"

namespace edge::durable::testing {

class FakeRelay : public srs::Relay {
 public:
  // Commits are durable at once until this is called.
  void HoldCommits() {
    const MutexLock lock(&mu_);
    holding_ = true;
  }
  void HoldNoCommits() {
    {
      const MutexLock lock(&mu_);
      holding_ = false;
    }
    MakeDurable();
  }
  // All commits so far are durable; those who wait are told.
  void MakeDurable() { Settle(OkStatus(), ""); }
  // All commits that are not durable are lost.
  void LoseCommits(Status why) { Settle(std::move(why), ""); }
  // The same for one database.
  void MakeDurable(std::string_view name) { Settle(OkStatus(), name); }
  void LoseCommits(Status why, std::string_view name) { Settle(std::move(why), name); }
  // Blocks until `count` OnDurable calls wait.
  void AwaitWaiting(size_t count) {
    const MutexLock lock(&mu_);
    while (CountWaiting() < count) changed_.Wait(&mu_);
  }
  // Opening any database fails with this from now on; OK: no more.
  void FailOpens(Status status) {
    const MutexLock lock(&mu_);
    open_error_ = std::move(status);
  }
  size_t open_count() {
    const MutexLock lock(&mu_);
    size_t count = 0;
    for (auto& [name, state] : states_) count += state->open ? 1 : 0;
    return count;
  }

  StatusOr<std::unique_ptr<srs::Database>> OpenDatabase(const std::string& name) override {
    const MutexLock lock(&mu_);
    EDGE_RETURN_IF_ERROR(open_error_);
    auto& state = states_[name];
    if (state == nullptr) state = std::make_shared<State>();
    if (state->open) return FailedPrecondition("{} is open already", name);
    state->open = true;
    state->lost = OkStatus();
    state->images.erase(state->images.upper_bound(state->durable), state->images.end());
    state->committed = state->durable;
    return std::make_unique<FakeDatabase>(*this, name, state);
  }
  StatusOr<bool> DatabaseExists(const std::string& name) override {
    const MutexLock lock(&mu_);
    return states_.contains(name);
  }
  StatusOr<std::vector<std::string>> ListDatabases() override { return Unimplemented("fake"); }
  Status DeleteDatabase(const std::string&) override { return Unimplemented("fake"); }
  StatusOr<srs::RestoreReport> Restore(const std::string& name, const srs::RestoreTarget& target,
                                       std::string* undo) override {
    const MutexLock lock(&mu_);
    auto& state = *states_.at(name);
    if (state.open) return FailedPrecondition("{} is open", name);
    std::optional<srs::Lsn> found;
    for (const auto& [lsn, image] : state.images) {
      if (BookmarkOf(lsn) == target.bookmark) found = lsn;
    }
    if (!found) return NotFound("no such bookmark: {}", target.bookmark);
    if (undo != nullptr) *undo = BookmarkOf(state.durable);
    const srs::Lsn next = state.images.rbegin()->first + 1;
    state.images[next] = state.images.at(*found);
    state.committed = state.durable = next;
    return srs::RestoreReport{.lsn = next};
  }
  StatusOr<srs::RestoreReport> Export(const std::string&, const srs::RestoreTarget&,
                                      const std::string&) override {
    return Unimplemented("fake");
  }
  StatusOr<std::string> GetBookmarkForTime(const std::string&, int64_t) override {
    return Unimplemented("fake");
  }
  Status Flush() override { return OkStatus(); }
  const std::string& vfs_name() const override { return vfs_name_; }
  StatusOr<std::unique_ptr<srs::ReadOnlyDatabase>> OpenReadOnly(
      const std::string&, const srs::RestoreTarget&) override {
    return Unimplemented("fake");
  }
  Status Fork(const std::string&, const srs::RestoreTarget&, const std::string&) override {
    return Unimplemented("fake");
  }
  StatusOr<std::string> RestoreAtNextOpen(const std::string&, const std::string&) override {
    return Unimplemented("fake");
  }
  uint64_t epoch() const override { return 1; }
  Status health() const override { return OkStatus(); }
  void OnReadable(srs::ReadMode, Callback<void(Status)> done) override { done(OkStatus()); }
  Status WaitReadable(srs::ReadMode) override { return OkStatus(); }
  bool RunBackgroundStep() override { return false; }

 private:
  struct Waiter {
    srs::Lsn lsn;
    Callback<void(Status)> done;
  };
  struct State {
    bool open = false;
    srs::Lsn committed = 0;
    srs::Lsn durable = 0;
    Status lost;
    std::map<srs::Lsn, Bytes> images{{0, {}}};
    std::vector<Waiter> waiting;
  };

  class FakeDatabase : public srs::Database {
   public:
    FakeDatabase(FakeRelay& relay, std::string name, std::shared_ptr<State> state)
        : relay_(relay), name_(std::move(name)), state_(std::move(state)) {
      EDGE_CHECK(sqlite3_open(":memory:", &db_) == SQLITE_OK);
      const Bytes& image = state_->images.at(state_->durable);
      if (!image.empty()) {
        auto* copy = static_cast<unsigned char*>(sqlite3_malloc64(image.size()));
        std::memcpy(copy, image.data(), image.size());
        const auto size = static_cast<sqlite3_int64>(image.size());
        EDGE_CHECK(sqlite3_deserialize(db_, "main", copy, size, size,
                                       SQLITE_DESERIALIZE_FREEONCLOSE |
                                           SQLITE_DESERIALIZE_RESIZEABLE) == SQLITE_OK);
      }
      sqlite3_commit_hook(
          db_,
          [](void* self) {
            ++static_cast<FakeDatabase*>(self)->unseen_;
            return 0;
          },
          this);
    }
    ~FakeDatabase() override {
      (void)lsn();  // takes the image
      EDGE_CHECK(sqlite3_close(db_) == SQLITE_OK);
      const MutexLock lock(&relay_.mu_);
      state_->open = false;
    }
    const std::string& name() const override { return name_; }
    sqlite3* handle() override { return db_; }
    srs::Lsn lsn() const override {
      if (unseen_ > 0) {
        Bytes image = Image();
        const MutexLock lock(&relay_.mu_);
        state_->committed += std::exchange(unseen_, 0);
        state_->images[state_->committed] = std::move(image);
        if (!relay_.holding_) state_->durable = state_->committed;
      }
      const MutexLock lock(&relay_.mu_);
      return state_->committed;
    }
    srs::Durability durability() const override { return srs::Durability::kLocal; }
    Status SetDurability(srs::Durability) override { return Unimplemented("fake"); }
    srs::Lsn durable_lsn(srs::Durability) const override {
      const MutexLock lock(&relay_.mu_);
      return state_->durable;
    }
    Status WaitDurable(srs::Lsn, srs::Durability) override { return Unimplemented("fake"); }
    void OnDurable(srs::Lsn lsn, srs::Durability, Callback<void(Status)> done) override {
      Status status;
      {
        const MutexLock lock(&relay_.mu_);
        status = state_->lost;
        if (status.ok() && state_->durable < lsn) {
          state_->waiting.push_back({lsn, std::move(done)});
          relay_.changed_.SignalAll();
          return;
        }
      }
      done(status);
    }
    Status health() const override {
      const MutexLock lock(&relay_.mu_);
      return state_->lost;
    }
    std::string GetCurrentBookmark() override { return BookmarkOf(lsn()); }

   private:
    // By way of a copy: serializing runs a pragma, which the object's rules refuse.
    Bytes Image() const {
      sqlite3* copy = nullptr;
      EDGE_CHECK(sqlite3_open(":memory:", &copy) == SQLITE_OK);
      sqlite3_backup* backup = sqlite3_backup_init(copy, "main", db_, "main");
      EDGE_CHECK(sqlite3_backup_step(backup, -1) == SQLITE_DONE);
      sqlite3_backup_finish(backup);
      sqlite3_int64 size = 0;
      unsigned char* serialized = sqlite3_serialize(copy, "main", &size, 0);
      const auto* bytes = reinterpret_cast<const std::byte*>(serialized);
      Bytes image(bytes, bytes + size);
      sqlite3_free(serialized);
      sqlite3_close(copy);
      return image;
    }

    FakeRelay& relay_;
    const std::string name_;
    const std::shared_ptr<State> state_;  // owners: the relay and this
    sqlite3* db_ = nullptr;
    mutable srs::Lsn unseen_ = 0;
  };

  static std::string BookmarkOf(srs::Lsn lsn) { return Format("{:08x}", {lsn}); }

  size_t CountWaiting() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    size_t count = 0;
    for (auto& [name, state] : states_) count += state->waiting.size();
    return count;
  }
  void Settle(Status status, std::string_view only) {
    std::vector<Waiter> waiting;
    {
      const MutexLock lock(&mu_);
      for (auto& [name, state] : states_) {
        if (!only.empty() && name != only) continue;
        if (status.ok()) {
          state->durable = state->committed;
        } else if (state->durable < state->committed) {
          state->lost = status;
          state->committed = state->durable;
          state->images.erase(state->images.upper_bound(state->durable), state->images.end());
        }
        for (Waiter& waiter : state->waiting) waiting.push_back(std::move(waiter));
        state->waiting.clear();
      }
    }
    for (Waiter& waiter : waiting) waiter.done(status);
  }

  const std::string vfs_name_ = "fake";
  Mutex mu_;
  CondVar changed_;
  bool holding_ ABSL_GUARDED_BY(mu_) = false;
  Status open_error_ ABSL_GUARDED_BY(mu_);
  // The states' contents are guarded too.
  std::map<std::string, std::shared_ptr<State>> states_ ABSL_GUARDED_BY(mu_);
};

}  // namespace edge::durable::testing
