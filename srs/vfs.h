// srs/vfs.h - the SQLite VFS: the main file is an Image, its WAL a WalBuffer.
//
// A commit is captured where SQLite itself considers it done: at the file control
// COMMIT_PHASETWO, after the frames and the index of the log. (The commit frame alone does
// not say so, SQLite can still fail behind it; and the wal hook comes late for a statement
// that returns rows.) Locks, shared memory and syncs do not exist here.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "edge/base/callback.h"
#include "edge/base/mutex.h"
#include "edge/base/status.h"
#include "srs/image.h"

struct sqlite3_vfs;

namespace edge::srs {

// One database as the VFS sees it. Owners: its Database and SQLite's open files.
class VfsDatabase {
 public:
  virtual ~VfsDatabase() = default;
  virtual Image& image() = 0;
  // Not OK: every write fails.
  virtual Status writable() const = 0;
  // Frames [first, last] of the log are the next commit. False fails SQLite's COMMIT.
  virtual bool OnCommit(uint32_t first, uint32_t last, uint32_t pages) = 0;
  virtual void OnError(const Status& status) = 0;  // an I/O error that SQLite will report
  virtual bool is_setting_up() const = 0;          // our own pragmas may pass
  // A pragma of ours: its answer; nothing for those of SQLite.
  virtual StatusOr<std::optional<std::string>> OnPragma(std::string_view name) = 0;
  // Of a connection that was opened by name alone: its checkpoints are SQLite's own. The log
  // begins again; its file was closed.
  virtual void OnLogRestart() = 0;
  virtual void OnVfsClose() = 0;
};

// Registered with SQLite under a name of its own while it lives. Thread-safe.
class Vfs {
 public:
  Vfs();
  ~Vfs();
  Vfs(const Vfs&) = delete;
  Vfs& operator=(const Vfs&) = delete;
  const std::string& name() const { return name_; }
  // While announced, sqlite3_open_v2(name) opens `database`.
  void Announce(const std::string& name, std::shared_ptr<VfsDatabase> database);
  void Withdraw(const std::string& name);
  // How a name is opened that was not announced. Set it before there are connections.
  enum class Create : uint8_t { kNo, kYes };
  using Opener = Callback<StatusOr<std::shared_ptr<VfsDatabase>>(const std::string&, Create)>;
  void SetOpener(Opener opener) { opener_ = std::move(opener); }

 private:
  friend struct VfsCalls;
  std::shared_ptr<VfsDatabase> Announced(const std::string& name);  // null: not announced
  std::string name_;
  std::unique_ptr<sqlite3_vfs> vfs_;
  Opener opener_;
  Mutex mu_;
  std::unordered_map<std::string, std::shared_ptr<VfsDatabase>> announced_ ABSL_GUARDED_BY(mu_);
};

}  // namespace edge::srs
