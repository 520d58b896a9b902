#include "src/app/metrics_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>

#include "edge/base/errors.h"

namespace edge {
namespace {

constexpr size_t kBytesMax = 64 << 20;
constexpr size_t kLinesMax = 1'000'000;

bool IsSpace(char c) {
  return c == ' ' || c == '\t' || c == '\r';
}

void SkipSpace(std::string_view* text) {
  while (!text->empty() && IsSpace(text->front())) text->remove_prefix(1);
}

std::string_view TakeWord(std::string_view* text) {
  SkipSpace(text);
  size_t end = 0;
  while (end < text->size() && !IsSpace((*text)[end]) && (*text)[end] != '{') ++end;
  const std::string_view word = text->substr(0, end);
  text->remove_prefix(end);
  return word;
}

std::optional<double> ToNumber(std::string_view word) {
  if (word == "+Inf" || word == "Inf") return HUGE_VAL;
  if (word == "-Inf") return -HUGE_VAL;
  if (word == "NaN") return NAN;
  double value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc() || end != word.data() + word.size()) return std::nullopt;
  return value;
}

struct Sample {
  std::string name, labels;
  std::optional<double> quantile;
  double value = 0;
};

// One `key="value"` of the braces, escapes kept as they stand; false if it is none.
bool TakeLabel(std::string_view* text, std::string_view* key, std::string_view* value) {
  const size_t equals = text->find('=');
  if (equals == std::string_view::npos || equals + 1 >= text->size()) return false;
  if ((*text)[equals + 1] != '"') return false;
  *key = text->substr(0, equals);
  size_t end = equals + 2;
  while (end < text->size() && (*text)[end] != '"') end += (*text)[end] == '\\' ? 2 : 1;
  if (end >= text->size()) return false;
  *value = text->substr(equals + 2, end - equals - 2);
  text->remove_prefix(end + 1);
  return true;
}

std::optional<Sample> ParseSample(std::string_view line) {
  Sample sample;
  sample.name = TakeWord(&line);
  if (sample.name.empty()) return std::nullopt;
  if (!line.empty() && line.front() == '{') {
    line.remove_prefix(1);
    for (;;) {
      while (!line.empty() && (IsSpace(line.front()) || line.front() == ',')) line.remove_prefix(1);
      if (line.empty()) return std::nullopt;
      if (line.front() == '}') break;
      std::string_view key, value;
      if (!TakeLabel(&line, &key, &value)) return std::nullopt;
      if (key == "quantile") {
        sample.quantile = ToNumber(value);
        if (!sample.quantile) return std::nullopt;
      } else {
        fmt::format_to(std::back_inserter(sample.labels), "{}{}=\"{}\"",
                       sample.labels.empty() ? "" : ",", key, value);
      }
    }
    line.remove_prefix(1);
  }
  const std::optional<double> value = ToNumber(TakeWord(&line));
  if (!value) return std::nullopt;
  sample.value = *value;
  return sample;  // a time after the value is allowed and means nothing here
}

bool Fits(const MetricsRow& row, std::string_view only) {
  return row.name.find(only) != std::string::npos || row.labels.find(only) != std::string::npos;
}

// edge_srs_journal_bytes is in "srs"; a name of another making in its first word.
std::string_view PartOf(std::string_view name) {
  if (name.starts_with("edge_")) name.remove_prefix(5);
  return name.substr(0, name.find('_'));
}

// 1234567 -> "1.23M", with three digits.
std::string Short(double value, double step, std::initializer_list<const char*> units) {
  size_t unit = 0;
  while (std::abs(value) >= step && unit + 1 < units.size()) {
    value /= step;
    ++unit;
  }
  const int decimals = value == std::floor(value) && unit == 0 ? 0
                       : std::abs(value) >= 100                ? 0
                       : std::abs(value) >= 10                 ? 1
                                                               : 2;
  return fmt::format("{:.{}f}{}", value, decimals, units.begin()[unit]);
}

std::string Humanized(const std::string& name, double value) {
  if (!std::isfinite(value)) return fmt::format("{}", value);
  if (name.ends_with("_ns")) return Short(value, 1000, {" ns", " us", " ms", " s"});
  if (name.ends_with("_bytes")) return Short(value, 1024, {" B", " KiB", " MiB", " GiB", " TiB"});
  return Short(value, 1000, {"", " k", " M", " G"});
}

const MetricsRow* Find(const std::vector<MetricsRow>* rows, const MetricsRow& like) {
  if (rows == nullptr) return nullptr;
  const auto found = std::ranges::find_if(*rows, [&like](const MetricsRow& row) {
    return row.name == like.name && row.labels == like.labels;
  });
  return found == rows->end() ? nullptr : &*found;
}

}  // namespace

StatusOr<std::vector<MetricsRow>> ParseMetricsPage(std::string_view text) {
  if (text.size() > kBytesMax) {
    return ResourceExhausted("a page of {} bytes: at most {}", text.size(), kBytesMax);
  }
  std::map<std::string, std::string, std::less<>> kinds;
  std::map<std::pair<std::string, std::string>, size_t> places;  // by name and labels
  std::vector<MetricsRow> rows;
  size_t number = 0;
  while (!text.empty()) {
    if (++number > kLinesMax) return ResourceExhausted("more than {} lines", kLinesMax);
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    SkipSpace(&line);
    if (line.starts_with("# TYPE ")) {
      line.remove_prefix(7);
      const std::string_view name = TakeWord(&line);
      kinds[std::string(name)] = TakeWord(&line);
      continue;
    }
    if (line.empty() || line.front() == '#') continue;
    std::optional<Sample> sample = ParseSample(line);
    if (!sample) return InvalidArgument("line {}: no metric: {}", number, line.substr(0, 80));
    // A summary's lines are X{quantile=..}, X_sum and X_count.
    std::string base = sample->name;
    bool is_sum = false, is_count = false;
    for (const std::string_view end : {"_sum", "_count"}) {
      if (!base.ends_with(end)) continue;
      const auto kind = kinds.find(std::string_view(base).substr(0, base.size() - end.size()));
      if (kind == kinds.end() || (kind->second != "summary" && kind->second != "histogram")) {
        continue;
      }
      base.resize(base.size() - end.size());
      (end == "_sum" ? is_sum : is_count) = true;
      break;
    }
    const auto [place, added] = places.try_emplace({base, sample->labels}, rows.size());
    if (added) {
      const auto kind = kinds.find(base);
      rows.push_back({.name = base,
                      .labels = sample->labels,
                      .kind = kind == kinds.end() ? "untyped" : kind->second});
    }
    MetricsRow& row = rows[place->second];
    if (sample->quantile) {
      row.quantiles[*sample->quantile] = sample->value;
    } else {
      (is_sum ? row.sum : row.value) = sample->value;
    }
  }
  return rows;
}

std::string MetricsTable(const std::vector<MetricsRow>& now, const std::vector<MetricsRow>* before,
                         double seconds, std::string_view only) {
  std::vector<const MetricsRow*> chosen;
  for (const MetricsRow& row : now) {
    if (Fits(row, only)) chosen.push_back(&row);
  }
  std::ranges::stable_sort(chosen, {}, [](const MetricsRow* row) { return PartOf(row->name); });
  std::string out;
  auto to = std::back_inserter(out);
  std::string_view part;
  for (const MetricsRow* row : chosen) {
    if (PartOf(row->name) != part) {
      part = PartOf(row->name);
      fmt::format_to(to, "{}{:<52}{:>12}{:>12}{:>11}{:>11}{:>11}\n", out.empty() ? "" : "\n", part,
                     "now", "per second", "p50", "p99", "p99.9");
    }
    std::string_view name = row->name;
    if (name.starts_with("edge_")) name.remove_prefix(5);
    if (name.size() > part.size()) name.remove_prefix(part.size() + 1);
    std::string title = fmt::format("  {}{}{}", name, row->labels.empty() ? "" : " ", row->labels);
    if (title.size() > 51) title.replace(48, std::string::npos, "...");
    const bool summary = row->kind == "summary";
    // A summary's own value counts; its unit belongs to the quantiles.
    const std::string unit_of = summary ? std::string() : row->name;
    fmt::format_to(to, "{:<52}{:>12}", title, Humanized(unit_of, row->value));
    const MetricsRow* old = Find(before, *row);
    const bool counts = row->kind == "counter" || summary;
    std::string rate;
    if (counts && old != nullptr && seconds > 0 && row->value >= old->value) {
      rate = Humanized(unit_of, (row->value - old->value) / seconds);
    }
    fmt::format_to(to, "{:>12}", rate);
    for (const double quantile : {0.5, 0.99, 0.999}) {
      const auto found = row->quantiles.find(quantile);
      fmt::format_to(to, "{:>11}",
                     found == row->quantiles.end() ? "" : Humanized(row->name, found->second));
    }
    while (out.back() == ' ') out.pop_back();
    out += '\n';
  }
  return out.empty() ? "no metrics\n" : out;
}

std::string MetricsJson(const std::vector<MetricsRow>& rows, std::string_view only) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const MetricsRow& row : rows) {
    if (!Fits(row, only)) continue;
    nlohmann::ordered_json& place =
        json[row.labels.empty() ? row.name : fmt::format("{}{{{}}}", row.name, row.labels)];
    if (row.kind != "summary") {
      place = row.value;
      continue;
    }
    place = {{"count", row.value}, {"sum", row.sum}};
    for (const auto& [quantile, value] : row.quantiles) {
      place[fmt::format("p{}", quantile * 100)] = value;
    }
  }
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace edge
