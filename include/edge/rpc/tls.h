// edge/rpc/tls.h - certificates for servers and clients: TLS 1.3 and nothing older.
//
// Each certificate or key is PEM: the text itself if it starts with "-----BEGIN", else the
// path of a file that holds it.
#pragma once
#include <string>
#include <vector>

#include "edge/base/status.h"

namespace edge::rpc {

struct TlsServerOptions {
  std::string certificate;  // the chain, our own first; empty: no TLS
  std::string key;
  // Whose client certificates count (mTLS); empty: clients are not asked for any.
  std::string client_ca = {};
  bool require_client_certificate = true;  // if client_ca is given
};

struct TlsClientOptions {
  std::string ca = {};           // whom to trust; empty: the system's authorities
  std::string server_name = {};  // the name to expect; empty: the host of the URL
  std::string certificate = {};  // ours, if the server wants one
  std::string key = {};
};

// What a client proved to be by its certificate; all empty without one.
struct PeerCertificate {
  std::string common_name;
  std::vector<std::string> dns_names;
  std::string sha256;  // of the certificate, 64 hexadecimal digits
  bool operator==(const PeerCertificate&) const = default;
};

}  // namespace edge::rpc
