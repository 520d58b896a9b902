// src/app/metrics_page.h - reads a page of metrics (Prometheus text exposition format 0.0.4,
// https://prometheus.io/docs/instrumenting/exposition_formats) and prints it as a table.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "edge/base/status.h"

namespace edge {

// One instrument: a counter or gauge has a value; a summary a count, a sum and quantiles.
struct MetricsRow {
  std::string name;    // edge_srs_journal_bytes
  std::string labels;  // `namespace="FLIGHTS"`, without the quantile; empty if none
  std::string kind;    // counter, gauge, summary; untyped if the page does not say
  double value = 0;    // of a summary: how many values it has seen
  double sum = 0;
  std::map<double, double> quantiles = {};  // of a summary: value at 0.5, 0.99...
};

// Rows in the order of the page. InvalidArgument with the line's number for text that is no
// such page; ResourceExhausted over 64 MiB or 1,000,000 lines.
StatusOr<std::vector<MetricsRow>> ParseMetricsPage(std::string_view text);

// The rows whose name or labels contain `only`, grouped by part (edge_srs_x is in "srs"):
// counters and summaries with their rate if `before`, read `seconds` ago, has them.
std::string MetricsTable(const std::vector<MetricsRow>& now, const std::vector<MetricsRow>* before,
                         double seconds, std::string_view only = {});

// The same as one line of JSON: {"edge_srs_packs": 3, "edge_x_ns{a=\"b\"}": {"count": ..}}.
std::string MetricsJson(const std::vector<MetricsRow>& rows, std::string_view only = {});

}  // namespace edge
