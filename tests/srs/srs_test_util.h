// tests/srs/srs_test_util.h - what the tests of srs share.
#pragma once
#include <sqlite3.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "edge/base/status.h"

namespace edge::srs {

// A folder of its own, gone with the object.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "edge-srs-XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  TempFolder(const TempFolder&) = delete;
  std::string operator/(const std::string& part) const { return path_ + "/" + part; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The SQLite result code.
inline int Run(sqlite3* db, const std::string& sql) {
  return sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr);
}
inline void MustRun(sqlite3* db, const std::string& sql) {
  INFO(sql);
  const int code = Run(db, sql);
  INFO(sqlite3_errmsg(db));
  REQUIRE(code == SQLITE_OK);
}
// All values of all rows, '|' between columns and a line per row.
inline std::string Ask(sqlite3* db, const std::string& sql) {
  std::string answer;
  sqlite3_stmt* statement = nullptr;
  if (sqlite3_prepare_v2(db, sql.c_str(), -1, &statement, nullptr) != SQLITE_OK) {
    return std::string("error: ") + sqlite3_errmsg(db);
  }
  int code;
  while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
    if (!answer.empty()) answer += '\n';
    for (int i = 0; i < sqlite3_column_count(statement); ++i) {
      const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement, i));
      if (i > 0) answer += '|';
      answer += text != nullptr ? text : "NULL";
    }
  }
  if (code != SQLITE_DONE) answer = std::string("error: ") + sqlite3_errmsg(db);
  sqlite3_finalize(statement);
  return answer;
}

}  // namespace edge::srs
