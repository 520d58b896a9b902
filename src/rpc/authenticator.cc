#include "edge/rpc/authenticator.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "edge/base/errors.h"

namespace edge::rpc {
namespace {

using Digest = std::array<unsigned char, SHA256_DIGEST_LENGTH>;

Digest DigestOf(std::string_view text) {
  Digest digest;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  return digest;
}

// All entries are looked at, whichever fits: how long it takes says nothing.
class Tokens {
 public:
  explicit Tokens(std::map<std::string, std::string> owners) {
    for (auto& [token, owner] : owners) entries_.emplace_back(DigestOf(token), std::move(owner));
  }
  StatusOr<Identity> Find(std::string_view token, std::string_view means) const {
    if (token.empty()) return Unauthenticated("a {} is wanted", means);
    const Digest digest = DigestOf(token);
    const std::string* owner = nullptr;
    for (const auto& [known, name] : entries_)
      if (CRYPTO_memcmp(known.data(), digest.data(), digest.size()) == 0) owner = &name;
    if (owner == nullptr) return PermissionDenied("the {} is not known", means);
    return Identity{*owner, std::string(means)};
  }

 private:
  std::vector<std::pair<Digest, std::string>> entries_;
};

}  // namespace

Authenticator BearerTokens(std::map<std::string, std::string> owners) {
  return [tokens = Tokens(std::move(owners))](const HttpRequest& request) -> StatusOr<Identity> {
    std::string_view header = request.Header("authorization");
    constexpr std::string_view kScheme = "Bearer ";
    if (!header.starts_with(kScheme)) return Unauthenticated("a token is wanted");
    header.remove_prefix(kScheme.size());
    return tokens.Find(header, "token");
  };
}

Authenticator CookieTokens(std::string cookie, std::map<std::string, std::string> owners) {
  return [cookie = std::move(cookie), tokens = Tokens(std::move(owners))](
             const HttpRequest& request) { return tokens.Find(request.Cookie(cookie), "cookie"); };
}

Authenticator ClientCertificates(std::vector<std::string> names) {
  return [names = std::move(names)](const HttpRequest& request) -> StatusOr<Identity> {
    const PeerCertificate& certificate = request.certificate;
    if (certificate.sha256.empty()) return Unauthenticated("a certificate is wanted");
    std::vector<std::string> candidates = certificate.dns_names;
    if (!certificate.common_name.empty())
      candidates.insert(candidates.begin(), certificate.common_name);
    for (const std::string& candidate : candidates)
      if (names.empty() || std::ranges::find(names, candidate) != names.end())
        return Identity{candidate, "certificate"};
    return PermissionDenied("the certificate of '{}' does not open this", certificate.common_name);
  };
}

Authenticator AnyOf(std::vector<Authenticator> authenticators) {
  return
      [all = std::move(authenticators)](const HttpRequest& request) mutable -> StatusOr<Identity> {
        Status refusal = Unauthenticated("nobody is let in here");
        bool refused = false;
        for (Authenticator& one : all) {
          StatusOr<Identity> identity = one(request);
          if (identity.ok()) return identity;
          const bool tells_more = identity.status().code() == StatusCode::kPermissionDenied &&
                                  refusal.code() != StatusCode::kPermissionDenied;
          if (!std::exchange(refused, true) || tells_more) refusal = identity.status();
        }
        return refusal;
      };
}

Status HttpServer::HandleRpc(std::string path, Authenticator authenticator,
                             EntrypointFactory factory) {
  return HandleRpc(std::move(path),
                   [authenticator = std::move(authenticator), factory = std::move(factory)](
                       const HttpRequest& request) mutable -> StatusOr<HookPtr> {
                     EDGE_ASSIGN_OR_RETURN(const Identity who, authenticator(request));
                     return factory(who, request);
                   });
}

}  // namespace edge::rpc
