// edge-kv: a kv namespace in a SQLite file, from the command line.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "edge/kv/namespace.h"
#include "edge/kv/sqlite_origin.h"
#include "nlohmann/json.hpp"

namespace {

namespace kv = edge::kv;
using Json = nlohmann::json;

constexpr const char* kHelp = R"(edge-kv - read and write a kv namespace kept in a SQLite file

usage: edge-kv --db FILE COMMAND ...

  get KEY                     the value, to standard output
  put KEY [VALUE]             without VALUE: standard input
      --ttl SECONDS           expire after so long (at least 60)
      --expiration SECONDS    expire at that time since 1970
      --metadata JSON
  delete KEY ...
  list [--prefix P] [--limit N] [--cursor C] [--json]
                              names; without --limit all of them
  export [FILE]               every entry as one JSON object a line
  import [FILE]               such lines; "-" or nothing: standard input
  stats [--watch SECONDS]     reads every key once and says what that cost, tier by tier;
                              --watch goes on, and prints the page again and again
      --json                  one JSON object instead of a page

A line of export: {"name", "value" or "base64", "expiration"?, "metadata"?}. Progress goes to
standard error. Exit status: 0, 1 if something failed, 2 for wrong usage, 3 if a key is absent.
)";

constexpr char kBase64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::string ToBase64(std::string_view bytes) {
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t word = 0;
    const size_t count = std::min<size_t>(3, bytes.size() - i);
    for (size_t k = 0; k < 3; ++k) {
      word = word << 8 | (k < count ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    }
    for (size_t k = 0; k < 4; ++k) {
      text += k <= count ? kBase64[word >> (18 - 6 * k) & 63] : '=';
    }
  }
  return text;
}

bool FromBase64(std::string_view text, std::string* bytes) {
  if (text.size() % 4 != 0) return false;
  while (text.ends_with('=')) text.remove_suffix(1);
  uint32_t word = 0;
  unsigned bits = 0;
  for (const char c : text) {
    const char* at = c == '\0' ? nullptr : std::strchr(kBase64, c);
    if (at == nullptr) return false;
    word = word << 6 | static_cast<uint32_t>(at - kBase64);
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      *bytes += static_cast<char>(word >> bits);
      word &= (1u << bits) - 1;
    }
  }
  return true;
}

// Prints how far it is, at most twice a second.
class Progress {
 public:
  explicit Progress(const char* what) : what_(what) {}
  void Step(size_t bytes) {
    ++count_;
    bytes_ += bytes;
    const auto now = std::chrono::steady_clock::now();
    if (now - last_ < std::chrono::milliseconds(500)) return;
    last_ = now;
    Print("\r");
  }
  void End() const { Print(""); }

 private:
  void Print(const char* before) const {
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start_;
    std::fprintf(stderr, "%s%s %zu entries, %.1f MB, %.0f entries/s%s", before, what_, count_,
                 static_cast<double>(bytes_) / 1e6,
                 static_cast<double>(count_) / std::max(took.count(), 1e-9),
                 *before != '\0' ? "  " : "\n");
  }
  const char* what_;
  size_t count_ = 0;
  size_t bytes_ = 0;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point last_ = start_;
};

struct Args {
  std::string db;
  std::vector<std::string> words;
  std::string prefix, cursor, metadata;
  std::optional<int64_t> ttl, expiration, limit, watch;
  bool json = false;
};

[[noreturn]] void Usage(const std::string& why) {
  std::fprintf(stderr, "edge-kv: %s\nTry edge-kv --help.\n", why.c_str());
  std::exit(2);
}

Args Parse(int argc, char** argv) {
  Args args;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 == argc) Usage(word + " needs a value");
      return argv[++i];
    };
    const auto number = [&]() -> int64_t {
      const std::string text = value();
      char* end = nullptr;
      const long long parsed = std::strtoll(text.c_str(), &end, 10);
      if (text.empty() || *end != '\0') Usage(word + " needs a number, not '" + text + "'");
      return parsed;
    };
    if (word == "--help" || word == "-h") {
      std::fputs(kHelp, stdout);
      std::exit(0);
    } else if (word == "--db") {
      args.db = value();
    } else if (word == "--prefix") {
      args.prefix = value();
    } else if (word == "--cursor") {
      args.cursor = value();
    } else if (word == "--metadata") {
      args.metadata = value();
    } else if (word == "--ttl") {
      args.ttl = number();
    } else if (word == "--expiration") {
      args.expiration = number();
    } else if (word == "--limit") {
      args.limit = number();
    } else if (word == "--watch") {
      args.watch = number();
    } else if (word == "--json") {
      args.json = true;
    } else if (word.starts_with("--")) {
      Usage("unknown option " + word);
    } else {
      args.words.push_back(word);
    }
  }
  return args;
}

// Calls use(key) for every key that starts with `prefix`, page by page.
template <typename Use>
edge::Status ForEach(kv::Namespace& store, const std::string& prefix, Use use) {
  std::string cursor;
  for (;;) {
    EDGE_ASSIGN_OR_RETURN(const kv::ListPage page,
                          store.List({.prefix = prefix, .cursor = cursor}));
    for (const kv::ListedKey& key : page.keys) EDGE_RETURN_IF_ERROR(use(key));
    if (page.list_complete) return edge::OkStatus();
    cursor = page.cursor;
  }
}

Json ToJson(const kv::ListedKey& key) {
  Json json{{"name", key.name}};
  if (key.expiration_s != 0) json["expiration"] = key.expiration_s;
  if (!key.metadata.empty()) json["metadata"] = Json::parse(key.metadata);
  return json;
}

edge::Status Failed(edge::StatusCode code, const std::string& text) {
  return edge::Status(code, text);
}

edge::Status List(kv::Namespace& store, const Args& args) {
  const auto print = [&](const kv::ListedKey& key) {
    std::printf("%s\n", args.json ? ToJson(key).dump().c_str() : key.name.c_str());
    return edge::OkStatus();
  };
  if (!args.limit && args.cursor.empty()) return ForEach(store, args.prefix, print);
  EDGE_ASSIGN_OR_RETURN(
      const kv::ListPage page,
      store.List({.prefix = args.prefix, .limit = args.limit.value_or(0), .cursor = args.cursor}));
  for (const kv::ListedKey& key : page.keys) EDGE_RETURN_IF_ERROR(print(key));
  if (!page.list_complete) std::fprintf(stderr, "more: --cursor %s\n", page.cursor.c_str());
  return edge::OkStatus();
}

edge::Status Export(kv::Namespace& store, const Args& args) {
  std::ofstream file;
  if (args.words.size() > 1 && args.words[1] != "-") file.open(args.words[1], std::ios::binary);
  std::ostream& out = file.is_open() ? file : std::cout;
  Progress progress("exported");
  EDGE_RETURN_IF_ERROR(ForEach(store, args.prefix, [&](const kv::ListedKey& key) -> edge::Status {
    EDGE_ASSIGN_OR_RETURN(const auto value, store.Get(key.name));
    if (!value) return edge::OkStatus();  // it went meanwhile
    Json json = ToJson(key);
    json["value"] = *value;
    std::string line;
    try {
      line = json.dump();
    } catch (const Json::exception&) {  // not UTF-8
      json.erase("value");
      json["base64"] = ToBase64(*value);
      line = json.dump();
    }
    out << line << '\n';
    progress.Step(value->size());
    return out.good() ? edge::OkStatus()
                      : Failed(edge::StatusCode::kDataLoss, "cannot write the export");
  }));
  progress.End();
  out.flush();
  return out.good() ? edge::OkStatus()
                    : Failed(edge::StatusCode::kDataLoss, "cannot write the export");
}

edge::Status ImportLine(kv::Namespace& store, const std::string& line, size_t* bytes) {
  const Json json = Json::parse(line);
  std::string value;
  if (json.contains("base64")) {
    if (!FromBase64(json.at("base64").get<std::string>(), &value)) {
      return Failed(edge::StatusCode::kInvalidArgument, "base64: not base64");
    }
  } else {
    value = json.at("value").get<std::string>();
  }
  kv::PutOptions options;
  std::string metadata;
  if (json.contains("metadata")) metadata = json["metadata"].dump();
  options.metadata = metadata;
  if (json.contains("expiration")) options.expiration_s = json["expiration"].get<int64_t>();
  *bytes = value.size();
  return store.Put(json.at("name").get<std::string>(), value, options);
}

edge::Status Import(kv::Namespace& store, const Args& args) {
  std::ifstream file;
  const bool from_file = args.words.size() > 1 && args.words[1] != "-";
  if (from_file) file.open(args.words[1], std::ios::binary);
  if (from_file && !file) {
    return Failed(edge::StatusCode::kNotFound, "cannot read " + args.words[1]);
  }
  std::istream& in = from_file ? file : std::cin;
  Progress progress("imported");
  std::string line;
  for (size_t number = 1; std::getline(in, line); ++number) {
    if (line.empty()) continue;
    edge::Status status;
    size_t bytes = 0;
    try {
      status = ImportLine(store, line, &bytes);
    } catch (const Json::exception& error) {
      status = Failed(edge::StatusCode::kInvalidArgument, error.what());
    }
    if (!status.ok()) {
      progress.End();
      return Failed(status.code(),
                    "line " + std::to_string(number) + ": " + std::string(edge::Message(status)));
    }
    progress.Step(bytes);
  }
  progress.End();
  return edge::OkStatus();
}

edge::Status Stats(kv::Namespace& store, const Args& args) {
  std::string value;
  for (;;) {
    uint64_t bytes = 0;
    size_t entries = 0;
    EDGE_RETURN_IF_ERROR(ForEach(store, args.prefix, [&](const kv::ListedKey& key) -> edge::Status {
      EDGE_ASSIGN_OR_RETURN(const bool found, store.GetInto(key.name, &value));
      if (found) {
        bytes += value.size();
        ++entries;
      }
      return edge::OkStatus();
    }));
    if (args.json) {
      std::printf("{\"stored_entries\": %zu, \"stored_bytes\": %llu, \"namespace\": %s}\n", entries,
                  static_cast<unsigned long long>(bytes), store.StatsJson().c_str());
    } else {
      std::printf("%s%zu entries stored, %llu bytes of values\n\n%s",
                  args.watch ? "\033[H\033[2J" : "", entries,
                  static_cast<unsigned long long>(bytes), store.StatsText().c_str());
    }
    std::fflush(stdout);
    if (!args.watch) return edge::OkStatus();
    struct timespec pause {
      static_cast<time_t>(std::max<int64_t>(*args.watch, 1)), 0
    };
    nanosleep(&pause, nullptr);
  }
}

edge::Status Put(kv::Namespace& store, const Args& args) {
  kv::PutOptions options{args.ttl, args.expiration, args.metadata};
  if (args.words.size() > 2) return store.Put(args.words[1], args.words[2], options);
  return store.PutStream(
      args.words[1],
      [](edge::MutableByteView out) -> edge::StatusOr<size_t> {
        return std::fread(out.data(), 1, out.size(), stdin);
      },
      options);
}

edge::Status Run(const Args& args, bool* absent) {
  EDGE_ASSIGN_OR_RETURN(auto origin, kv::SqliteOrigin::Open(args.db));
  EDGE_ASSIGN_OR_RETURN(kv::Namespace store, kv::Namespace::Open(std::move(origin)));
  const std::string& command = args.words[0];
  if (command == "list") return List(store, args);
  if (command == "export") return Export(store, args);
  if (command == "import") return Import(store, args);
  if (command == "stats") return Stats(store, args);
  if (args.words.size() < 2) Usage(command + " needs a key");
  if (command == "put") return Put(store, args);
  if (command == "delete") {
    const std::vector<std::string_view> keys(args.words.begin() + 1, args.words.end());
    return store.DeleteMany(keys);
  }
  if (command != "get") Usage("unknown command '" + command + "'");
  EDGE_ASSIGN_OR_RETURN(const auto value, store.Get(args.words[1]));
  *absent = !value;
  if (value) std::fwrite(value->data(), 1, value->size(), stdout);
  return edge::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  const Args args = Parse(argc, argv);
  if (args.db.empty()) Usage("--db FILE is missing");
  if (args.words.empty()) Usage("a command is missing");
  bool absent = false;
  const edge::Status status = Run(args, &absent);
  if (!status.ok()) {
    const std::string text(edge::Message(status));
    std::fprintf(stderr, "edge-kv: %s\n", text.c_str());
    return 1;
  }
  return absent ? 3 : 0;
}
