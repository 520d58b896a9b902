// HTTP by libcurl. A handle keeps its connections, so handles are kept for the next request.
#include <curl/curl.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "edge/base/errors.h"
#include "edge/base/mutex.h"
#include "edge/srs/s3_store.h"

namespace edge::srs {
namespace {

constexpr size_t kIdleHandlesMax = 8;

struct Exchange {
  ByteView left;  // of the request's body
  HttpResponse response;
  uint64_t bytes_max;
  bool is_too_long = false;
};

size_t OnSend(char* out, size_t size, size_t count, void* exchange) noexcept {
  ByteView& left = static_cast<Exchange*>(exchange)->left;
  const size_t bytes = std::min(size * count, left.size());
  std::memcpy(out, left.data(), bytes);
  left = left.subspan(bytes);
  return bytes;
}

size_t OnBody(char* in, size_t size, size_t count, void* to) noexcept {
  auto* exchange = static_cast<Exchange*>(to);
  const ByteView bytes = AsBytes({in, size * count});
  Bytes& body = exchange->response.body;
  if (bytes.size() > exchange->bytes_max - body.size()) {
    exchange->is_too_long = true;
    return 0;
  }
  body.insert(body.end(), bytes.begin(), bytes.end());
  return bytes.size();
}

std::string_view Trimmed(std::string_view text) {
  const size_t start = text.find_first_not_of(" \t\r\n");
  if (start == std::string_view::npos) return {};
  return text.substr(start, text.find_last_not_of(" \t\r\n") - start + 1);
}

size_t OnHeader(char* in, size_t size, size_t count, void* to) noexcept {
  auto& headers = static_cast<Exchange*>(to)->response.headers;
  const std::string_view line(in, size * count);
  if (line.starts_with("HTTP/")) headers.clear();  // after "100 Continue"
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return line.size();
  std::string name(Trimmed(line.substr(0, colon)));
  std::ranges::transform(name, name.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? char(c | 0x20) : c; });
  headers.emplace_back(std::move(name), Trimmed(line.substr(colon + 1)));
  return line.size();
}

class CurlClient final : public HttpClient {
 public:
  explicit CurlClient(HttpClientOptions options) : options_(std::move(options)) {}
  ~CurlClient() override {
    for (CURL* handle : idle_) curl_easy_cleanup(handle);
  }

  StatusOr<HttpResponse> Send(const HttpRequest& request) override {
    CURL* const handle = Take();
    if (handle == nullptr) return ResourceExhausted("libcurl: out of memory");
    Exchange exchange{request.body, {}, request.response_bytes_max};
    curl_slist* headers = nullptr;
    for (const auto& [name, value] : request.headers) {
      headers = curl_slist_append(headers, Format("{}: {}", {name, value}).c_str());
    }
    // We say exactly what is sent: no waiting for "100 Continue", no form's content type.
    headers = curl_slist_append(headers, "Expect:");
    headers = curl_slist_append(headers, "Content-Type: application/octet-stream");
    char why[CURL_ERROR_SIZE] = "";
    Prepare(handle, request, headers, &exchange, why);
    const CURLcode result = curl_easy_perform(handle);
    long code = 0;
    curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &code);
    curl_slist_free_all(headers);
    Return(handle, result == CURLE_OK);
    if (exchange.is_too_long) {
      return ResourceExhausted("{} {}: the answer is longer than {} bytes", request.method,
                               request.url, request.response_bytes_max);
    }
    if (result != CURLE_OK) {
      return Unavailable("{} {}: {}", request.method, request.url,
                         why[0] != 0 ? why : curl_easy_strerror(result));
    }
    exchange.response.code = static_cast<int>(code);
    return std::move(exchange.response);
  }

 private:
  CURL* Take() {
    MutexLock lock(&mu_);
    if (idle_.empty()) return curl_easy_init();
    CURL* const handle = idle_.back();
    idle_.pop_back();
    return handle;
  }
  void Return(CURL* handle, bool is_good) {
    {
      MutexLock lock(&mu_);
      if (is_good && idle_.size() < kIdleHandlesMax) {
        idle_.push_back(handle);
        return;
      }
    }
    curl_easy_cleanup(handle);
  }
  void Prepare(CURL* handle, const HttpRequest& request, curl_slist* headers, Exchange* exchange,
               char* why) {
    curl_easy_reset(handle);  // keeps connections
    curl_easy_setopt(handle, CURLOPT_URL, request.url.c_str());
    curl_easy_setopt(handle, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(handle, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(handle, CURLOPT_PROXY, options_.proxy.c_str());
    curl_easy_setopt(handle, CURLOPT_CONNECTTIMEOUT_MS,
                     static_cast<long>(options_.connect_timeout_ms));
    curl_easy_setopt(handle, CURLOPT_TIMEOUT_MS, static_cast<long>(request.timeout_ms));
    if (!options_.ca_file.empty()) {
      curl_easy_setopt(handle, CURLOPT_CAINFO, options_.ca_file.c_str());
    }
    curl_easy_setopt(handle, CURLOPT_ERRORBUFFER, why);
    curl_easy_setopt(handle, CURLOPT_HEADERFUNCTION, OnHeader);
    curl_easy_setopt(handle, CURLOPT_HEADERDATA, exchange);
    curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, OnBody);
    curl_easy_setopt(handle, CURLOPT_WRITEDATA, exchange);
    if (request.method == "HEAD") {
      curl_easy_setopt(handle, CURLOPT_NOBODY, 1L);
    } else if (request.method == "PUT" || request.method == "POST") {
      curl_easy_setopt(handle, CURLOPT_UPLOAD, 1L);
      curl_easy_setopt(handle, CURLOPT_READFUNCTION, OnSend);
      curl_easy_setopt(handle, CURLOPT_READDATA, exchange);
      curl_easy_setopt(handle, CURLOPT_INFILESIZE_LARGE,
                       static_cast<curl_off_t>(request.body.size()));
      curl_easy_setopt(handle, CURLOPT_CUSTOMREQUEST, request.method.c_str());
    } else {
      curl_easy_setopt(handle, CURLOPT_CUSTOMREQUEST, request.method.c_str());
    }
  }

  const HttpClientOptions options_;
  Mutex mu_;
  std::vector<CURL*> idle_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

std::shared_ptr<HttpClient> CurlHttpClient(HttpClientOptions options) {
  return std::make_shared<CurlClient>(std::move(options));
}

}  // namespace edge::srs
