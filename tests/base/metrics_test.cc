#include "edge/base/metrics.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <thread>

#include "edge/base/random.h"

using namespace edge;  // NOLINT

TEST_CASE("a histogram's quantiles are within 1/16 of the exact ones",
          "[base][metrics][property]") {
  const auto seed = GENERATE(range(1u, 25u));
  CAPTURE(seed);
  std::mt19937_64 rng(seed);
  Histogram histogram;
  std::vector<uint64_t> values;
  const auto count = 1 + rng() % 3000;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t value = (rng() >> 1) >> (rng() % 63);  // every order of magnitude
    values.push_back(value);
    histogram.Record(value);
  }
  std::ranges::sort(values);
  REQUIRE(histogram.count() == count);
  for (const double quantile : {0.0, 0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    CAPTURE(quantile);
    const auto rank = static_cast<size_t>(std::ceil(quantile * static_cast<double>(count)));
    const uint64_t exact = values[rank == 0 ? 0 : rank - 1];
    const uint64_t got = histogram.Quantile(quantile);
    REQUIRE(got >= exact);
    REQUIRE(got - exact <= exact / 16);
  }
}

TEST_CASE("a histogram takes the extremes", "[base][metrics]") {
  Histogram histogram;
  REQUIRE(histogram.Quantile(0.5) == 0);
  REQUIRE(histogram.count() == 0);
  histogram.Record(0);
  REQUIRE(histogram.Quantile(1) == 0);
  histogram.Record(UINT64_MAX);
  REQUIRE(histogram.Quantile(1) == UINT64_MAX);
  REQUIRE(histogram.Quantile(0.5) == 0);
  for (uint64_t value = 0; value < 16; ++value) {
    Histogram small;
    small.Record(value);
    REQUIRE(small.Quantile(0.5) == value);  // exact below 16
  }
}

TEST_CASE("an instrument is found by its name and labels in any order", "[base][metrics]") {
  MetricsRegistry registry;
  Counter& one = registry.counter("requests_total", {{"code", "200"}, {"host", "a"}});
  REQUIRE(&registry.counter("requests_total", {{"host", "a"}, {"code", "200"}}) == &one);
  REQUIRE(&registry.counter("requests_total", {{"host", "b"}, {"code", "200"}}) != &one);
  REQUIRE(&registry.counter("requests_total") != &one);
}

TEST_CASE("metrics are read out as Prometheus text", "[base][metrics]") {
  MetricsRegistry registry;
  registry.counter("requests_total", {{"path", "/a\"b\\c\nd"}}).Add(3);
  registry.counter("requests_total").Add();
  registry.gauge("open_count").Set(5);
  registry.gauge("open_count").Add(-7);
  registry.histogram("latency_ns", {{"op", "get"}}).Record(7);
  REQUIRE(registry.PrometheusText() ==
          "# TYPE latency_ns summary\n"
          "latency_ns{op=\"get\",quantile=\"0.5\"} 7\n"
          "latency_ns{op=\"get\",quantile=\"0.99\"} 7\n"
          "latency_ns{op=\"get\",quantile=\"0.999\"} 7\n"
          "latency_ns_sum{op=\"get\"} 7\n"
          "latency_ns_count{op=\"get\"} 1\n"
          "# TYPE open_count gauge\n"
          "open_count -2\n"
          "# TYPE requests_total counter\n"
          "requests_total 1\n"
          "requests_total{path=\"/a\\\"b\\\\c\\nd\"} 3\n");
}

TEST_CASE("threads record while another reads", "[base][metrics]") {
  MetricsRegistry registry;
  std::vector<std::thread> writers;
  for (int t = 0; t < 3; ++t) {
    writers.emplace_back([&registry] {
      for (uint64_t i = 0; i < 2000; ++i) {
        registry.counter("n_total").Add();
        registry.histogram("v").Record(i);
      }
    });
  }
  for (int i = 0; i < 20; ++i) registry.PrometheusText();
  for (std::thread& writer : writers) writer.join();
  REQUIRE(registry.counter("n_total").value() == 6000);
  REQUIRE(registry.histogram("v").count() == 6000);
  REQUIRE(registry.histogram("v").sum() == 3 * 1999 * 1000);
}
