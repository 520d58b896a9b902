#include "edge/rpc/http_batch.h"

#include "edge/base/errors.h"
#include "src/rpc/http_client.h"
#include "src/rpc/web_socket_link.h"

namespace edge::rpc {
namespace {

class BatchImpl final : public HttpBatch, public std::enable_shared_from_this<BatchImpl> {
 public:
  BatchImpl(Io& io, std::string url, Options options)
      : io_(io), url_(std::move(url)), options_(std::move(options)) {}

  void Start() {
    session_ = Session::Create(nullptr, options_.limits, [this] {
      if (std::exchange(scheduled_, true)) return;
      io_.loop().Defer([weak = weak_from_this()] {
        if (const auto self = weak.lock()) self->Send();
      });
    });
  }
  AnyStub main() const override { return session_->main(); }
  void Close() { session_->OnClosed(Cancelled("the batch was dropped")); }

 private:
  void Send() {
    HttpRequestOptions request;
    request.method = "POST";
    request.timeout_ms = options_.timeout_ms;
    request.answer_bytes_max = options_.limits.output_bytes_max;
    request.tls = options_.tls;
    request.head_lines = "Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\n";
    for (const auto& [name, value] : options_.headers)
      request.head_lines.append(name).append(": ").append(value).append("\r\n");
    for (std::string message; session_->TakeOutput(&message);) {
      if (!request.body.empty()) request.body += '\n';
      request.body += message;
    }
    SendHttp(io_, url_, std::move(request), [weak = weak_from_this()](StatusOr<HttpAnswer> answer) {
      if (const auto self = weak.lock()) self->OnAnswer(std::move(answer));
    });
  }

  void OnAnswer(StatusOr<HttpAnswer> answer) {
    if (!answer.ok()) return session_->OnClosed(answer.status());
    const HttpMessage& message = answer->message;
    std::string_view body = message.body;
    if (message.status != 200) {
      while (body.ends_with('\n')) body.remove_suffix(1);
      return session_->OnClosed(Status(
          CodeForHttp(message.status),
          body.empty() ? Format("{}: HTTP status {}", {url_, message.status}) : std::string(body)));
    }
    while (!body.empty() && !session_->ended()) {
      const size_t end = std::min(body.find('\n'), body.size());
      session_->OnMessage(body.substr(0, end)).IgnoreError();
      body.remove_prefix(std::min(end + 1, body.size()));
    }
    session_->OnClosed(Unavailable("{}: the batch is over", url_));
  }

  Io& io_;
  const std::string url_;
  const Options options_;
  std::unique_ptr<Session> session_;
  bool scheduled_ = false;
};

// What the user holds: answers under way hold the rest.
class Handle final : public HttpBatch {
 public:
  explicit Handle(std::shared_ptr<BatchImpl> batch) : batch_(std::move(batch)) {}
  ~Handle() override { batch_->Close(); }
  AnyStub main() const override { return batch_->main(); }

 private:
  std::shared_ptr<BatchImpl> batch_;
};

}  // namespace

StatusOr<std::unique_ptr<HttpBatch>> HttpBatch::Create(Io& io, std::string url, Options options) {
  EDGE_RETURN_IF_ERROR(ParseUrl(url).status());
  EDGE_RETURN_IF_ERROR(CheckHeaders(options.headers));
  auto batch = std::make_shared<BatchImpl>(io, std::move(url), std::move(options));
  batch->Start();
  return std::unique_ptr<HttpBatch>(std::make_unique<Handle>(std::move(batch)));
}

}  // namespace edge::rpc
