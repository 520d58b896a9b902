// edge-srs - looks into an object store: lists, restores, verifies, follows, cleans up.
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "edge/base/errors.h"
#include "edge/srs/s3_store.h"
#include "edge/srs/store_reader.h"

namespace {

using edge::Format;
using edge::Status;
using edge::StatusOr;
using edge::srs::RestoreReport;
using edge::srs::RestoreTarget;
using edge::srs::StoredDatabase;
using edge::srs::StoreReader;

constexpr char kUsage[] =
    R"(edge-srs COMMAND STORE [NAME] [options] - what a storage relay has put into a store

Commands:
  ls STORE              its databases
  info STORE NAME       one of them: commits, sizes, from when to when it can be restored
  restore STORE NAME -o FILE [--at TIME | --bookmark B]
                        writes it as a plain SQLite file; with --litestream, -o is a folder
                        and 'litestream restore -o DB file://FOLDER' (0.5) brings it back
  verify STORE [NAME]   reads everything and compares every hash; all databases without NAME
  follow STORE NAME -o FILE [--interval SECONDS] [--once]
                        keeps FILE at the newest commit in the store, replaced as a whole
  gc STORE [--dry-run] [--retention-days N] [--grace-hours N]
                        marks packs that nothing within the retention (30 days) needs, and
                        deletes those marked at least the grace period (24 hours) ago, after
                        restoring the oldest retained point from what would be left
  bench STORE NAME      how fast it opens, answers its first query and restores

STORE is s3://bucket/prefix[?region=R&endpoint=URL] or a folder. Without NAME, what follows
its last '/' is the name. S3 takes AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_SESSION_TOKEN, AWS_REGION and AWS_ENDPOINT_URL from the environment.

Options:
  -o, --output FILE     where to
  --at TIME             UTC, such as 2026-11-20T10:00:00Z, or milliseconds since 1970
  --bookmark BOOKMARK   exactly that commit
  --litestream          restore: in Litestream's layout
  --scratch FILE        for verify and gc, a temporary database; default in TMPDIR or /tmp
  --json                one line of JSON per result on standard output
  --quiet               no progress on standard error
  --help

Ends with 0, 1 if it failed, 2 for wrong arguments.
)";

struct Options {
  std::string command, store, name, output, bookmark, scratch;
  int64_t at_ms = 0;
  double interval_s = 10;
  double retention_days = 30;
  double grace_hours = 24;
  bool litestream = false, json = false, quiet = false, dry_run = false, once = false;
};

volatile std::sig_atomic_t g_stop = 0;

// --- Output ---

// One result: a line of JSON, or lines of "name  value" for people.
class Fields {
 public:
  Fields& Add(std::string_view name, std::string_view value) {
    return Put(name, Quoted(value), std::string(value));
  }
  Fields& Add(std::string_view name, uint64_t value) {
    return Put(name, std::to_string(value), std::to_string(value));
  }
  Fields& Add(std::string_view name, double value) {
    return Put(name, Format("{:.3f}", {value}), Format("{:.3f}", {value}));
  }
  Fields& AddBytes(std::string_view name, uint64_t value) {
    return Put(name, std::to_string(value), HumanBytes(value));
  }
  Fields& AddTime(std::string_view name, int64_t wall_ms) {
    return Put(name, wall_ms == 0 ? "null" : Quoted(TimeText(wall_ms)),
               wall_ms == 0 ? "the beginning" : TimeText(wall_ms));
  }
  void Print(bool json) const {
    if (json) {
      std::string line;
      for (const Field& field : fields_) {
        line += (line.empty() ? "{" : ", ") + Quoted(field.name) + ": " + field.json;
      }
      std::printf("%s}\n", line.c_str());
    } else {
      for (const Field& field : fields_) {
        std::printf("%-18s%s\n", field.name.c_str(), field.text.c_str());
      }
    }
    std::fflush(stdout);
  }

  static std::string HumanBytes(uint64_t bytes) {
    if (bytes < 10'000) return Format("{} B", {bytes});
    const char* const units[] = {"kB", "MB", "GB", "TB"};
    double value = static_cast<double>(bytes) / 1000;
    size_t unit = 0;
    for (; value >= 10'000 && unit < 3; ++unit) value /= 1000;
    return Format("{:.1f} {}", {value, units[unit]});
  }
  static std::string TimeText(int64_t wall_ms) {
    const auto seconds = static_cast<time_t>(wall_ms / 1000);
    std::tm parts{};
    gmtime_r(&seconds, &parts);
    char text[32];
    std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
    return Format("{}.{:03d}Z", {text, wall_ms % 1000});
  }

 private:
  struct Field {
    std::string name, json, text;
  };
  Fields& Put(std::string_view name, std::string json, std::string text) {
    fields_.push_back({std::string(name), std::move(json), std::move(text)});
    return *this;
  }
  static std::string Quoted(std::string_view text) {
    std::string out = "\"";
    for (const char c : text) {
      if (c == '"' || c == '\\') out += '\\';
      if (static_cast<unsigned char>(c) < 0x20) {
        out += Format("\\u{:04x}", {static_cast<unsigned>(c)});
      } else {
        out += c;
      }
    }
    return out + "\"";
  }
  std::vector<Field> fields_;
};

// A line on standard error that changes in place, if somebody watches.
edge::srs::ProgressCallback ProgressLine(const Options& options, std::string what) {
  if (options.quiet || isatty(STDERR_FILENO) == 0) return {};
  const auto start = std::chrono::steady_clock::now();
  return [what = std::move(what), start, last = -1](uint64_t done, uint64_t total) mutable {
    const int percent = total == 0 ? 100 : static_cast<int>(done * 100 / total);
    if (percent == std::exchange(last, percent)) return;
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    std::fprintf(stderr, "\r%s: %3d%%, %.0f s%s", what.c_str(), percent, took.count(),
                 percent >= 100 ? "\n" : "");
  };
}

// --- Arguments ---

[[noreturn]] void Fail(const Status& status) {
  std::fprintf(stderr, "edge-srs: %s\n", status.ToString().c_str());
  std::exit(1);
}
[[noreturn]] void Misused(const std::string& why) {
  std::fprintf(stderr, "edge-srs: %s (edge-srs --help)\n", why.c_str());
  std::exit(2);
}
template <typename T>
T Must(StatusOr<T> result) {
  if (!result.ok()) Fail(result.status());
  return std::move(*result);
}

template <typename T>
std::optional<T> Number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "2026-11-20T10:00:00[.123][Z]", with a space for the T if wanted, or milliseconds.
std::optional<int64_t> ParseTime(const std::string& text) {
  if (const auto ms = Number<int64_t>(text)) return ms;
  std::tm parts{};
  const char* rest = strptime(text.c_str(), "%Y-%m-%d", &parts);
  if (rest == nullptr) return std::nullopt;
  if (*rest == 'T' || *rest == ' ') rest = strptime(rest + 1, "%H:%M:%S", &parts);
  if (rest == nullptr) return std::nullopt;
  int64_t ms = 0;
  if (*rest == '.') {
    int64_t unit = 100;
    for (++rest; *rest >= '0' && *rest <= '9'; ++rest, unit /= 10) ms += unit * (*rest - '0');
  }
  if (*rest == 'Z') ++rest;
  if (*rest != 0) return std::nullopt;
  return int64_t{timegm(&parts)} * 1000 + ms;
}

double NonNegative(const std::string& flag, const std::string& text) {
  const auto value = Number<double>(text);
  if (!value || !(*value >= 0)) Misused(flag + ": '" + text + "' is not a number of 0 or more");
  return *value;
}

Options ParseArguments(int argc, char** argv) {
  Options options;
  std::vector<std::string> plain;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 >= argc) Misused(flag + " needs a value");
      return argv[++i];
    };
    if (flag == "--help" || flag == "-h") {
      std::fputs(kUsage, stdout);
      std::exit(0);
    } else if (flag == "-o" || flag == "--output") {
      options.output = value();
    } else if (flag == "--at") {
      const std::string text = value();
      const auto at = ParseTime(text);
      if (!at || *at <= 0) Misused("--at: '" + text + "' is not like 2026-11-20T10:00:00Z");
      options.at_ms = *at;
    } else if (flag == "--bookmark") {
      options.bookmark = value();
    } else if (flag == "--scratch") {
      options.scratch = value();
    } else if (flag == "--interval") {
      options.interval_s = NonNegative(flag, value());
    } else if (flag == "--retention-days") {
      options.retention_days = NonNegative(flag, value());
    } else if (flag == "--grace-hours") {
      options.grace_hours = NonNegative(flag, value());
    } else if (flag == "--litestream") {
      options.litestream = true;
    } else if (flag == "--json") {
      options.json = true;
    } else if (flag == "--quiet") {
      options.quiet = true;
    } else if (flag == "--dry-run") {
      options.dry_run = true;
    } else if (flag == "--once") {
      options.once = true;
    } else if (flag.size() > 1 && flag[0] == '-') {
      Misused("unknown option '" + flag + "'");
    } else {
      plain.push_back(flag);
    }
  }
  if (plain.empty()) Misused("no command");
  options.command = plain[0];
  const bool takes_name = options.command != "ls" && options.command != "gc";
  const bool needs_name = takes_name && options.command != "verify";
  if (plain.size() < 2) Misused(options.command + " needs a store");
  if (plain.size() > (takes_name ? 3u : 2u)) Misused("too many arguments: '" + plain.back() + "'");
  options.store = plain[1];
  if (plain.size() == 3) options.name = plain[2];
  if (needs_name && options.name.empty()) {
    const size_t slash = options.store.rfind('/');
    if (slash == std::string::npos || slash + 1 == options.store.size() ||
        options.store.find('?') != std::string::npos) {
      Misused(options.command + " needs the name of a database");
    }
    options.name = options.store.substr(slash + 1);
    options.store.resize(slash);
  }
  if (!options.bookmark.empty() && options.at_ms != 0) Misused("--at or --bookmark, not both");
  return options;
}

// --- Commands ---

std::unique_ptr<StoreReader> OpenReader(const Options& options) {
  std::shared_ptr<edge::srs::ObjectStore> store = Must(edge::srs::OpenStore(
      options.store, [](const char* name) -> const char* { return std::getenv(name); }));
  auto reader = Must(StoreReader::Open({.store = std::move(store)}));
  for (const std::string& damage : reader->Damage()) {
    std::fprintf(stderr, "edge-srs: warning: %s\n", damage.c_str());
  }
  return reader;
}

std::string ScratchPath(const Options& options) {
  if (!options.scratch.empty()) return options.scratch;
  const char* folder = std::getenv("TMPDIR");
  return Format("{}/edge-srs-{}.scratch", {folder != nullptr ? folder : "/tmp", getpid()});
}

RestoreTarget TargetOf(const Options& options) {
  return {.bookmark = options.bookmark, .wall_ms = options.at_ms};
}

void List(const Options& options) {
  const auto databases = Must(OpenReader(options)->ListDatabases());
  if (!options.json) std::printf("%-32s %12s %10s  %s\n", "NAME", "COMMIT", "SIZE", "LAST COMMIT");
  for (const StoredDatabase& database : databases) {
    if (options.json) {
      Fields()
          .Add("name", database.name)
          .Add("lsn", database.lsn)
          .AddBytes("database_bytes", database.database_bytes)
          .AddTime("committed", database.committed_wall_ms)
          .Print(true);
    } else {
      std::printf("%-32s %12llu %10s  %s\n", database.name.c_str(),
                  static_cast<unsigned long long>(database.lsn),
                  Fields::HumanBytes(database.database_bytes).c_str(),
                  Fields::TimeText(database.committed_wall_ms).c_str());
    }
  }
}

void Info(const Options& options) {
  const StoredDatabase database = Must(OpenReader(options)->Info(options.name));
  Fields fields;
  fields.Add("name", database.name)
      .Add("lsn", database.lsn)
      .AddTime("committed", database.committed_wall_ms)
      .AddBytes("database_bytes", database.database_bytes)
      .Add("newest_bookmark", database.newest_bookmark)
      .Add("oldest_bookmark", database.oldest_bookmark)
      .AddTime("restorable_from", database.oldest_wall_ms)
      .Add("snapshots", database.snapshots)
      .Add("logs", database.logs)
      .AddBytes("stored_bytes", database.stored_bytes)
      .AddBytes("restore_bytes", database.restore_bytes);
  if (!database.forked_from.empty()) fields.Add("forked_from", database.forked_from);
  fields.Print(options.json);
}

void PrintRestored(const Options& options, const RestoreReport& report, double seconds) {
  Fields()
      .Add("name", options.name)
      .Add("output", options.output)
      .Add("lsn", report.lsn)
      .AddTime("committed", report.committed_wall_ms)
      .AddBytes("database_bytes", report.database_bytes)
      .AddBytes("bytes_read", report.bytes_read)
      .Add("seconds", seconds)
      .Print(options.json);
}

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Restore(const Options& options) {
  if (options.output.empty()) Misused("restore needs -o FILE");
  const auto start = std::chrono::steady_clock::now();
  const auto reader = OpenReader(options);
  auto progress = ProgressLine(options, "restoring " + options.name);
  const RestoreReport report =
      Must(options.litestream ? reader->ExportLitestream(options.name, TargetOf(options),
                                                         options.output, std::move(progress))
                              : reader->Restore(options.name, TargetOf(options), options.output,
                                                std::move(progress)));
  PrintRestored(options, report, SecondsSince(start));
}

void Verify(const Options& options) {
  const auto reader = OpenReader(options);
  std::vector<std::string> names = {options.name};
  if (options.name.empty()) {
    names.clear();
    for (const StoredDatabase& database : Must(reader->ListDatabases())) {
      names.push_back(database.name);
    }
  }
  bool all_good = reader->Damage().empty();
  for (const std::string& name : names) {
    const auto report =
        reader->Verify(name, ScratchPath(options), ProgressLine(options, "verifying " + name));
    Fields fields;
    fields.Add("name", name).Add("result", report.ok() ? "good" : report.status().ToString());
    if (report.ok()) {
      fields.Add("snapshots", report->snapshots)
          .Add("commits", report->commits)
          .Add("lsn", report->lsn)
          .AddBytes("bytes_read", report->bytes_read);
    }
    fields.Print(options.json);
    all_good &= report.ok();
  }
  if (!all_good) std::exit(1);
}

void Follow(const Options& options) {
  if (options.output.empty()) Misused("follow needs -o FILE");
  struct sigaction action = {};
  action.sa_handler = [](int) { g_stop = 1; };
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  const auto reader = OpenReader(options);
  std::string last;
  while (g_stop == 0) {
    const auto start = std::chrono::steady_clock::now();
    auto info = reader->Info(options.name);
    if (!info.ok() && (options.once || info.status().code() != edge::StatusCode::kNotFound)) {
      Fail(info.status());
    }
    if (info.ok() && info->newest_bookmark != last) {
      const RestoreReport report =
          Must(reader->Restore(options.name, {.bookmark = info->newest_bookmark}, options.output));
      last = info->newest_bookmark;
      PrintRestored(options, report, SecondsSince(start));
    }
    if (options.once) return;
    for (double left = options.interval_s; left > 0 && g_stop == 0; left -= 0.1) {
      std::this_thread::sleep_for(std::chrono::duration<double>(std::min(left, 0.1)));
    }
    const Status refreshed = reader->Refresh();
    if (!refreshed.ok()) {  // it may come back
      std::fprintf(stderr, "edge-srs: warning: %s\n", refreshed.ToString().c_str());
    }
  }
}

void CollectGarbage(const Options& options) {
  const auto reader = OpenReader(options);
  edge::srs::GarbageOptions garbage;
  garbage.retention_ms = static_cast<int64_t>(options.retention_days * 24 * 3600 * 1000);
  garbage.grace_ms = static_cast<int64_t>(options.grace_hours * 3600 * 1000);
  garbage.dry_run = options.dry_run;
  const auto report =
      Must(reader->CollectGarbage(garbage, ScratchPath(options), ProgressLine(options, "proving")));
  Fields()
      .Add("packs", report.packs)
      .Add("candidates", report.candidates)
      .AddBytes("candidate_bytes", report.candidate_bytes)
      .Add("databases_proven", report.databases_proven)
      .Add("marked", report.marked)
      .Add("deleted", report.deleted)
      .Print(options.json);
}

void Bench(const Options& options) {
  auto start = std::chrono::steady_clock::now();
  const auto reader = OpenReader(options);
  const double open_s = SecondsSince(start);
  start = std::chrono::steady_clock::now();
  const auto view = Must(reader->OpenReadOnly(options.name, TargetOf(options)));
  int tables = 0;
  const int asked = sqlite3_exec(
      view->handle(), "SELECT count(*) FROM sqlite_schema",
      [](void* to, int, char** values, char**) {
        *static_cast<int*>(to) = std::atoi(values[0]);
        return 0;
      },
      &tables, nullptr);
  if (asked != SQLITE_OK) Fail(view->failure());
  const double query_s = SecondsSince(start);
  const std::string path = ScratchPath(options);
  start = std::chrono::steady_clock::now();
  const RestoreReport report = Must(
      reader->Restore(options.name, TargetOf(options), path, ProgressLine(options, "restoring")));
  const double restore_s = SecondsSince(start);
  unlink(path.c_str());
  Fields()
      .Add("name", options.name)
      .AddBytes("database_bytes", report.database_bytes)
      .Add("schema_objects", static_cast<uint64_t>(tables))
      .Add("catalog_ms", open_s * 1e3)
      .Add("first_query_ms", query_s * 1e3)
      .Add("first_query_reads", view->fetches())
      .AddBytes("first_query_bytes", view->bytes_read())
      .Add("restore_ms", restore_s * 1e3)
      .Add("restore_mb_per_s", static_cast<double>(report.database_bytes) / 1e6 / restore_s)
      .AddBytes("restore_bytes", report.bytes_read)
      .Print(options.json);
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = ParseArguments(argc, argv);
  static const std::map<std::string, void (*)(const Options&), std::less<>> kCommands = {
      {"ls", List},       {"info", Info},         {"restore", Restore}, {"verify", Verify},
      {"follow", Follow}, {"gc", CollectGarbage}, {"bench", Bench}};
  const auto command = kCommands.find(options.command);
  if (command == kCommands.end()) Misused("unknown command '" + options.command + "'");
  command->second(options);
  return 0;
}
