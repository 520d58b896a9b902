#include "src/rpc/socket.h"

#include <algorithm>
#include <utility>

#include "src/rpc/io_rep.h"

namespace edge::rpc {
namespace {

constexpr size_t kHandedOverMax = 4 << 20;  // to the connection, which bounds its own buffer

ByteView AsBytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

}  // namespace

Socket::Socket(std::unique_ptr<edge::Connection> connection) : connection_(std::move(connection)) {}

void Socket::SetUser(std::weak_ptr<User> user) {
  user_ = std::move(user);
  if (std::exchange(started_, true)) return;
  connection_->Start(
      {.on_data =
           [this](ByteView bytes) {
             if (const auto to = user_.lock())
               to->OnData({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
           },
       .on_close =
           [this](Status reason) {
             if (const auto to = user_.lock()) to->OnClosed(std::move(reason));
           },
       .on_drained = [this] { Drained(); }});
}

void Socket::Write(std::string_view head, std::string_view body) {
  // A closed connection refuses; its user hears of the end by OnClosed.
  if (backlog_.empty() &&
      connection_->buffered_bytes() + head.size() + body.size() <= kHandedOverMax) {
    connection_->Write(AsBytes(head)).IgnoreError();
    if (!body.empty()) connection_->Write(AsBytes(body)).IgnoreError();
    return;
  }
  backlog_.append(head).append(body);
  if (connection_->buffered_bytes() == 0) Drained();
}

void Socket::Drained() {
  if (!backlog_.empty()) {
    const size_t size = std::min(backlog_.size(), kHandedOverMax);
    connection_->Write(AsBytes(std::string_view(backlog_).substr(0, size))).IgnoreError();
    backlog_.erase(0, size);
    if (backlog_.empty()) backlog_.shrink_to_fit();
    return;
  }
  if (close_when_drained_) return connection_->Close();
  if (const auto to = user_.lock()) to->OnDrained();
}

void Socket::Close() {
  if (backlog_.empty()) return connection_->Close();
  close_when_drained_ = true;
}

namespace {

class Closing final : public Socket::User, public std::enable_shared_from_this<Closing> {
 public:
  Closing(Io& io, std::unique_ptr<Socket> socket) : io_(io), socket_(std::move(socket)) {}
  ~Closing() override {
    if (timer_ != 0) io_.loop().CancelTimer(timer_);
  }
  void Run() {
    io_.rep().closing.insert(shared_from_this());
    timer_ = io_.loop().After(kGoodbyeNs, [this] {
      timer_ = 0;
      OnClosed(OkStatus());
    });
    socket_->SetUser(weak_from_this());
    socket_->Close();
  }
  void OnData(std::string_view) override {}
  void OnClosed(Status) override {
    const std::shared_ptr<void> self = shared_from_this();
    io_.rep().closing.erase(self);
  }

 private:
  static constexpr int64_t kGoodbyeNs = 5'000'000'000;
  Io& io_;
  std::unique_ptr<Socket> socket_;
  Loop::TimerId timer_ = 0;
};

}  // namespace

void CloseWhenSent(Io& io, std::unique_ptr<Socket> socket) {
  std::make_shared<Closing>(io, std::move(socket))->Run();
}

}  // namespace edge::rpc
