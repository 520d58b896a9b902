// edge/srs/s3_store.h - an ObjectStore in an S3 bucket, and stores by URL.
//
// Requests are signed with AWS Signature Version 4 and go through HttpClient, which libcurl
// implements; a test passes its own to decide what the network does. A request that may have
// failed for a passing reason (no connection, a timeout, 429, 5xx) is made again after a
// random delay that doubles. A conditional put that may have succeeded without our learning
// of it is settled by comparing what is there with what was sent.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "edge/base/bytes.h"
#include "edge/base/callback.h"
#include "edge/base/clock.h"
#include "edge/base/random.h"
#include "edge/base/status.h"
#include "edge/srs/object_store.h"

namespace edge::srs {

struct HttpRequest {
  std::string method;
  std::string url;
  std::vector<std::pair<std::string, std::string>> headers;
  ByteView body;
  int64_t timeout_ms = 0;           // from connecting to the last byte
  uint64_t response_bytes_max = 0;  // a longer body is ResourceExhausted
};

struct HttpResponse {
  int code = 0;
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  Bytes body;
};

// Thread-safe. Blocks. Unavailable: no answer, a broken one, or the time was up (whether the
// server acted on the request is then unknown). Answers of any code are OK.
class HttpClient {
 public:
  virtual ~HttpClient() = default;
  virtual StatusOr<HttpResponse> Send(const HttpRequest& request) = 0;
};

struct HttpClientOptions {
  int64_t connect_timeout_ms = 5'000;
  std::string ca_file = {};  // PEM; empty: the system's
  std::string proxy = {};    // empty: none, whatever the environment says
};
// libcurl, with connections kept for the next request.
std::shared_ptr<HttpClient> CurlHttpClient(HttpClientOptions options = {});

struct S3Options {
  std::string bucket = {};
  std::string prefix = {};  // of all keys, without a '/' at the end
  std::string region = "us-east-1";
  // "https://host" or "http://host:port", with the bucket in the path; empty: AWS, with the
  // bucket in the host name.
  std::string endpoint = {};
  std::string access_key = {};
  std::string secret_key = {};
  std::string session_token = {};

  int64_t request_timeout_ms = 60'000;
  int attempts_max = 6;                  // of one request, 1 or more
  int64_t retry_delay_ms = 100;          // before the second; doubles up to ...
  int64_t retry_delay_ms_max = 10'000;   // ... this; each times a random 0.5 to 1
  uint64_t part_bytes = 16 << 20;        // objects above this go up in parts; 5 MiB or more
  uint64_t object_bytes_max = 1u << 31;  // of what is read at once

  std::shared_ptr<HttpClient> http = nullptr;  // null: CurlHttpClient()
  Clock* clock = nullptr;                      // null: SystemClock()
  Random* random = nullptr;                    // null: SystemRandom(); used under a lock
  Callback<void(int64_t ms)> sleep_ms = {};    // empty: the thread sleeps
};

// InvalidArgument: an option is missing or out of range. Nothing is sent yet.
StatusOr<std::unique_ptr<ObjectStore>> S3Store(S3Options options);

// Looks a name up in the environment; null if it is not there.
using Environment = Callback<const char*(const char* name)>;

// The store that `url` names: "s3://bucket/prefix?region=R&endpoint=URL", or a folder as
// "folder:PATH", "file:///PATH" or a plain path. S3 takes what the URL leaves open from
// `environment` (may be empty): AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN,
// AWS_REGION or AWS_DEFAULT_REGION, AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL. InvalidArgument.
StatusOr<std::unique_ptr<ObjectStore>> OpenStore(std::string_view url, Environment environment);

}  // namespace edge::srs
