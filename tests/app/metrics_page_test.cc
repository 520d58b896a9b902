#include "src/app/metrics_page.h"

#include "edge/base/metrics.h"

using namespace edge;  // NOLINT

TEST_CASE("what a registry prints is read back whole", "[app]") {
  MetricsRegistry registry;
  registry.counter("edge_srs_packs").Add(3);
  registry.gauge("edge_kv_hot_bytes", {{"binding", "CONFIG"}}).Set(-2);
  Histogram& latency = registry.histogram("edge_rpc_call_ns", {{"who", "a\"b\\c, d}"}});
  for (int i = 0; i < 1000; ++i) latency.Record(16);
  const auto rows = ParseMetricsPage(registry.PrometheusText());
  REQUIRE(rows.ok());
  REQUIRE(rows->size() == 3);
  CHECK((*rows)[0].name == "edge_kv_hot_bytes");
  CHECK((*rows)[0].labels == R"(binding="CONFIG")");
  CHECK((*rows)[0].kind == "gauge");
  CHECK((*rows)[0].value == -2);
  CHECK((*rows)[1].name == "edge_rpc_call_ns");
  CHECK((*rows)[1].labels == R"(who="a\"b\\c, d}")");
  CHECK((*rows)[1].value == 1000);
  CHECK((*rows)[1].sum == 16000);
  CHECK((*rows)[1].quantiles.size() == 3);
  CHECK((*rows)[1].quantiles.at(0.999) == static_cast<double>(latency.Quantile(0.999)));
  CHECK((*rows)[2].kind == "counter");
  CHECK((*rows)[2].value == 3);
}

TEST_CASE("the table groups by part, gives rates and units, and chooses", "[app]") {
  const auto before = ParseMetricsPage("# TYPE edge_srs_packs counter\nedge_srs_packs 10\n");
  const auto now = ParseMetricsPage(
      "# HELP edge_srs_packs packs\n# TYPE edge_srs_packs counter\nedge_srs_packs 40\n"
      "# TYPE edge_kv_get_ns summary\nedge_kv_get_ns{quantile=\"0.5\"} 1500\n"
      "edge_kv_get_ns_sum 1e6\nedge_kv_get_ns_count 1234567\n"
      "# TYPE edge_kv_hot_bytes gauge\nedge_kv_hot_bytes 2097152\n");
  REQUIRE(before.ok());
  REQUIRE(now.ok());
  const std::string table = MetricsTable(*now, &*before, 2);
  CHECK(table ==
        "kv                                                           now  per second        p50"
        "        p99      p99.9\n"
        "  get_ns                                                  1.23 M                1.50 us\n"
        "  hot_bytes                                             2.00 MiB\n"
        "\n"
        "srs                                                          now  per second        p50"
        "        p99      p99.9\n"
        "  packs                                                       40          15\n");
  CHECK(MetricsTable(*now, nullptr, 0, "packs").find("hot_bytes") == std::string::npos);
  CHECK(MetricsTable(*now, nullptr, 0, "nothing") == "no metrics\n");
  CHECK(MetricsJson(*now, "get") ==
        R"({"edge_kv_get_ns":{"count":1234567.0,"sum":1000000.0,"p50":1500.0}})");
}

TEST_CASE("a page that is none is refused with its line", "[app]") {
  const auto complaint = [](std::string_view text) {
    return std::string(ParseMetricsPage(text).status().message());
  };
  CHECK(ParseMetricsPage("").ok());
  CHECK(ParseMetricsPage("\r\n  \n# anything\n").ok());
  CHECK(ParseMetricsPage("a_metric 1 1700000000000\n").ok());
  CHECK(ParseMetricsPage("a +Inf\nb NaN").ok());
  CHECK(complaint("a 1\n<html>\n") == "line 2: no metric: <html>");
  CHECK(complaint("a{b=\"c} 1") == "line 1: no metric: a{b=\"c} 1");
  CHECK(complaint("a{b=c} 1") == "line 1: no metric: a{b=c} 1");
  CHECK(complaint("a{b=\"\\") == "line 1: no metric: a{b=\"\\");
  CHECK(complaint("a{quantile=\"x\"} 1") == "line 1: no metric: a{quantile=\"x\"} 1");
  CHECK(complaint("a one") == "line 1: no metric: a one");
}
