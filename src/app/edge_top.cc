// edge-top - what an edge process is doing, from its metrics page, live in the terminal.
#include <curl/curl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "edge/base/errors.h"
#include "src/app/metrics_page.h"

namespace {

using edge::MetricsRow;
using edge::StatusOr;

constexpr char kUsage[] =
    R"(edge-top [URL] [--only TEXT] [--interval SECONDS] [--once] [--json] [--token TOKEN]

Shows the metrics of a running edge process: counts, rates, latency quantiles, per part.
Ctrl-C ends it.

  URL                 its metrics page; default http://127.0.0.1:8787/metrics.
                      HOST:PORT alone is enough
  --only TEXT         only the metrics whose name or labels contain TEXT, such as kv or FLIGHTS
  --interval SECONDS  between two readings, 0.1 to 3600; default 1
  --once              one reading, then end
  --json              one line of JSON per reading instead of a table
  --token TOKEN       sent as 'Authorization: Bearer TOKEN'

Ends with 0, 1 if the page could not be read (with --once), 2 for wrong arguments.
)";

struct Options {
  std::string url = "http://127.0.0.1:8787/metrics";
  std::string only, token;
  double interval = 1;
  bool once = false, json = false;
};

volatile std::sig_atomic_t g_stop = 0;

size_t Append(char* data, size_t, size_t size, void* to) {
  auto* page = static_cast<std::string*>(to);
  if (page->size() + size > 64 << 20) return 0;  // makes curl give up
  page->append(data, size);
  return size;
}

StatusOr<std::string> Fetch(const Options& options) {
  const std::unique_ptr<CURL, void (*)(CURL*)> curl(curl_easy_init(), curl_easy_cleanup);
  if (curl == nullptr) return edge::Internal("libcurl cannot start");
  std::string page;
  char reason[CURL_ERROR_SIZE] = "";
  curl_easy_setopt(curl.get(), CURLOPT_URL, options.url.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, Append);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &page);
  curl_easy_setopt(curl.get(), CURLOPT_ERRORBUFFER, reason);
  curl_easy_setopt(curl.get(), CURLOPT_TIMEOUT_MS, 5000L);
  curl_easy_setopt(curl.get(), CURLOPT_NOSIGNAL, 1L);
  if (!options.token.empty()) {
    curl_easy_setopt(curl.get(), CURLOPT_HTTPAUTH, CURLAUTH_BEARER);
    curl_easy_setopt(curl.get(), CURLOPT_XOAUTH2_BEARER, options.token.c_str());
  }
  const CURLcode code = curl_easy_perform(curl.get());
  if (code != CURLE_OK) {
    return edge::Unavailable("{}: {}", options.url, *reason ? reason : curl_easy_strerror(code));
  }
  long http = 0;
  curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &http);
  if (http != 200) return edge::Unavailable("{}: answered with HTTP status {}", options.url, http);
  return page;
}

std::optional<Options> ParseArguments(int argc, char** argv, std::string* complaint) {
  Options options;
  bool have_url = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--once" || name == "--json") {
      (name == "--once" ? options.once : options.json) = true;
      continue;
    }
    if (name == "--only" || name == "--token" || name == "--interval") {
      if (++i == argc) {
        *complaint = fmt::format("{} needs a value", name);
        return std::nullopt;
      }
      const std::string_view value = argv[i];
      if (name == "--only") options.only = value;
      if (name == "--token") options.token = value;
      if (name == "--interval") {
        const auto [end, error] =
            std::from_chars(value.data(), value.data() + value.size(), options.interval);
        if (error != std::errc() || end != value.data() + value.size() ||
            !(options.interval >= 0.1 && options.interval <= 3600)) {
          *complaint = fmt::format("--interval {}: a number from 0.1 to 3600", value);
          return std::nullopt;
        }
      }
      continue;
    }
    if (name.starts_with("-") || have_url) {
      *complaint = fmt::format("unknown argument '{}'", name);
      return std::nullopt;
    }
    have_url = true;
    options.url = name;
    if (options.url.find("://") == std::string::npos) options.url.insert(0, "http://");
    if (options.url.find('/', options.url.find("://") + 3) == std::string::npos) {
      options.url += "/metrics";
    }
  }
  return options;
}

int Watch(const Options& options) {
  using Clock = std::chrono::steady_clock;
  const bool screen = !options.once && !options.json && isatty(STDOUT_FILENO) != 0;
  std::vector<MetricsRow> before;
  Clock::time_point read_at;
  bool have_before = false;
  while (g_stop == 0) {
    StatusOr<std::vector<MetricsRow>> rows = [&]() -> StatusOr<std::vector<MetricsRow>> {
      EDGE_ASSIGN_OR_RETURN(const std::string page, Fetch(options));
      return edge::ParseMetricsPage(page);
    }();
    const Clock::time_point now = Clock::now();
    const double seconds = std::chrono::duration<double>(now - read_at).count();
    if (screen) std::printf("\x1b[H\x1b[J");
    if (!rows.ok()) {
      const std::string text(rows.status().message());
      if (options.once) {
        std::fprintf(stderr, "edge-top: %s\n", text.c_str());
        return 1;
      }
      // A process that restarts is waited for: its counters begin anew.
      std::fprintf(screen ? stdout : stderr, "edge-top: %s; trying again\n", text.c_str());
      have_before = false;
    } else {
      const std::string text =
          options.json
              ? edge::MetricsJson(*rows, options.only) + "\n"
              : edge::MetricsTable(*rows, have_before ? &before : nullptr, seconds, options.only);
      if (!options.json && !options.once) std::printf("edge-top  %s\n\n", options.url.c_str());
      std::fwrite(text.data(), 1, text.size(), stdout);
      before = *std::move(rows);
      read_at = now;
      have_before = true;
    }
    std::fflush(stdout);
    if (options.once) return 0;
    poll(nullptr, 0, static_cast<int>(options.interval * 1000));  // a signal ends it early
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--help" || name == "-h") {
      std::printf("%s", kUsage);
      return 0;
    }
  }
  std::string complaint;
  const std::optional<Options> options = ParseArguments(argc, argv, &complaint);
  if (!options) {
    std::fprintf(stderr, "edge-top: %s\n\n%s", complaint.c_str(), kUsage);
    return 2;
  }
  struct sigaction action {};
  action.sa_handler = [](int) { g_stop = 1; };
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  curl_global_init(CURL_GLOBAL_DEFAULT);
  const int status = Watch(*options);
  curl_global_cleanup();
  return status;
}
