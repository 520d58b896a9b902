#include "srs/link.h"

#include <openssl/err.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>

#include <cstring>
#include <utility>

#include "edge/base/bytes.h"
#include "edge/base/check.h"
#include "edge/base/errors.h"

namespace edge::srs {
namespace {

constexpr size_t kBufferBytesMax = 16 << 20;  // as the Network promises
constexpr char kIdentity[] = "edge-srs";

// One per SecureNetwork; shared by its connections, which may outlive it.
struct TlsContext {
  unsigned char key[SHA256_DIGEST_LENGTH];
  SSL_CTX* ctx = nullptr;
  ~TlsContext() { SSL_CTX_free(ctx); }
};

int ContextIndex() {
  static const int index = SSL_CTX_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
  return index;
}

SSL_SESSION* MakeSession(SSL* ssl) {
  const auto* context =
      static_cast<TlsContext*>(SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), ContextIndex()));
  const unsigned char id[] = {0x13, 0x01};  // TLS_AES_128_GCM_SHA256
  const SSL_CIPHER* cipher = SSL_CIPHER_find(ssl, id);
  SSL_SESSION* session = SSL_SESSION_new();
  if (cipher == nullptr || session == nullptr ||
      SSL_SESSION_set1_master_key(session, context->key, sizeof context->key) != 1 ||
      SSL_SESSION_set_cipher(session, cipher) != 1 ||
      SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) != 1) {
    SSL_SESSION_free(session);
    return nullptr;
  }
  return session;
}

int UseSession(SSL* ssl, const EVP_MD*, const unsigned char** id, size_t* id_bytes,
               SSL_SESSION** session) {
  *session = MakeSession(ssl);
  *id = reinterpret_cast<const unsigned char*>(kIdentity);
  *id_bytes = sizeof kIdentity - 1;
  return *session != nullptr ? 1 : 0;
}

int FindSession(SSL* ssl, const unsigned char* id, size_t id_bytes, SSL_SESSION** session) {
  *session = nullptr;
  const bool is_ours =
      id_bytes == sizeof kIdentity - 1 && std::memcmp(id, kIdentity, id_bytes) == 0;
  if (is_ours) *session = MakeSession(ssl);
  return 1;
}

class TlsConnection final : public Connection {
 public:
  TlsConnection(std::shared_ptr<TlsContext> context, std::unique_ptr<Connection> inner, Loop& loop,
                bool is_server)
      : context_(std::move(context)), inner_(std::move(inner)), loop_(loop) {
    ssl_ = SSL_new(context_->ctx);
    EDGE_CHECK(ssl_ != nullptr);
    in_ = BIO_new(BIO_s_mem());
    out_ = BIO_new(BIO_s_mem());
    SSL_set_bio(ssl_, in_, out_);
    if (is_server) {
      SSL_set_accept_state(ssl_);
    } else {
      SSL_set_connect_state(ssl_);
    }
  }
  ~TlsConnection() override {
    *alive_ = false;
    SSL_free(ssl_);
  }

  void Start(Handlers handlers) override {
    handlers_ = std::move(handlers);
    inner_->Start({.on_data =
                       [this](ByteView bytes) {
                         BIO_write(in_, bytes.data(), static_cast<int>(bytes.size()));
                         Drive();
                       },
                   .on_close =
                       [this](const Status& status) {
                         const bool early = !SSL_is_init_finished(ssl_);
                         FinishWith(early && status.ok()
                                        ? Unauthenticated("{}: closed during the handshake; is "
                                                          "its secret another?",
                                                          peer_address())
                                        : status);
                       },
                   .on_drained =
                       [this] {
                         if (plain_.empty() && handlers_.on_drained) handlers_.on_drained();
                       }});
    loop_.Defer([this, alive = alive_] {
      if (*alive) Drive();
    });
  }

  Status Write(ByteView bytes) override {
    if (is_finished_) return Unavailable("{}: closed", peer_address());
    if (buffered_bytes() + bytes.size() > kBufferBytesMax) {
      return ResourceExhausted("{}: {} bytes wait to be sent", peer_address(), buffered_bytes());
    }
    if (!SSL_is_init_finished(ssl_) || !plain_.empty()) {
      plain_.insert(plain_.end(), bytes.begin(), bytes.end());
      return OkStatus();
    }
    return Seal(bytes);
  }
  size_t buffered_bytes() const override { return inner_->buffered_bytes() + plain_.size(); }
  void PauseReading(bool paused) override { inner_->PauseReading(paused); }
  void Close() override { inner_->Close(); }
  const std::string& peer_address() const override { return inner_->peer_address(); }

 private:
  // Memory BIOs take everything, so SSL_write never asks to be called again.
  Status Seal(ByteView bytes) {
    ERR_clear_error();
    if (!bytes.empty() && SSL_write(ssl_, bytes.data(), static_cast<int>(bytes.size())) <= 0) {
      return Internal("{}: TLS could not take {} bytes", peer_address(), bytes.size());
    }
    return SendSealed();
  }
  Status SendSealed() {
    char* data = nullptr;
    const auto size = static_cast<size_t>(BIO_get_mem_data(out_, &data));
    if (size == 0) return OkStatus();
    const Status sent = inner_->Write(AsBytes({data, size}));
    (void)BIO_reset(out_);
    return sent;
  }
  void Drive() {
    if (is_finished_) return;
    ERR_clear_error();
    if (!SSL_is_init_finished(ssl_)) {
      const int done = SSL_do_handshake(ssl_);
      const int why = SSL_get_error(ssl_, done);
      if (done <= 0 && why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) {
        char text[120] = "?";
        ERR_error_string_n(ERR_peek_last_error(), text, sizeof text);
        SendSealed().IgnoreError();  // the alert
        return FinishWith(Unauthenticated("{}: the handshake failed ({}); is the secret another?",
                                          peer_address(), text));
      }
      SendSealed().IgnoreError();
      if (!SSL_is_init_finished(ssl_)) return;
      const Bytes waiting = std::exchange(plain_, {});
      Seal(waiting).IgnoreError();  // a broken connection says so by on_close
    }
    const std::weak_ptr<bool> alive = alive_;
    std::byte plain[16384];
    for (;;) {
      const int got = SSL_read(ssl_, plain, sizeof plain);
      if (got <= 0) {
        const int why = SSL_get_error(ssl_, got);
        SendSealed().IgnoreError();
        if (why == SSL_ERROR_WANT_READ) return;
        if (why == SSL_ERROR_ZERO_RETURN) return FinishWith(OkStatus());
        return FinishWith(DataLoss("{}: what came is not what was sent", peer_address()));
      }
      handlers_.on_data({plain, static_cast<size_t>(got)});
      if (alive.expired() || is_finished_) return;
    }
  }
  void FinishWith(const Status& status) {
    if (std::exchange(is_finished_, true)) return;
    auto on_close = std::move(handlers_.on_close);
    if (on_close) on_close(status);
  }

  std::shared_ptr<TlsContext> context_;
  std::unique_ptr<Connection> inner_;
  Loop& loop_;
  Handlers handlers_;
  SSL* ssl_ = nullptr;
  BIO* in_ = nullptr;   // the SSL's
  BIO* out_ = nullptr;  // the SSL's
  Bytes plain_;         // until the handshake is done
  bool is_finished_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // owners: this, deferred tasks
};

class SecureNetworkImpl final : public Network {
 public:
  SecureNetworkImpl(Network& base, std::shared_ptr<TlsContext> context)
      : base_(base), context_(std::move(context)) {}
  StatusOr<std::unique_ptr<Listener>> Listen(
      Loop& loop, const std::string& address,
      Callback<void(std::unique_ptr<Connection>)> on_accept) override {
    EDGE_RETURN_IF_ERROR(Check(address));
    if (context_ == nullptr) return base_.Listen(loop, address, std::move(on_accept));
    return base_.Listen(
        loop, address,
        [&loop, context = context_,
         give = std::move(on_accept)](std::unique_ptr<Connection> inner) mutable {
          give(std::make_unique<TlsConnection>(context, std::move(inner), loop, true));
        });
  }
  void Connect(Loop& loop, const std::string& address,
               Callback<void(StatusOr<std::unique_ptr<Connection>>)> done) override {
    const Status good = Check(address);
    if (!good.ok()) {
      // Never from inside the caller's own call.
      loop.PostUrgent([give = std::move(done), good]() mutable { give(good); });
      return;
    }
    if (context_ == nullptr) return base_.Connect(loop, address, std::move(done));
    base_.Connect(loop, address,
                  [&loop, context = context_,
                   give = std::move(done)](StatusOr<std::unique_ptr<Connection>> inner) mutable {
                    if (!inner.ok()) return give(inner.status());
                    give(std::make_unique<TlsConnection>(context, *std::move(inner), loop, false));
                  });
  }

 private:
  Status Check(const std::string& address) const {
    if (context_ != nullptr || &base_ != &PosixNetwork() || IsLoopback(address)) return OkStatus();
    return FailedPrecondition("{}: links that leave this machine need a secret", address);
  }
  Network& base_;
  const std::shared_ptr<TlsContext> context_;
};

}  // namespace

bool IsLoopback(const std::string& address) {
  return address.starts_with("127.") || address.starts_with("[::1]:") ||
         address.starts_with("unix:");
}

StatusOr<std::unique_ptr<Network>> SecureNetwork(Network& base, const std::string& secret) {
  if (secret.empty()) return std::make_unique<SecureNetworkImpl>(base, nullptr);
  if (secret.size() < kSecretBytesMin) {
    return InvalidArgument("a secret of {} bytes: {} or more wanted", secret.size(),
                           kSecretBytesMin);
  }
  auto context = std::make_shared<TlsContext>();
  SHA256(reinterpret_cast<const unsigned char*>(secret.data()), secret.size(), context->key);
  context->ctx = SSL_CTX_new(TLS_method());
  if (context->ctx == nullptr || ContextIndex() < 0) return Internal("TLS cannot be set up");
  SSL_CTX_set_ex_data(context->ctx, ContextIndex(), context.get());
  SSL_CTX_set_min_proto_version(context->ctx, TLS1_3_VERSION);
  SSL_CTX_set_ciphersuites(context->ctx, "TLS_AES_128_GCM_SHA256");
  SSL_CTX_set_num_tickets(context->ctx, 0);
  SSL_CTX_set_psk_use_session_callback(context->ctx, UseSession);
  SSL_CTX_set_psk_find_session_callback(context->ctx, FindSession);
  return std::make_unique<SecureNetworkImpl>(base, std::move(context));
}

}  // namespace edge::srs
