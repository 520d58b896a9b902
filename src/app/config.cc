// Reads edge/config.h's JSON. A Section hands out its members by name and, at the end,
// complains about those that nobody asked for: the list of known keys is the code itself.
#include "edge/config.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "edge/base/errors.h"

namespace edge {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kTiB = uint64_t{1} << 40;
constexpr size_t kConfigBytesMax = 1 << 20;

std::string_view KindOf(const Json& value) {
  switch (value.type()) {
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::string:
      return "text";
    case Json::value_t::boolean:
      return "true or false";
    case Json::value_t::null:
      return "null";
    default:
      return "a number";
  }
}

// Edits (insert, delete, replace, each one character) that turn `a` into `b`.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0]++;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

StatusOr<uint64_t> ParseSize(const std::string& text) {
  static constexpr struct {
    std::string_view suffix;
    double bytes;
  } kUnits[] = {{"", 1},
                {"B", 1},
                {"KB", 1e3},
                {"MB", 1e6},
                {"GB", 1e9},
                {"TB", 1e12},
                {"KiB", 1024.0},
                {"MiB", 1048576.0},
                {"GiB", 1073741824.0},
                {"TiB", 1099511627776.0}};
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string_view suffix(end, static_cast<size_t>(text.data() + text.size() - end));
  while (!suffix.empty() && suffix.front() == ' ') suffix.remove_prefix(1);
  if (error == std::errc() && std::isfinite(number) && number >= 0) {
    for (const auto& unit : kUnits) {
      if (suffix == unit.suffix && number * unit.bytes < 1e18) {
        return static_cast<uint64_t>(number * unit.bytes);
      }
    }
  }
  return InvalidArgument("'{}' is not a size such as \"64MiB\"", text);
}

class Section {
 public:
  Section(const Json& json, std::string path) : json_(json), path_(std::move(path)) {}

  // The member, or null if it is not there.
  const Json* Find(const std::string& key) {
    known_.insert(key);
    const auto it = json_.find(key);
    return it == json_.end() ? nullptr : &*it;
  }

  Status Text(const std::string& key, std::string* out) {
    const Json* value = Find(key);
    if (value == nullptr) return OkStatus();
    if (!value->is_string()) return WrongKind(key, "text", *value);
    *out = value->get<std::string>();
    return OkStatus();
  }

  Status Choice(const std::string& key, std::string* out, const std::set<std::string>& choices) {
    EDGE_RETURN_IF_ERROR(Text(key, out));
    if (choices.contains(*out)) return OkStatus();
    std::string list;
    for (const std::string& choice : choices) list += (list.empty() ? "" : ", ") + choice;
    return InvalidArgument("{}: '{}' is not one of: {}", PathOf(key), *out, list);
  }

  template <typename T>
  Status Integer(const std::string& key, T* out, int64_t min, int64_t max) {
    const Json* value = Find(key);
    if (value == nullptr) return OkStatus();
    if (!value->is_number_integer()) return WrongKind(key, "a whole number", *value);
    if (value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX) {
      return OutOfBounds(key, value->dump(), min, max);
    }
    const auto number = value->get<int64_t>();
    if (number < min || number > max) return OutOfBounds(key, value->dump(), min, max);
    *out = static_cast<T>(number);
    return OkStatus();
  }

  Status Size(const std::string& key, uint64_t* out, uint64_t min, uint64_t max) {
    const Json* value = Find(key);
    if (value == nullptr) return OkStatus();
    if (value->is_number_unsigned()) {
      *out = value->get<uint64_t>();
    } else if (value->is_string()) {
      auto size = ParseSize(value->get<std::string>());
      if (!size.ok()) return Annotate(size.status(), PathOf(key));
      *out = *size;
    } else {
      return WrongKind(key, "a size such as \"64MiB\"", *value);
    }
    if (*out < min || *out > max) return OutOfBounds(key, value->dump(), min, max);
    return OkStatus();
  }

  // Calls `read(Section&)` for a member that must be an object; then it must have no more.
  template <typename F>
  Status Object(const std::string& key, F read) {
    const Json* value = Find(key);
    if (value == nullptr) return OkStatus();
    if (!value->is_object()) return WrongKind(key, "an object", *value);
    Section section(*value, PathOf(key));
    EDGE_RETURN_IF_ERROR(read(section));
    return section.Finish();
  }

  // As Object() for each member of a member: `read(name, Section&)`.
  template <typename F>
  Status Bindings(const std::string& key, F read) {
    return Object(key, [&](Section& section) -> Status {
      for (const auto& item : section.json_.items()) {
        EDGE_RETURN_IF_ERROR(section.Object(
            item.key(), [&](Section& binding) { return read(item.key(), binding); }));
      }
      return OkStatus();
    });
  }

  Status Finish() const {
    for (const auto& item : json_.items()) {
      if (known_.contains(item.key())) continue;
      std::string nearest;
      size_t distance = 4;  // further away is no typing error
      for (const std::string& known : known_) {
        const size_t edits = EditDistance(item.key(), known);
        if (edits < distance && edits < known.size()) {
          distance = edits;
          nearest = known;
        }
      }
      return InvalidArgument("{}: unknown{}", PathOf(item.key()),
                             nearest.empty() ? "" : "; did you mean " + nearest + "?");
    }
    return OkStatus();
  }

 private:
  std::string PathOf(const std::string& key) const {
    return path_.empty() ? key : path_ + "." + key;
  }
  Status WrongKind(const std::string& key, std::string_view wanted, const Json& found) const {
    return InvalidArgument("{}: must be {}, but is {}", PathOf(key), wanted, KindOf(found));
  }
  template <typename T>
  Status OutOfBounds(const std::string& key, const std::string& value, T min, T max) const {
    return InvalidArgument("{}: {} is not in [{}, {}]", PathOf(key), value, min, max);
  }

  const Json& json_;
  const std::string path_;
  std::set<std::string> known_;
};

void MakeAbsolute(std::string* path, const std::string& folder) {
  if (!path->empty() && path->front() != '/' && !folder.empty()) *path = folder + "/" + *path;
}

Status ReadApp(Section& root, AppConfig* config) {
  EDGE_RETURN_IF_ERROR(root.Integer("threads", &config->threads, 1, 256));
  EDGE_RETURN_IF_ERROR(root.Text("data", &config->data));
  EDGE_RETURN_IF_ERROR(root.Bindings("kv", [&](const std::string& name, Section& section) {
    KvConfig& kv = config->kv[name];
    EDGE_RETURN_IF_ERROR(section.Size("hot_bytes_max", &kv.hot_bytes_max, kMiB, kTiB));
    return section.Choice("origin", &kv.origin, {"sqlite", "memory"});
  }));
  EDGE_RETURN_IF_ERROR(root.Bindings("durable", [&](const std::string& name, Section& section) {
    return section.Choice("durability", &config->durable[name].durability, {"local"});
  }));
  EDGE_RETURN_IF_ERROR(root.Object("srs", [&](Section& section) -> Status {
    SrsConfig& srs = config->srs;
    EDGE_RETURN_IF_ERROR(section.Text("store", &srs.store));
    const bool folder = srs.store.starts_with("folder:") && srs.store.size() > 7;
    if (!srs.store.empty() && !folder && !srs.store.starts_with("s3://")) {
      return InvalidArgument("srs.store: '{}' must be folder:PATH or s3://BUCKET/PREFIX",
                             srs.store);
    }
    EDGE_RETURN_IF_ERROR(
        section.Integer("batch_interval_ms", &srs.batch_interval_ms, 10, 3'600'000));
    return section.Size("batch_bytes_max", &srs.batch_bytes_max, 64 << 10, 1 << 30);
  }));
  EDGE_RETURN_IF_ERROR(root.Object("ai", [&](Section& section) -> Status {
    AiConfig& ai = config->ai.emplace();
    EDGE_RETURN_IF_ERROR(section.Text("model", &ai.model));
    if (ai.model.empty()) return InvalidArgument("ai.model: missing; give the path of a GGUF file");
    EDGE_RETURN_IF_ERROR(section.Size("kv_bytes_max", &ai.kv_bytes_max, kMiB, kTiB));
    return section.Integer("threads", &ai.threads, 1, 256);
  }));
  EDGE_RETURN_IF_ERROR(
      root.Bindings("services", [&](const std::string& name, Section& section) -> Status {
        ServiceConfig& service = config->services[name];
        EDGE_RETURN_IF_ERROR(section.Text("url", &service.url));
        EDGE_RETURN_IF_ERROR(section.Text("expose", &service.expose));
        EDGE_RETURN_IF_ERROR(section.Text("token", &service.token));
        EDGE_RETURN_IF_ERROR(section.Text("ca", &service.ca));
        if (!service.url.empty() && !service.expose.empty()) {
          return InvalidArgument("services.{}: either url or expose, not both", name);
        }
        if (!service.expose.empty() && service.expose.front() != '/') {
          return InvalidArgument("services.{}.expose: '{}' must start with /", name,
                                 service.expose);
        }
        EDGE_RETURN_IF_ERROR(section.Integer("deadline_ms", &service.deadline_ms, 0, 3'600'000));
        return section.Integer("retries_max", &service.retries_max, 0, 20);
      }));
  EDGE_RETURN_IF_ERROR(root.Object(
      "listen", [&](Section& section) { return section.Text("http", &config->listen.http); }));
  return root.Finish();
}

}  // namespace

StatusOr<AppConfig> AppConfig::Parse(std::string_view json, const std::string& folder) {
  if (json.size() > kConfigBytesMax) {
    return ResourceExhausted("{} bytes of configuration, at most {}", json.size(), kConfigBytesMax);
  }
  Json document;
  try {
    document = Json::parse(json, nullptr, /*allow_exceptions=*/true, /*ignore_comments=*/true);
  } catch (const Json::parse_error& error) {
    // "[json.exception.parse_error.101] parse error at line 3, column 5: ..."
    std::string_view text = error.what();
    if (const size_t at = text.find("at line"); at != std::string_view::npos)
      text.remove_prefix(at);
    return InvalidArgument("not JSON {}", text);
  }
  if (!document.is_object()) {
    return InvalidArgument("the configuration must be an object, but is {}", KindOf(document));
  }
  AppConfig config;
  Section root(document, "");
  EDGE_RETURN_IF_ERROR(ReadApp(root, &config));
  MakeAbsolute(&config.data, folder);
  if (config.ai) MakeAbsolute(&config.ai->model, folder);
  if (config.srs.store.starts_with("folder:")) {
    std::string path = config.srs.store.substr(7);
    MakeAbsolute(&path, folder);
    config.srs.store = "folder:" + path;
  }
  return config;
}

StatusOr<AppConfig> AppConfig::Load(const std::string& path, FileSystem& files) {
  EDGE_ASSIGN_OR_RETURN(const Bytes text, ReadFile(files, path, kConfigBytesMax));
  const size_t slash = path.rfind('/');
  auto config = Parse(AsText(text), slash == std::string::npos ? "" : path.substr(0, slash));
  if (!config.ok()) return Annotate(config.status(), path);
  return config;
}

}  // namespace edge
