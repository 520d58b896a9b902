#include "src/rpc/tls_connection.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <array>
#include <climits>
#include <utility>

#include "edge/base/errors.h"
#include "edge/base/file_system.h"

namespace edge::rpc {
namespace {

constexpr size_t kPemBytesMax = 1 << 20;
constexpr size_t kBufferBytesMax = size_t{16} << 20;

template <auto kFree>
struct Freed {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using SslPtr = std::unique_ptr<SSL, Freed<SSL_free>>;
using ContextPtr = std::unique_ptr<SSL_CTX, Freed<SSL_CTX_free>>;
using BioPtr = std::unique_ptr<BIO, Freed<BIO_free>>;
using CertificatePtr = std::unique_ptr<X509, Freed<X509_free>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY_free>>;

// What OpenSSL's own queue says; empties it.
std::string Reason() {
  std::string text;
  for (unsigned long code = 0; (code = ERR_get_error()) != 0;) {
    const char* const reason = ERR_reason_error_string(code);
    if (reason != nullptr) text = reason;
  }
  return text.empty() ? "no reason given" : text;
}

StatusOr<std::string> ReadPem(const std::string& text_or_path) {
  if (text_or_path.starts_with("-----BEGIN")) return text_or_path;
  EDGE_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(PosixFileSystem(), text_or_path, kPemBytesMax));
  return std::string(AsText(bytes));
}

BioPtr Open(const std::string& pem) {
  return BioPtr(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

// Our certificate with its chain, and the key to it.
Status UseCertificate(SSL_CTX* context, const std::string& certificate, const std::string& key) {
  EDGE_ASSIGN_OR_RETURN(const std::string chain, ReadPem(certificate));
  EDGE_ASSIGN_OR_RETURN(const std::string key_text, ReadPem(key));
  const BioPtr chain_bio = Open(chain);
  const CertificatePtr own(PEM_read_bio_X509(chain_bio.get(), nullptr, nullptr, nullptr));
  if (own == nullptr) return InvalidArgument("tls: no certificate in PEM: {}", Reason());
  if (SSL_CTX_use_certificate(context, own.get()) != 1)
    return InvalidArgument("tls: the certificate cannot be used: {}", Reason());
  while (X509* next = PEM_read_bio_X509(chain_bio.get(), nullptr, nullptr, nullptr))
    SSL_CTX_add_extra_chain_cert(context, next);  // takes it over
  ERR_clear_error();                              // the end of the text
  const BioPtr key_bio = Open(key_text);
  const KeyPtr private_key(PEM_read_bio_PrivateKey(key_bio.get(), nullptr, nullptr, nullptr));
  if (private_key == nullptr) return InvalidArgument("tls: no private key in PEM: {}", Reason());
  if (SSL_CTX_use_PrivateKey(context, private_key.get()) != 1)
    return InvalidArgument("tls: the key is not that of the certificate: {}", Reason());
  return OkStatus();
}

Status Trust(SSL_CTX* context, const std::string& ca) {
  EDGE_ASSIGN_OR_RETURN(const std::string pem, ReadPem(ca));
  const BioPtr bio = Open(pem);
  int count = 0;
  for (;; ++count) {
    const CertificatePtr one(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
    if (one == nullptr) break;
    X509_STORE_add_cert(SSL_CTX_get_cert_store(context), one.get());
  }
  ERR_clear_error();
  if (count == 0) return InvalidArgument("tls: no authority's certificate in PEM");
  return OkStatus();
}

ContextPtr NewContext(const SSL_METHOD* method) {
  ContextPtr context(SSL_CTX_new(method));
  SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION);
  SSL_CTX_set_mode(context.get(), SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                                      SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_num_tickets(context.get(), 0);
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  return context;
}

PeerCertificate Describe(X509* certificate) {
  PeerCertificate peer;
  std::array<char, 256> name{};
  const int size = X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName,
                                             name.data(), static_cast<int>(name.size()));
  if (size > 0) peer.common_name.assign(name.data(), static_cast<size_t>(size));
  auto* names = static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
  for (int i = 0; i < sk_GENERAL_NAME_num(names); ++i) {
    const GENERAL_NAME* const entry = sk_GENERAL_NAME_value(names, i);
    if (entry->type != GEN_DNS) continue;
    const auto* text = ASN1_STRING_get0_data(entry->d.dNSName);
    peer.dns_names.emplace_back(reinterpret_cast<const char*>(text),
                                static_cast<size_t>(ASN1_STRING_length(entry->d.dNSName)));
  }
  GENERAL_NAMES_free(names);
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned digest_size = 0;
  X509_digest(certificate, EVP_sha256(), digest.data(), &digest_size);
  constexpr char kHex[] = "0123456789abcdef";
  for (unsigned i = 0; i < digest_size; ++i) {
    peer.sha256 += kHex[digest[i] >> 4];
    peer.sha256 += kHex[digest[i] & 15];
  }
  return peer;
}

// A handler may destroy the connection that calls it: frames hold on to Shared and look whether
// `owner` is still there after every call out.
class TlsConnection final : public edge::Connection {
 public:
  TlsConnection(Loop& loop, std::unique_ptr<edge::Connection> raw, SslPtr ssl)
      : loop_(loop), raw_(std::move(raw)), ssl_(std::move(ssl)) {
    shared_->owner = this;
    in_ = BIO_new(BIO_s_mem());
    out_ = BIO_new(BIO_s_mem());
    SSL_set_bio(ssl_.get(), in_, out_);  // takes both over
  }
  ~TlsConnection() override { shared_->owner = nullptr; }

  void Start(Handlers handlers) override {
    shared_->handlers = std::move(handlers);
    raw_->Start({.on_data = [this](ByteView bytes) { OnRaw(bytes); },
                 .on_close = [this](Status reason) { OnRawClosed(std::move(reason)); },
                 .on_drained = [this] { OnRawDrained(); }});
    Handshake();
  }

  // Gathered until the end of the turn: one record for many small writes.
  Status Write(ByteView bytes) override {
    if (ended_ || closing_) return Unavailable("connection to {} is closed", peer_address());
    if (bytes.size() > kBufferBytesMax - std::min(kBufferBytesMax, buffered_bytes()))
      return ResourceExhausted("connection to {}: {} bytes are waiting", peer_address(),
                               buffered_bytes());
    plain_.insert(plain_.end(), bytes.begin(), bytes.end());
    DeferFlush();
    return OkStatus();
  }
  size_t buffered_bytes() const override { return plain_.size() + raw_->buffered_bytes(); }
  void PauseReading(bool paused) override {
    paused_ = paused;
    raw_->PauseReading(paused);
    if (!paused && BIO_pending(in_) > 0) DeferFlush();  // what OpenSSL still holds
  }
  void Close() override {
    if (std::exchange(closing_, true)) return;
    DeferFlush();
  }
  const std::string& peer_address() const override { return raw_->peer_address(); }
  const PeerCertificate* certificate() const { return peer_.sha256.empty() ? nullptr : &peer_; }

 private:
  struct Shared {
    TlsConnection* owner = nullptr;
    Handlers handlers;
  };

  void DeferFlush() {
    if (std::exchange(flush_waits_, true)) return;
    loop_.Defer([shared = shared_] {
      TlsConnection* const self = shared->owner;
      if (self == nullptr) return;
      self->flush_waits_ = false;
      self->Read();
      if (shared->owner != nullptr) self->Flush();
    });
  }

  void OnRaw(ByteView bytes) {
    const auto shared = shared_;
    BIO_write(in_, bytes.data(), static_cast<int>(bytes.size()));
    Handshake();
    Read();
  }

  void Handshake() {
    if (handshaken_ || ended_) return;
    const int result = SSL_do_handshake(ssl_.get());
    PassOn();
    if (result == 1) {
      handshaken_ = true;
      const CertificatePtr certificate(SSL_get1_peer_certificate(ssl_.get()));
      if (certificate != nullptr) peer_ = Describe(certificate.get());
      if (!plain_.empty() || closing_) DeferFlush();
      return;
    }
    if (SSL_get_error(ssl_.get(), result) != SSL_ERROR_WANT_READ) {
      const long verdict = SSL_get_verify_result(ssl_.get());
      std::string reason = Reason();
      if (verdict != X509_V_OK)
        reason += std::string(": ") + X509_verify_cert_error_string(verdict);
      Fail(PermissionDenied("tls handshake with {}: {}", peer_address(), reason));
    }
  }

  void Read() {
    const auto shared = shared_;
    std::array<std::byte, 16384> buffer;  // a record; not cleared on purpose
    while (handshaken_ && !paused_ && !ended_) {
      const int got = SSL_read(ssl_.get(), buffer.data(), static_cast<int>(buffer.size()));
      if (got > 0) {
        if (!closing_ && shared->handlers.on_data)
          shared->handlers.on_data({buffer.data(), static_cast<size_t>(got)});
        if (shared->owner == nullptr) return;
        continue;
      }
      const int error = SSL_get_error(ssl_.get(), got);
      if (error == SSL_ERROR_ZERO_RETURN) return Fail(OkStatus());
      if (error != SSL_ERROR_WANT_READ)
        return Fail(Unavailable("tls with {}: {}", peer_address(), Reason()));
      break;
    }
    PassOn();  // key updates and the like
  }

  void Flush() {
    if (ended_ || !handshaken_) return;
    size_t done = 0;
    while (done < plain_.size()) {
      const size_t size = std::min(plain_.size() - done, size_t{INT_MAX});
      const int put = SSL_write(ssl_.get(), plain_.data() + done, static_cast<int>(size));
      if (put <= 0) return Fail(Unavailable("tls with {}: {}", peer_address(), Reason()));
      done += static_cast<size_t>(put);
      PassOn();
    }
    plain_ = {};
    if (!closing_) return;
    SSL_shutdown(ssl_.get());
    PassOn();
    raw_->Close();
  }

  // Records that are ready go to the connection.
  void PassOn() {
    char* data = nullptr;
    const long size = BIO_get_mem_data(out_, &data);
    if (size <= 0) return;
    raw_->Write({reinterpret_cast<const std::byte*>(data), static_cast<size_t>(size)})
        .IgnoreError();  // a closed one tells so
    BIO_reset(out_);
  }

  void OnRawDrained() {
    if (plain_.empty() && shared_->handlers.on_drained && handshaken_) {
      const auto shared = shared_;
      shared->handlers.on_drained();
    }
  }

  void OnRawClosed(Status reason) { Fail(std::move(reason)); }

  // From the end of this turn, as for any connection.
  void Fail(Status reason) {
    if (std::exchange(ended_, true)) return;
    raw_->Close();  // what a failed handshake has to say still goes out
    loop_.Defer([shared = shared_, reason = std::move(reason)]() mutable {
      if (shared->owner != nullptr && shared->handlers.on_close)
        shared->handlers.on_close(std::move(reason));
    });
  }

  Loop& loop_;
  const std::unique_ptr<edge::Connection> raw_;
  const SslPtr ssl_;
  BIO* in_ = nullptr;
  BIO* out_ = nullptr;
  const std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
  Bytes plain_;  // written, not yet encrypted
  PeerCertificate peer_;
  bool handshaken_ = false;
  bool paused_ = false;
  bool closing_ = false;
  bool ended_ = false;
  bool flush_waits_ = false;
};

class Context final : public TlsContext {
 public:
  Context(ContextPtr context, std::string server_name)
      : context_(std::move(context)), server_name_(std::move(server_name)) {}

  std::unique_ptr<edge::Connection> Wrap(Loop& loop, std::unique_ptr<edge::Connection> raw,
                                         const std::string& server_name) const override {
    SslPtr ssl(SSL_new(context_.get()));
    if (SSL_is_server(ssl.get()) != 0) {
      SSL_set_accept_state(ssl.get());
    } else {
      Expect(ssl.get(), server_name_.empty() ? server_name : server_name_);
      SSL_set_connect_state(ssl.get());
    }
    return std::make_unique<TlsConnection>(loop, std::move(raw), std::move(ssl));
  }

 private:
  static void Expect(SSL* ssl, const std::string& name) {
    std::array<unsigned char, 16> address;
    const bool is_address = inet_pton(AF_INET, name.c_str(), address.data()) == 1 ||
                            inet_pton(AF_INET6, name.c_str(), address.data()) == 1;
    if (is_address) {
      X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name.c_str());
    } else {
      SSL_set1_host(ssl, name.c_str());
      SSL_set_tlsext_host_name(ssl, name.c_str());
    }
  }

  const ContextPtr context_;
  const std::string server_name_;
};

}  // namespace

StatusOr<std::shared_ptr<TlsContext>> TlsContext::ForServer(const TlsServerOptions& options) {
  ContextPtr context = NewContext(TLS_server_method());
  EDGE_RETURN_IF_ERROR(UseCertificate(context.get(), options.certificate, options.key));
  if (!options.client_ca.empty()) {
    EDGE_RETURN_IF_ERROR(Trust(context.get(), options.client_ca));
    SSL_CTX_set_verify(
        context.get(),
        SSL_VERIFY_PEER |
            (options.require_client_certificate ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0),
        nullptr);
  }
  return std::shared_ptr<TlsContext>(std::make_shared<Context>(std::move(context), ""));
}

StatusOr<std::shared_ptr<TlsContext>> TlsContext::ForClient(const TlsClientOptions& options) {
  ContextPtr context = NewContext(TLS_client_method());
  if (options.ca.empty()) {
    SSL_CTX_set_default_verify_paths(context.get());
  } else {
    EDGE_RETURN_IF_ERROR(Trust(context.get(), options.ca));
  }
  if (!options.certificate.empty())
    EDGE_RETURN_IF_ERROR(UseCertificate(context.get(), options.certificate, options.key));
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  return std::shared_ptr<TlsContext>(
      std::make_shared<Context>(std::move(context), options.server_name));
}

const PeerCertificate* CertificateOf(const edge::Connection& wrapped) {
  const auto* tls = dynamic_cast<const TlsConnection*>(&wrapped);
  return tls == nullptr ? nullptr : tls->certificate();
}

}  // namespace edge::rpc
