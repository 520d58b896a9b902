#include "edge/srs/relay.h"

#include "tests/srs/srs_test_util.h"

namespace edge::srs {
namespace {

TEST_CASE("a committed row is there after closing and opening again", "[srs]") {
  TempFolder folder;
  std::string bookmark;
  {
    auto relay = Relay::Open({.directory = folder / "data"}).value();
    auto db = relay->OpenDatabase("orders").value();
    CHECK(db->lsn() == 0);
    MustRun(db->handle(), "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT)");
    MustRun(db->handle(), "INSERT INTO t VALUES(1,'one')");
    CHECK(db->lsn() == 2);
    CHECK(db->WaitDurable().ok());
    CHECK(db->durable_lsn() == 2);
    bookmark = db->GetCurrentBookmark();
    CHECK(Ask(db->handle(), "PRAGMA journal_mode") == "wal");
    CHECK(Ask(db->handle(), "PRAGMA integrity_check") == "ok");
  }
  auto relay = Relay::Open({.directory = folder / "data"}).value();
  auto db = relay->OpenDatabase("orders").value();
  CHECK(db->lsn() == 2);
  CHECK(db->GetCurrentBookmark() == bookmark);
  CHECK(Ask(db->handle(), "SELECT * FROM t") == "1|one");
}

}  // namespace
}  // namespace edge::srs
