#include "srs/sigv4.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <array>
#include <ctime>

#include "edge/base/check.h"
#include "edge/base/errors.h"

namespace edge::srs {
namespace {

using Digest = std::array<std::byte, 32>;

Digest Sha256(ByteView bytes) {
  Digest digest;
  const int hashed =
      EVP_Digest(bytes.data(), bytes.size(), reinterpret_cast<unsigned char*>(digest.data()),
                 nullptr, EVP_sha256(), nullptr);
  EDGE_CHECK(hashed == 1);
  return digest;
}

Digest Hmac(ByteView key, std::string_view text) {
  Digest digest;
  const auto* made = HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
                          reinterpret_cast<const unsigned char*>(text.data()), text.size(),
                          reinterpret_cast<unsigned char*>(digest.data()), nullptr);
  EDGE_CHECK(made != nullptr);
  return digest;
}

std::string TimeText(int64_t wall_ms) {
  const auto seconds = static_cast<time_t>(wall_ms / 1000);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[32];
  std::strftime(text, sizeof(text), "%Y%m%dT%H%M%SZ", &parts);
  return text;
}

}  // namespace

std::string UriEncode(std::string_view text, std::string_view keep) {
  std::string encoded;
  for (const char c : text) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                       c == '-' || c == '.' || c == '_' || c == '~' ||
                       keep.find(c) != std::string_view::npos;
    if (plain) {
      encoded += c;
    } else {
      encoded += Format("%{:02X}", {static_cast<unsigned>(static_cast<unsigned char>(c))});
    }
  }
  return encoded;
}

std::string EncodeQuery(const std::map<std::string, std::string>& query) {
  std::string encoded;
  for (const auto& [name, value] : query) {
    if (!encoded.empty()) encoded += '&';
    encoded += UriEncode(name) + "=" + UriEncode(value);
  }
  return encoded;
}

void Sign(const SigV4Key& key, SigV4Request* request) {
  const std::string time = TimeText(request->wall_ms);
  const std::string date = time.substr(0, 8);
  const std::string body_hash = ToHex(Sha256(request->body));
  request->headers["x-amz-date"] = time;
  request->headers["x-amz-content-sha256"] = body_hash;

  std::string headers;
  std::string names;
  for (const auto& [name, value] : request->headers) {
    headers += name + ":" + value + "\n";
    names += (names.empty() ? "" : ";") + name;
  }
  const std::string canonical = Format(
      "{}\n{}\n{}\n{}\n{}\n{}",
      {request->method, request->path, EncodeQuery(request->query), headers, names, body_hash});
  const std::string scope = Format("{}/{}/s3/aws4_request", {date, key.region});
  const std::string to_sign =
      Format("AWS4-HMAC-SHA256\n{}\n{}\n{}", {time, scope, ToHex(Sha256(AsBytes(canonical)))});
  Digest secret = Hmac(AsBytes("AWS4" + std::string(key.secret_key)), date);
  secret = Hmac(secret, key.region);
  secret = Hmac(secret, "s3");
  secret = Hmac(secret, "aws4_request");
  request->headers["authorization"] =
      Format("AWS4-HMAC-SHA256 Credential={}/{},SignedHeaders={},Signature={}",
             {key.access_key, scope, names, ToHex(Hmac(secret, to_sign))});
}

}  // namespace edge::srs
