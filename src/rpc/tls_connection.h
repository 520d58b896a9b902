// TLS over any Connection: OpenSSL between two memory buffers, so it runs in a simulation too.
#pragma once
#include <memory>
#include <string>

#include "edge/base/executor.h"
#include "edge/base/network.h"
#include "edge/base/status.h"
#include "edge/rpc/tls.h"

namespace edge::rpc {

// Certificates and keys, read once and shared by connections. Immutable.
class TlsContext {
 public:
  // InvalidArgument or NotFound, which say what is wrong with which file.
  static StatusOr<std::shared_ptr<TlsContext>> ForServer(const TlsServerOptions& options);
  static StatusOr<std::shared_ptr<TlsContext>> ForClient(const TlsClientOptions& options);
  virtual ~TlsContext() = default;

  // Handshakes once it is started; what is written before waits for that. A client's peer must
  // be `server_name`, a DNS name or an IP address. A failed handshake ends the connection.
  virtual std::unique_ptr<edge::Connection> Wrap(Loop& loop, std::unique_ptr<edge::Connection> raw,
                                                 const std::string& server_name) const = 0;
};

// Of a connection that Wrap made, once data has come. Null: it sent none.
const PeerCertificate* CertificateOf(const edge::Connection& wrapped);

}  // namespace edge::rpc
