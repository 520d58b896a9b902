#include "src/rpc/http_client.h"

#include <algorithm>
#include <utility>

#include "edge/base/errors.h"
#include "src/rpc/io_rep.h"
#include "src/rpc/tls_connection.h"

namespace edge::rpc {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;
constexpr size_t kHeadBytesMax = 64 << 10;
constexpr std::string_view kUnixSuffix = "+unix:";

// "/run/edge.sock:/path" behind "ws+unix:".
StatusOr<ServerUrl> ParseUnix(std::string_view url, std::string_view rest) {
  const size_t colon = rest.find(':');
  ServerUrl parsed;
  parsed.address = "unix:" + std::string(rest.substr(0, colon));
  parsed.path = colon == std::string_view::npos ? "/" : rest.substr(colon + 1);
  parsed.host = parsed.name = "localhost";
  if (!rest.starts_with('/') || !parsed.path.starts_with('/'))
    return InvalidArgument("{}: expected ws+unix:/path/of.sock:/path", url);
  return parsed;
}

}  // namespace

Status CheckHeaders(const std::vector<std::pair<std::string, std::string>>& headers) {
  constexpr std::string_view kBreaks("\r\n\0", 3);
  for (const auto& [name, value] : headers)
    if (name.empty() || name.find_first_of(kBreaks) != std::string::npos ||
        name.find(':') != std::string::npos || value.find_first_of(kBreaks) != std::string::npos)
      return InvalidArgument("header '{}': its name or value has a line break or colon", name);
  return OkStatus();
}

StatusOr<ServerUrl> ParseUrl(std::string_view url) {
  for (const std::string_view scheme : {"ws", "http"})
    if (url.starts_with(scheme) && url.substr(scheme.size()).starts_with(kUnixSuffix))
      return ParseUnix(url, url.substr(scheme.size() + kUnixSuffix.size()));
  const size_t scheme_end = url.find("://");
  const std::string_view scheme = url.substr(0, std::min(scheme_end, url.size()));
  ServerUrl parsed;
  parsed.is_tls = scheme == "wss" || scheme == "https";
  if (scheme_end == std::string_view::npos ||
      (!parsed.is_tls && scheme != "ws" && scheme != "http"))
    return InvalidArgument("{}: expected ws://, wss://, http:// or https://", url);
  const std::string_view rest = url.substr(scheme_end + 3);
  const size_t slash = std::min(rest.find_first_of("/?#"), rest.size());
  const std::string_view authority = rest.substr(0, slash);
  const bool clean = std::ranges::all_of(rest, [](char c) { return c > ' ' && c != '\x7F'; });
  if (authority.empty() || !clean || authority.find('@') != std::string_view::npos)
    return InvalidArgument("{}: not a URL of a server", url);
  parsed.host = authority;
  parsed.path = rest.substr(slash, rest.find('#') - slash);
  if (!parsed.path.starts_with('/')) parsed.path.insert(0, "/");
  const size_t colon = authority.rfind(':');
  const bool has_port =
      colon != std::string_view::npos && authority.find(']', colon) == std::string_view::npos;
  parsed.name = authority.substr(0, has_port ? colon : authority.size());
  parsed.address =
      has_port ? std::string(authority) : std::string(authority) + (parsed.is_tls ? ":443" : ":80");
  if (parsed.name.size() > 2 && parsed.name.front() == '[')
    parsed.name = parsed.name.substr(1, parsed.name.size() - 2);
  return parsed;
}

namespace {

// Owner: the Io, until it is done.
class Request final : public Socket::User, public std::enable_shared_from_this<Request> {
 public:
  Request(Io& io, std::string url, HttpRequestOptions options,
          Callback<void(StatusOr<HttpAnswer>)> done)
      : io_(io), url_(std::move(url)), options_(std::move(options)), done_(std::move(done)) {}
  ~Request() override {
    if (timer_ != 0) io_.loop().CancelTimer(timer_);
    if (done_) done_(Cancelled("{}: the loop's network is gone", url_));
  }

  void Run() {
    const auto self = shared_from_this();
    io_.rep().closing.insert(self);
    StatusOr<ServerUrl> parsed = ParseUrl(url_);
    if (!parsed.ok()) return Fail(parsed.status());
    target_ = *std::move(parsed);
    if (target_.is_tls) {
      auto context = TlsContext::ForClient(options_.tls);
      if (!context.ok()) return Fail(context.status());
      tls_ = *std::move(context);
    }
    timer_ = io_.loop().After(options_.timeout_ms * kNsPerMs, [this] {
      timer_ = 0;
      Fail(DeadlineExceeded("{}: no answer within {} ms", url_, options_.timeout_ms));
    });
    io_.network().Connect(
        io_.loop(), target_.address,
        [weak = weak_from_this()](StatusOr<std::unique_ptr<edge::Connection>> connection) {
          if (const auto request = weak.lock()) request->Connected(std::move(connection));
        });
  }

 private:
  void Connected(StatusOr<std::unique_ptr<edge::Connection>> connection) {
    if (!done_) return;
    if (!connection.ok()) {
      const bool bad = connection.status().code() == StatusCode::kInvalidArgument;
      if (bad)
        return Fail(InvalidArgument("{}: the host must be an IP address or localhost", url_));
      return Fail(Annotate(connection.status(), url_));
    }
    if (tls_ != nullptr) *connection = tls_->Wrap(io_.loop(), std::move(*connection), target_.name);
    socket_ = std::make_unique<Socket>(std::move(*connection));
    parser_ = HttpParser::ForResponse(kHeadBytesMax, options_.answer_bytes_max);
    socket_->SetUser(weak_from_this());
    std::string head = options_.method + ' ' + target_.path + " HTTP/1.1\r\nHost: " + target_.host +
                       "\r\n" + options_.head_lines;
    if (options_.method != "GET")
      head += "Content-Length: " + std::to_string(options_.body.size()) + "\r\n";
    socket_->Write(head + "\r\n", options_.body);
  }

  void OnData(std::string_view bytes) override {
    input_.append(bytes);
    Parse();
  }
  void OnClosed(Status reason) override {
    if (!done_) return;
    parser_->PutEnd();
    if (parser_->done()) return Answer();
    if (reason.ok()) reason = Unavailable("closed by the server before it answered");
    Fail(Annotate(reason, url_));
  }

  void Parse() {
    HttpProblem problem = HttpProblem::kNone;
    while (!input_.empty() && done_) {
      const size_t taken = parser_->Put(input_, &problem);
      input_.erase(0, taken);
      if (problem != HttpProblem::kNone)
        return Fail(problem == HttpProblem::kBodyTooLarge
                        ? ResourceExhausted("{}: an answer of more than {} bytes", url_,
                                            options_.answer_bytes_max)
                        : Unavailable("{}: the answer is not HTTP", url_));
      if (parser_->done()) return Answer();
      if (taken == 0) return;
    }
  }

  void Answer() {
    HttpAnswer answer{parser_->Take(), nullptr, {}};
    if (answer.message.status == 101) {
      answer.socket = std::move(socket_);
      answer.early = std::move(input_);
    }
    Finish(std::move(answer));
  }
  void Fail(Status status) {
    io_.loop().Defer([self = shared_from_this(), status = std::move(status)]() mutable {
      self->Finish(std::move(status));
    });
  }
  void Finish(StatusOr<HttpAnswer> outcome) {
    const auto self = shared_from_this();
    io_.rep().closing.erase(self);
    if (timer_ != 0) io_.loop().CancelTimer(std::exchange(timer_, 0));
    if (socket_ != nullptr) CloseWhenSent(io_, std::move(socket_));
    if (auto done = std::exchange(done_, nullptr)) done(std::move(outcome));
  }

  Io& io_;
  const std::string url_;
  HttpRequestOptions options_;
  Callback<void(StatusOr<HttpAnswer>)> done_;
  ServerUrl target_;
  std::shared_ptr<TlsContext> tls_;
  std::unique_ptr<Socket> socket_;
  std::unique_ptr<HttpParser> parser_;
  std::string input_;
  Loop::TimerId timer_ = 0;
};

}  // namespace

void SendHttp(Io& io, const std::string& url, HttpRequestOptions options,
              Callback<void(StatusOr<HttpAnswer>)> done) {
  std::make_shared<Request>(io, url, std::move(options), std::move(done))->Run();
}

}  // namespace edge::rpc
