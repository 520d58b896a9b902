// Sessions of a web site: written at each login, read at each request, gone after an hour,
// and still there after a restart. The token is the key; who holds it is in the value.
#include <stdlib.h>

#include <cstdio>
#include <filesystem>
#include <string>

#include "edge/base/random.h"
#include "edge/kv/namespace.h"
#include "edge/kv/sqlite_origin.h"

namespace kv = edge::kv;

namespace {

class Sessions {
 public:
  explicit Sessions(kv::Namespace store) : store_(std::move(store)) {}

  edge::StatusOr<std::string> Login(std::string_view user) {
    edge::Bytes secret(16);
    edge::SystemRandom().Fill(secret);
    std::string token = "session:" + edge::ToHex(secret);
    const std::string metadata = R"({"device":"laptop"})";
    EDGE_RETURN_IF_ERROR(store_.Put(token, user, {.expiration_ttl_s = 3600, .metadata = metadata}));
    return token;
  }
  // Who it is; nobody if the session has ended. A token that was never given is asked for
  // once: that it is absent is kept as well.
  edge::StatusOr<std::optional<std::string>> Check(std::string_view token) {
    return store_.Get(token);
  }
  edge::Status Logout(std::string_view token) { return store_.Delete(token); }
  edge::StatusOr<size_t> Count() {
    EDGE_ASSIGN_OR_RETURN(const kv::ListPage page, store_.List({.prefix = "session:"}));
    return page.keys.size();
  }
  kv::Stats stats() const { return store_.stats(); }

 private:
  kv::Namespace store_;
};

edge::StatusOr<Sessions> OpenSessions(const std::string& folder) {
  EDGE_ASSIGN_OR_RETURN(auto origin, kv::SqliteOrigin::Open(folder + "/sessions.db"));
  EDGE_ASSIGN_OR_RETURN(
      kv::Namespace store,
      kv::Namespace::Open(std::move(origin), {.disk_directory = folder + "/cache"}));
  return Sessions(std::move(store));
}

edge::Status Run(const std::string& folder) {
  std::string ada;
  {
    EDGE_ASSIGN_OR_RETURN(Sessions sessions, OpenSessions(folder));
    EDGE_ASSIGN_OR_RETURN(ada, sessions.Login("ada"));
    EDGE_ASSIGN_OR_RETURN(const std::string bob, sessions.Login("bob"));
    for (int request = 0; request < 1000; ++request) {
      EDGE_ASSIGN_OR_RETURN(const auto user, sessions.Check(ada));
      if (user != "ada") return edge::Status(edge::StatusCode::kInternal, "who is this?");
    }
    EDGE_RETURN_IF_ERROR(sessions.Logout(bob));
    EDGE_ASSIGN_OR_RETURN(const auto gone, sessions.Check(bob));
    if (gone || sessions.stats().origin_reads != 0) {
      return edge::Status(edge::StatusCode::kInternal, "bob is still there");
    }
  }
  EDGE_ASSIGN_OR_RETURN(Sessions sessions, OpenSessions(folder));
  EDGE_ASSIGN_OR_RETURN(const auto user, sessions.Check(ada));
  EDGE_ASSIGN_OR_RETURN(const size_t count, sessions.Count());
  if (user != "ada" || count != 1 || sessions.stats().disk.hits != 1) {
    return edge::Status(edge::StatusCode::kInternal, "the session did not survive");
  }
  std::printf(
      "1000 requests asked the database nothing; after a restart the session came from the disk\n"
      "tier, and the one that was logged out stayed out.\n");
  return edge::OkStatus();
}

}  // namespace

int main() {
  std::string folder = (std::filesystem::temp_directory_path() / "edge-sessions-XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) return 1;
  const edge::Status status = Run(folder);
  std::filesystem::remove_all(folder);
  if (!status.ok()) std::printf("%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
