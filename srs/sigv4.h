// srs/sigv4.h - AWS Signature Version 4 for single-chunk S3 requests.
//
// Source: "Authenticating Requests: Using the Authorization Header" in Amazon's S3 API
// reference; its worked examples are our tests.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "edge/base/bytes.h"

namespace edge::srs {

struct SigV4Request {
  std::string method;
  std::string path;                            // encoded, begins with '/'
  std::map<std::string, std::string> query;    // not encoded
  std::map<std::string, std::string> headers;  // names in lower case; with host
  ByteView body;
  int64_t wall_ms = 0;
};
struct SigV4Key {
  std::string_view access_key;
  std::string_view secret_key;
  std::string_view region;
};

// Adds x-amz-date, x-amz-content-sha256 and authorization to the headers.
void Sign(const SigV4Key& key, SigV4Request* request);

// RFC 3986: all but A-Z a-z 0-9 - . _ ~ becomes %XX; '/' stays if asked.
std::string UriEncode(std::string_view text, std::string_view keep = "");
std::string EncodeQuery(const std::map<std::string, std::string>& query);

}  // namespace edge::srs
