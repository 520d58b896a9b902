// edge/rpc/authenticator.h - who is at the door of an entrypoint (HttpServer::HandleRpc).
//
// An authenticator looks at the request that opens a session, or carries a batch, and names
// who sent it, or refuses with Unauthenticated (nothing shown) or PermissionDenied (shown, and
// not good). It runs once per session, before the main object is made.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "edge/rpc/http_server.h"

namespace edge::rpc {

// "Authorization: Bearer TOKEN". Keys are tokens, values the names of their owners. Tokens are
// kept as SHA-256 and compared in constant time.
Authenticator BearerTokens(std::map<std::string, std::string> owners);
// The same by a cookie; pages of other origins are kept out by HttpServer's origin check.
Authenticator CookieTokens(std::string cookie, std::map<std::string, std::string> owners);
// The client's certificate, which TlsServerOptions::client_ca has vouched for: its common name
// or a DNS name of it must be one of `names`; empty: any will do. The name is the identity.
Authenticator ClientCertificates(std::vector<std::string> names = {});
// The first that accepts; if none does, the refusal that tells most: PermissionDenied before
// Unauthenticated.
Authenticator AnyOf(std::vector<Authenticator> authenticators);

}  // namespace edge::rpc
