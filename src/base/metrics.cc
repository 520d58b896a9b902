#include "edge/base/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>
#include <map>
#include <variant>
#include <vector>

#include "edge/base/check.h"
#include "edge/base/mutex.h"

namespace edge {

// Values below 16 have a bucket each. Above, bucket 16 * (e - 3) + s holds the values whose
// top bit is e and whose next four bits are s: 2^(e - 4) of them, of size at least 2^e.
size_t Histogram::BucketOf(uint64_t value) {
  if (value < 16) return value;
  const auto top_bit = static_cast<unsigned>(std::bit_width(value)) - 1;
  return size_t{16} * (top_bit - 3) + ((value >> (top_bit - 4)) & 15);
}

uint64_t Histogram::UpperBound(size_t bucket) {
  if (bucket < 16) return bucket;
  const size_t shift = bucket / 16 - 1;
  return ((16 + uint64_t{bucket % 16} + 1) << shift) - 1;
}

uint64_t Histogram::count() const {
  uint64_t count = 0;
  for (const auto& bucket : buckets_) count += bucket.load(std::memory_order_relaxed);
  return count;
}

uint64_t Histogram::Quantile(double quantile) const {
  // One reading of every bucket: writers go on, and the ranks must fit the total.
  std::array<uint64_t, kBuckets> counts;
  uint64_t total = 0;
  for (size_t i = 0; i < kBuckets; ++i) {
    total += counts[i] = buckets_[i].load(std::memory_order_relaxed);
  }
  if (total == 0) return 0;
  const double rank = std::ceil(std::clamp(quantile, 0.0, 1.0) * static_cast<double>(total));
  uint64_t below = 0;
  size_t last = 0;
  for (size_t i = 0; i < kBuckets; ++i) {
    if (counts[i] == 0) continue;
    last = i;
    below += counts[i];
    if (static_cast<double>(below) >= std::max(rank, 1.0)) break;
  }
  return UpperBound(last);
}

namespace {

bool IsName(std::string_view name, bool colon_allowed) {
  const auto fits = [&](char c) {
    return c == '_' || (colon_allowed && c == ':') || (c >= 'a' && c <= 'z') ||
           (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  return !name.empty() && !(name[0] >= '0' && name[0] <= '9') && std::ranges::all_of(name, fits);
}

std::string Escaped(std::string_view value) {
  std::string out;
  for (const char c : value) {
    if (c == '\\' || c == '"') out += '\\';
    out += c == '\n' ? std::string("\\n") : std::string(1, c);
  }
  return out;
}

// `k="v",l="w"`, ordered by key, so that the same labels are the same instrument.
std::string LabelText(Labels labels) {
  std::vector<std::pair<std::string_view, std::string_view>> sorted(labels);
  std::ranges::sort(sorted);
  std::string text;
  for (const auto& [key, value] : sorted) {
    EDGE_CHECK(IsName(key, false));
    fmt::format_to(std::back_inserter(text), "{}{}=\"{}\"", text.empty() ? "" : ",", key,
                   Escaped(value));
  }
  return text;
}

std::string Braced(const std::string& labels, std::string_view more = {}) {
  if (labels.empty() && more.empty()) return {};
  return fmt::format("{{{}{}{}}}", labels, labels.empty() || more.empty() ? "" : ",", more);
}

void Print(std::string* out, const std::string& name, const std::string& labels,
           const Counter& counter) {
  fmt::format_to(std::back_inserter(*out), "{}{} {}\n", name, Braced(labels), counter.value());
}
void Print(std::string* out, const std::string& name, const std::string& labels,
           const Gauge& gauge) {
  fmt::format_to(std::back_inserter(*out), "{}{} {}\n", name, Braced(labels), gauge.value());
}
void Print(std::string* out, const std::string& name, const std::string& labels,
           const Histogram& histogram) {
  auto to = std::back_inserter(*out);
  for (const double quantile : {0.5, 0.99, 0.999}) {
    fmt::format_to(to, "{}{} {}\n", name, Braced(labels, fmt::format("quantile=\"{}\"", quantile)),
                   histogram.Quantile(quantile));
  }
  fmt::format_to(to, "{}_sum{} {}\n", name, Braced(labels), histogram.sum());
  fmt::format_to(to, "{}_count{} {}\n", name, Braced(labels), histogram.count());
}

template <typename T>
using Family = std::map<std::string, std::unique_ptr<T>, std::less<>>;  // by LabelText

template <typename T>
constexpr std::string_view kKind = "counter";
template <>
constexpr std::string_view kKind<Gauge> = "gauge";
template <>
constexpr std::string_view kKind<Histogram> = "summary";

}  // namespace

struct MetricsRegistry::Rep {
  mutable Mutex mu;
  std::map<std::string, std::variant<Family<Counter>, Family<Gauge>, Family<Histogram>>,
           std::less<>>
      families ABSL_GUARDED_BY(mu);

  template <typename T>
  T& Find(std::string_view name, Labels labels) {
    const std::string label_text = LabelText(labels);
    const MutexLock lock(&mu);
    auto found = families.find(name);
    if (found == families.end()) {
      EDGE_CHECK(IsName(name, true));
      found = families.emplace(std::string(name), Family<T>()).first;
    }
    auto* family = std::get_if<Family<T>>(&found->second);
    EDGE_CHECK(family != nullptr);  // the name is in use for another kind
    auto& instrument = (*family)[label_text];
    if (instrument == nullptr) instrument = std::make_unique<T>();
    return *instrument;
  }
};

MetricsRegistry::MetricsRegistry() : rep_(std::make_unique<Rep>()) {}
MetricsRegistry::~MetricsRegistry() = default;

Counter& MetricsRegistry::counter(std::string_view name, Labels labels) {
  return rep_->Find<Counter>(name, labels);
}
Gauge& MetricsRegistry::gauge(std::string_view name, Labels labels) {
  return rep_->Find<Gauge>(name, labels);
}
Histogram& MetricsRegistry::histogram(std::string_view name, Labels labels) {
  return rep_->Find<Histogram>(name, labels);
}

std::string MetricsRegistry::PrometheusText() const {
  std::string out;
  const MutexLock lock(&rep_->mu);
  for (const auto& [name, family] : rep_->families) {
    std::visit(
        [&out, &name = name]<typename T>(const Family<T>& instruments) {
          fmt::format_to(std::back_inserter(out), "# TYPE {} {}\n", name, kKind<T>);
          for (const auto& [labels, instrument] : instruments) {
            Print(&out, name, labels, *instrument);
          }
        },
        family);
  }
  return out;
}

}  // namespace edge
