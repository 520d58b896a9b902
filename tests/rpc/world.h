// A server and a client machine in a simulation, and peers that say exactly what a test wants.
#pragma once
#include <catch2/catch.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "edge/base/errors.h"
#include "edge/base/simulation.h"
#include "edge/rpc/http_server.h"
#include "edge/rpc/stub.h"
#include "edge/rpc/web_socket.h"
#include "src/rpc/frames.h"

namespace edge::rpc {

inline constexpr int64_t kSecond = 1'000'000'000;

class Desk : public Target {
 public:
  explicit Desk(std::string who) : who_(std::move(who)) {}
  int Add(int a, int b) {
    ++calls;
    return a + b;
  }
  std::string Who() { return who_; }
  Bytes Blob(size_t size) { return Bytes(size, std::byte{7}); }
  Promise<int> Never() {
    waiting_.push_back(MakePromise());
    return Promise<int>(waiting_.back().promise);
  }
  std::shared_ptr<Desk> Self() { return std::make_shared<Desk>(who_); }
  using Rpc = Methods<&Desk::Self, &Desk::Add, &Desk::Who, &Desk::Blob, &Desk::Never>;
  static inline int calls = 0;

 private:
  const std::string who_;
  std::vector<Pending> waiting_;
};

inline HttpServer::Options Plain() {
  HttpServer::Options options;
  options.address = "server:80";
  options.plaintext_beyond_loopback = true;
  return options;
}

// A server and a client machine.
class World {
 public:
  explicit World(HttpServer::Options options, uint64_t seed = 1)
      : simulation_(Simulation::Create({.seed = seed})),
        server_host_(simulation_->AddHost("server")),
        client_host_(simulation_->AddHost("client")) {
    Desk::calls = 0;
    server_host_.Run([&] {
      server_io_ =
          Io::Create(server_host_.loop(), server_host_.network(), server_host_.random()).value();
    });
    StartServer(std::move(options));
    server_host_.Run([&] {
      REQUIRE(server_
                  ->Handle("/page",
                           [](const HttpRequest& request, HttpReply reply) {
                             reply.Send({.body = "page of " + request.method, .headers = {}});
                           })
                  .ok());
    });
    client_host_.Run([&] {
      client_io_ =
          Io::Create(client_host_.loop(), client_host_.network(), client_host_.random()).value();
    });
  }
  ~World() {
    raw_.clear();
    client_host_.Run([&] {
      sessions_.clear();
      client_io_.reset();
    });
    server_host_.Run([&] {
      server_.reset();
      server_io_.reset();
    });
  }

  StatusOr<AnyStub> Connect(const std::string& url, WebSocketSession::Options options = {}) {
    std::optional<StatusOr<AnyStub>> result;
    client_host_.Run([&] {
      WebSocketSession::Connect(*client_io_, url, std::move(options),
                                [&](StatusOr<std::unique_ptr<WebSocketSession>> session) {
                                  if (!session.ok()) {
                                    result = session.status();
                                    return;
                                  }
                                  sessions_.push_back(std::move(*session));
                                  result = sessions_.back()->main();
                                });
    });
    simulation_->RunUntil([&] { return result.has_value(); }, 60 * kSecond);
    REQUIRE(result.has_value());
    return *result;
  }
  StatusOr<Value> Call(const AnyStub& stub, std::string_view method, Array args = {}) {
    std::optional<StatusOr<Value>> result;
    client_host_.Run([&] {
      const std::string_view path[] = {method};
      stub.hook()->Call(path, std::move(args))->Pull([&](StatusOr<Value> outcome) {
        result = std::move(outcome);
      });
    });
    simulation_->RunUntil([&] { return result.has_value(); }, 60 * kSecond);
    REQUIRE(result.has_value());
    return *result;
  }

  // A peer that says exactly what a test wants.
  struct Raw {
    std::unique_ptr<Connection> connection;
    std::string received;
    bool closed = false;
  };
  Raw& Open() {
    raw_.push_back(std::make_unique<Raw>());
    Raw& raw = *raw_.back();
    client_host_.Run([&] {
      client_host_.network().Connect(
          client_host_.loop(), "server:80", [&raw](StatusOr<std::unique_ptr<Connection>> made) {
            raw.connection = std::move(*made);
            raw.connection->Start(
                {.on_data = [&raw](ByteView bytes) { raw.received += AsText(bytes); },
                 .on_close = [&raw](const Status&) { raw.closed = true; },
                 .on_drained = nullptr});
          });
    });
    simulation_->RunUntil([&raw] { return raw.connection != nullptr; }, kSecond);
    return raw;
  }
  void Say(Raw& raw, std::string_view text) {
    client_host_.Run([&] {
      raw.connection->Write({reinterpret_cast<const std::byte*>(text.data()), text.size()})
          .IgnoreError();
    });
  }
  Raw& OpenWebSocket() {
    Raw& raw = Open();
    Say(raw,
        "GET /rpc HTTP/1.1\r\nHost: server\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    RunFor(1);
    CHECK(raw.received.starts_with("HTTP/1.1 101 "));
    // The key and its answer are those of RFC 6455, section 1.3.
    CHECK(raw.received.find("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") != std::string::npos);
    raw.received.clear();
    return raw;
  }
  static std::string Frame(Opcode opcode, std::string_view payload) {
    std::string frame;
    AppendFrame(opcode, payload, 0x12345678, &frame);
    return frame;
  }
  void RunFor(int64_t seconds) { simulation_->RunFor(seconds * kSecond); }
  void StopServer() {
    server_host_.Run([&] { server_.reset(); });
  }
  void StartServer(HttpServer::Options options) {
    server_host_.Run([&] {
      server_ = HttpServer::Create(*server_io_, std::move(options)).value();
      REQUIRE(server_
                  ->HandleRpc("/rpc",
                              [this](const HttpRequest& request) -> StatusOr<HookPtr> {
                                traceparent = request.Header("traceparent");
                                return MakeStub<Desk>("anybody").hook();
                              })
                  .ok());
    });
  }
  std::string traceparent;  // of the last session's handshake
  HttpServer& server() { return *server_; }
  Simulation::Host& client_host() { return client_host_; }
  Simulation::Host& server_host() { return server_host_; }
  Io& client_io() { return *client_io_; }
  Simulation& simulation() { return *simulation_; }

 private:
  std::unique_ptr<Simulation> simulation_;
  Simulation::Host& server_host_;
  Simulation::Host& client_host_;
  std::unique_ptr<Io> server_io_;
  std::unique_ptr<Io> client_io_;
  std::unique_ptr<HttpServer> server_;
  std::vector<std::unique_ptr<WebSocketSession>> sessions_;
  std::vector<std::unique_ptr<Raw>> raw_;
};

}  // namespace edge::rpc
