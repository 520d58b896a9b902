// The listener and the client in a simulation: what hostile, slow and silent peers can do, on
// a virtual clock; and who gets in.
#include <catch2/catch.hpp>
#include <random>

#include "edge/base/errors.h"
#include "edge/base/simulation.h"
#include "edge/rpc/authenticator.h"
#include "edge/rpc/http_batch.h"
#include "edge/rpc/http_server.h"
#include "edge/rpc/stub.h"
#include "edge/rpc/web_socket.h"
#include "src/rpc/frames.h"
#include "tests/base/temp_directory.h"
#include "tests/rpc/certificates.h"
#include "tests/rpc/world.h"

namespace edge::rpc {
namespace {

TEST_CASE("sessions work over a network that delays, in both forms", "[rpc][sim]") {
  const auto seed = GENERATE(range(1u, 6u));
  const bool binary = GENERATE(false, true);
  CAPTURE(seed, binary);
  World world(Plain(), seed);
  WebSocketSession::Options options;
  options.offer_binary = binary;
  const AnyStub desk = world.Connect("ws://server:80/rpc", std::move(options)).value();
  CHECK(world.Call(desk, "add", {20, 22}).value() == 42);
  CHECK(world.Call(desk, "blob", {3'000'000}).value().As<BytesValue>()->bytes.size() == 3'000'000);
  CHECK(world.server().connections() == 1);
}

TEST_CASE("a request that comes a byte at a time is dropped at its deadline", "[rpc][sim]") {
  HttpServer::Options options = Plain();
  options.request_timeout_ms = 10'000;
  World world(std::move(options));
  World::Raw& raw = world.Open();
  const std::string request = "GET /page HTTP/1.1\r\nHost: server\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaa";
  for (int i = 0; i < 9; ++i) {
    world.Say(raw, request.substr(static_cast<size_t>(i), 1));
    world.RunFor(1);
    CHECK_FALSE(raw.closed);
  }
  world.Say(raw, request.substr(9, 1));
  world.RunFor(3);
  CHECK(raw.closed);
  CHECK(world.server().connections() == 0);
}

TEST_CASE("a body that comes a byte at a time is dropped too, and so is silence", "[rpc][sim]") {
  HttpServer::Options options = Plain();
  options.request_timeout_ms = 5'000;
  World world(std::move(options));
  World::Raw& slow = world.Open();
  World::Raw& silent = world.Open();
  world.Say(slow, "POST /page HTTP/1.1\r\nHost: server\r\nContent-Length: 1000\r\n\r\n");
  for (int i = 0; i < 6; ++i) {
    world.Say(slow, "x");
    world.RunFor(1);
  }
  CHECK(slow.closed);
  CHECK(silent.closed);
}

TEST_CASE("requests that lie behind each other are answered in order", "[rpc][sim]") {
  World world(Plain());
  World::Raw& raw = world.Open();
  std::string many;
  for (int i = 0; i < 5000; ++i) many += "GET /page HTTP/1.1\r\nHost: s\r\n\r\n";
  world.Say(raw, many + "HEAD /page HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n");
  world.RunFor(5);
  size_t answers = 0;
  for (size_t at = 0; (at = raw.received.find("HTTP/1.1 200 OK", at)) != std::string::npos; ++at)
    ++answers;
  CHECK(answers == 5001);
  CHECK(raw.received.ends_with("Content-Length: 12\r\n\r\n"));  // HEAD has no body
  CHECK(raw.closed);
}

TEST_CASE("heads and bodies above their limits are refused with the limit", "[rpc][sim]") {
  HttpServer::Options options = Plain();
  options.header_bytes_max = 1024;
  options.body_bytes_max = 2000;
  World world(std::move(options));
  World::Raw& head = world.Open();
  world.Say(head, "GET /page HTTP/1.1\r\nX: " + std::string(2000, 'a'));
  World::Raw& body = world.Open();
  world.Say(body, "POST /rpc HTTP/1.1\r\nHost: s\r\nContent-Length: 2001\r\n\r\n");
  World::Raw& nonsense = world.Open();
  world.Say(nonsense, "\x16\x03\x01 hello\r\n\r\n");
  World::Raw& smuggled = world.Open();
  world.Say(smuggled,
            "POST /rpc HTTP/1.1\r\nHost: s\r\nContent-Length: 5\r\nTransfer-Encoding: "
            "chunked\r\n\r\n0\r\n\r\n");
  world.RunFor(5);
  CHECK(head.received.find("431") != std::string::npos);
  CHECK(head.received.find("the header may have 1024 bytes") != std::string::npos);
  CHECK(body.received.find("the body may have 2000 bytes") != std::string::npos);
  CHECK(nonsense.received.starts_with("HTTP/1.1 400"));
  CHECK(smuggled.received.starts_with("HTTP/1.1 400"));
  CHECK(world.server().connections() == 0);
}

TEST_CASE("there are no more connections than allowed, in all and from one address", "[rpc][sim]") {
  HttpServer::Options options = Plain();
  options.connections_max = 3;
  options.connections_per_address_max = GENERATE(0u, 2u);
  const size_t allowed = options.connections_per_address_max == 0 ? 3 : 2;
  World world(std::move(options));
  std::vector<World::Raw*> raws;
  for (int i = 0; i < 6; ++i) raws.push_back(&world.Open());
  world.RunFor(1);
  CHECK(world.server().connections() == allowed);
  CHECK(std::ranges::count_if(raws, [](const auto* raw) { return raw->closed; }) ==
        static_cast<ptrdiff_t>(6 - allowed));
  world.client_host().Run([&] { raws[0]->connection->Close(); });
  world.RunFor(2);
  world.OpenWebSocket();  // there is room again
  CHECK(world.server().connections() == allowed);
}

TEST_CASE("a peer that floods is slowed down to the rate it has", "[rpc][sim]") {
  HttpServer::Options options = Plain();
  options.traffic.messages_per_s_max = 100;
  World world(std::move(options));
  World::Raw& raw = world.OpenWebSocket();
  std::string flood;
  for (int i = 0; i < 5000; ++i)
    flood += World::Frame(Opcode::kText, R"(["push",["pipeline",0,["add"],[1,2]]])");
  world.Say(raw, flood);
  world.RunFor(10);
  CHECK(Desk::calls >= 900);
  CHECK(Desk::calls <= 1200);
  CHECK_FALSE(raw.closed);
  world.RunFor(50);
  CHECK(Desk::calls == 5000);
}

TEST_CASE("the same goes for bytes", "[rpc][sim]") {
  HttpServer::Options options = Plain();
  options.traffic.bytes_per_s_max = 10'000;
  World world(std::move(options));
  World::Raw& raw = world.OpenWebSocket();
  for (int i = 0; i < 300; ++i)
    world.Say(raw, World::Frame(Opcode::kText, R"(["push",["pipeline",0,["add"],[1,)" +
                                                   std::string(1000, ' ') + "2]]]"));
  world.RunFor(10);
  CHECK(Desk::calls >= 80);
  CHECK(Desk::calls <= 130);
}

TEST_CASE("a peer that answers no ping is dropped, one that does is kept", "[rpc][sim]") {
  HttpServer::Options options = Plain();
  options.session_idle_timeout_ms = 20'000;
  World world(std::move(options));
  const AnyStub living = world.Connect("ws://server:80/rpc").value();
  World::Raw& dead = world.OpenWebSocket();
  world.RunFor(15);
  CHECK(dead.received == std::string("\x89\x00", 2));  // a ping
  CHECK_FALSE(dead.closed);
  world.RunFor(20);
  CHECK(dead.closed);
  CHECK(dead.received.find("nothing was heard for 20000 ms") != std::string::npos);
  world.RunFor(300);
  CHECK(world.Call(living, "add", {1, 2}).value() == 3);
  CHECK(world.server().connections() == 1);
}

TEST_CASE("a frame that comes a byte at a time counts as silence", "[rpc][sim]") {
  HttpServer::Options options = Plain();
  options.session_idle_timeout_ms = 10'000;
  World world(std::move(options));
  World::Raw& raw = world.OpenWebSocket();
  const std::string frame = World::Frame(Opcode::kText, std::string(100, ' '));
  for (size_t i = 0; i < 20 && !raw.closed; ++i) {
    world.Say(raw, frame.substr(i, 1));
    world.RunFor(1);
  }
  CHECK(raw.closed);
}

TEST_CASE("a peer that does not read is cut off at the limit", "[rpc][sim]") {
  HttpServer::Options options = Plain();
  options.session.output_bytes_max = 4 << 20;
  World world(std::move(options));
  World::Raw& raw = world.OpenWebSocket();
  world.client_host().Run([&] { raw.connection->PauseReading(true); });
  for (int i = 1; i <= 40; ++i) {
    world.Say(raw, World::Frame(Opcode::kText, R"(["push",["pipeline",0,["blob"],[1000000]]])") +
                       World::Frame(Opcode::kText, "[\"pull\"," + std::to_string(i) + "]"));
    world.RunFor(1);
  }
  world.RunFor(10);
  CHECK(world.server().connections() == 0);
}

TEST_CASE("frames against the protocol close the connection with the right code", "[rpc][sim]") {
  struct Case {
    std::string bytes;
    int code;
  };
  std::string unmasked;
  AppendFrame(Opcode::kText, "[]", 0, &unmasked);
  std::string huge("\x81\xFF\x00\x00\x00\x00\x7F\xFF\xFF\xFF", 10);
  const Case one = GENERATE_COPY(Case{unmasked, 1002}, Case{huge + "abcd", 1009},
                                 Case{std::string("\xC1\x80"
                                                  "abcd",
                                                  6),
                                      1002},
                                 Case{std::string("\x80\x80"
                                                  "abcd",
                                                  6),
                                      1002},
                                 Case{std::string("\x83\x80"
                                                  "abcd",
                                                  6),
                                      1002},
                                 Case{std::string("\x09\x80"
                                                  "abcd",
                                                  6),
                                      1002},
                                 Case{World::Frame(Opcode::kClose, "\x03"), 1002},
                                 Case{World::Frame(Opcode::kClose, "\x03\xED"), 1002},
                                 Case{World::Frame(Opcode::kClose, "\x03\xE8 bye"), 1000},
                                 Case{World::Frame(Opcode::kBinary, "\xA0"), 3000},
                                 Case{World::Frame(Opcode::kText, "nonsense"), 3000});
  World world(Plain());
  World::Raw& raw = world.OpenWebSocket();
  world.Say(raw, one.bytes);
  world.RunFor(8);
  CHECK(raw.closed);
  CHECK(world.server().connections() == 0);
  const size_t at = raw.received.rfind('\x88');
  REQUIRE(at != std::string::npos);
  REQUIRE(raw.received.size() >= at + 4);
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(raw.received[at + i]); };
  CHECK((byte(2) << 8 | byte(3)) == one.code);
}

TEST_CASE("a message in fragments, with a ping between, is one message", "[rpc][sim]") {
  World world(Plain());
  World::Raw& raw = world.OpenWebSocket();
  const auto part = [](uint8_t first, std::string_view payload) {
    std::string frame = World::Frame(Opcode::kText, payload);
    frame[0] = static_cast<char>(first);
    return frame;
  };
  world.Say(raw, part(0x01, R"(["push",["pipe)") + part(0x00, R"(line",0,["ad)") +
                     World::Frame(Opcode::kPing, "hi") + part(0x80, R"(d"],[4,5]]])") +
                     World::Frame(Opcode::kText, R"(["pull",1])"));
  world.RunFor(1);
  CHECK(raw.received == std::string("\x8A\x02hi", 4) + "\x81\x0F" + R"(["resolve",1,9])");
}

// ---- who gets in

TEST_CASE("tokens and cookies decide which object a peer gets", "[rpc][sim]") {
  World world(Plain());
  world.server_host().Run([&] {
    std::vector<Authenticator> either;
    either.push_back(BearerTokens({{"s3cret", "ada"}}));
    either.push_back(CookieTokens("session", {{"c00kie", "grace"}}));
    REQUIRE(world.server()
                .HandleRpc("/desk", AnyOf(std::move(either)),
                           [](const Identity& who, const HttpRequest&) -> StatusOr<HookPtr> {
                             return MakeStub<Desk>(who.name + " by " + who.means).hook();
                           })
                .ok());
  });
  const auto who = [&](std::pair<std::string, std::string> header) -> StatusOr<Value> {
    WebSocketSession::Options options;
    if (!header.first.empty()) options.headers.push_back(std::move(header));
    EDGE_ASSIGN_OR_RETURN(const AnyStub desk,
                          world.Connect("ws://server:80/desk", std::move(options)));
    return world.Call(desk, "who");
  };
  CHECK(who({"Authorization", "Bearer s3cret"}).value() == "ada by token");
  CHECK(who({"Cookie", "a=b; session=c00kie; c=d"}).value() == "grace by cookie");
  CHECK(who({"Authorization", "Bearer wrong"}).status() ==
        Status(PermissionDenied("the token is not known")));
  CHECK(who({}).status() == Status(Unauthenticated("a token is wanted")));
  CHECK(who({"X", "a\r\nAuthorization: Bearer s3cret"}).status().code() ==
        StatusCode::kInvalidArgument);
}

TEST_CASE("pages of other origins open no sessions", "[rpc][sim]") {
  HttpServer::Options options = Plain();
  options.allowed_origins = {"https://good.example"};
  World world(std::move(options));
  const auto open = [&](const std::string& origin) {
    WebSocketSession::Options with;
    with.headers = {{"Origin", origin}};
    return world.Connect("ws://server:80/rpc", std::move(with)).status().code();
  };
  CHECK(open("https://good.example") == StatusCode::kOk);
  CHECK(open("https://evil.example") == StatusCode::kPermissionDenied);
  CHECK(open("http://server:80") == StatusCode::kPermissionDenied);  // a name is not proof
  CHECK(open("null") == StatusCode::kPermissionDenied);
}

// ---- TLS

HttpServer::Options WithTls(const TestAuthority& authority, bool ask_client) {
  HttpServer::Options options;
  options.address = "server:80";
  const auto own = authority.Issue("the server", "DNS:server,IP:10.0.0.1");
  options.tls = {own.certificate, own.key};
  if (ask_client) options.tls.client_ca = authority.pem();
  return options;
}

TEST_CASE("wss carries sessions, and clients check whom they talk to", "[rpc][sim]") {
  const TestAuthority authority;
  const TestAuthority stranger;
  World world(WithTls(authority, false));
  const auto connect = [&](const std::string& ca, const std::string& name) {
    WebSocketSession::Options options;
    options.tls.ca = ca;
    options.tls.server_name = name;
    return world.Connect("wss://server:80/rpc", std::move(options));
  };
  const AnyStub desk = connect(authority.pem(), "").value();
  CHECK(world.Call(desk, "add", {2, 3}).value() == 5);
  CHECK(world.Call(desk, "blob", {2'000'000}).value().As<BytesValue>()->bytes.size() == 2'000'000);
  CHECK(connect(stranger.pem(), "").status().code() == StatusCode::kPermissionDenied);
  CHECK(connect(authority.pem(), "other.test").status().code() == StatusCode::kPermissionDenied);
  CHECK(connect(authority.pem(), "10.0.0.1").ok());
  CHECK(connect("-----BEGIN nothing", "").status().code() == StatusCode::kInvalidArgument);
  World::Raw& plain = world.Open();
  world.Say(plain, "GET /page HTTP/1.1\r\nHost: s\r\n\r\n");
  world.RunFor(5);
  CHECK(plain.closed);
  CHECK(plain.received.find("HTTP") == std::string::npos);
}

TEST_CASE("a client certificate decides which object its owner gets", "[rpc][sim]") {
  const TestAuthority authority;
  const TestAuthority stranger;
  World world(WithTls(authority, true));
  world.server_host().Run([&] {
    REQUIRE(world.server()
                .HandleRpc("/desk", ClientCertificates({"ada", "grace.test"}),
                           [](const Identity& who, const HttpRequest&) -> StatusOr<HookPtr> {
                             return MakeStub<Desk>(who.name).hook();
                           })
                .ok());
  });
  const auto who = [&](const TestAuthority::Issued& own) -> StatusOr<Value> {
    WebSocketSession::Options options;
    options.tls = {.ca = authority.pem(), .certificate = own.certificate, .key = own.key};
    EDGE_ASSIGN_OR_RETURN(const AnyStub desk,
                          world.Connect("wss://server:80/desk", std::move(options)));
    return world.Call(desk, "who");
  };
  CHECK(who(authority.Issue("ada", "DNS:ada.test")).value() == "ada");
  CHECK(who(authority.Issue("g", "DNS:grace.test")).value() == "grace.test");
  CHECK(who(authority.Issue("eve", "DNS:eve.test")).status().code() ==
        StatusCode::kPermissionDenied);
  CHECK_FALSE(who(stranger.Issue("ada", "DNS:ada.test")).ok());
  CHECK_FALSE(who({}).ok());
}

TEST_CASE("a server listens beyond loopback only with TLS or when told so", "[rpc][sim]") {
  World world(Plain());
  world.server_host().Run([&] {
    const std::unique_ptr<Io> io =
        Io::Create(world.server_host().loop(), world.server_host().network()).value();
    HttpServer::Options options;
    options.address = "server:81";
    CHECK(HttpServer::Create(*io, options).status().code() == StatusCode::kFailedPrecondition);
    options.tls = {"/no/such/file.pem", "/no/such/key.pem"};
    CHECK(HttpServer::Create(*io, options).status().code() == StatusCode::kNotFound);
  });
}

// ---- batches

TEST_CASE("an HTTP batch makes all calls of a turn in one request", "[rpc][sim]") {
  World world(Plain());
  std::vector<std::string> seen;
  std::unique_ptr<HttpBatch> batch;
  world.client_host().Run([&] {
    batch = HttpBatch::Create(world.client_io(), "http://server:80/rpc", {}).value();
    const auto see = [&seen](const StatusOr<Value>& outcome) {
      seen.push_back(outcome.ok() ? Encode(*outcome).value()
                                  : std::string(StatusCodeName(outcome.status().code())));
    };
    batch->main().Call("add", 1, 2).Then(see);
    batch->main().Call("who").Then(see);
    batch->main().Call("nope").Then(see);
  });
  world.simulation().RunUntil([&] { return seen.size() == 3; }, 10 * kSecond);
  CHECK(seen == std::vector<std::string>{"3", "\"anybody\"", "INVALID_ARGUMENT"});
  world.client_host().Run([&] {
    batch->main().Call("add", 1, 2).Then([&seen](const StatusOr<Value>& outcome) {
      seen.push_back(std::string(StatusCodeName(outcome.status().code())));
    });
    batch.reset();
  });
  world.RunFor(1);
  CHECK(seen.back() != "OK");
}

TEST_CASE("a batch whose answer does not come fails at its deadline", "[rpc][sim]") {
  HttpServer::Options options = Plain();
  options.batch_timeout_ms = 60'000;
  World world(std::move(options));
  std::unique_ptr<HttpBatch> batch;
  StatusCode code = StatusCode::kOk;
  world.client_host().Run([&] {
    batch =
        HttpBatch::Create(world.client_io(), "http://server:80/rpc", {.timeout_ms = 3000}).value();
    batch->main().Call("never").Then(
        [&code](const StatusOr<Value>& outcome) { code = outcome.status().code(); });
  });
  world.RunFor(2);
  CHECK(code == StatusCode::kOk);
  world.RunFor(2);
  CHECK(code == StatusCode::kDeadlineExceeded);
  world.client_host().Run([&] { batch.reset(); });
}

// ---- real sockets

TEST_CASE("a unix socket carries sessions and batches", "[rpc]") {
  const TempDirectory folder;
  const std::string socket = folder.path() + "/edge.sock";
  const auto executor = Executor::Create({.threads = 1}).value();
  Loop& loop = executor->loop(0);
  std::unique_ptr<Io> io;
  std::unique_ptr<HttpServer> server;
  std::unique_ptr<WebSocketSession> session;
  std::unique_ptr<HttpBatch> batch;
  Pending sum = MakePromise(&loop);
  Pending who = MakePromise(&loop);
  RunOn(loop, [&] {
    io = Io::Create(loop).value();
    HttpServer::Options options;
    options.address = "unix:" + socket;
    server = HttpServer::Create(*io, std::move(options)).value();
    REQUIRE(server
                ->HandleRpc("/rpc",
                            [](const HttpRequest&) -> StatusOr<HookPtr> {
                              return MakeStub<Desk>("somebody near").hook();
                            })
                .ok());
    WebSocketSession::Connect(*io, "ws+unix:" + socket + ":/rpc", {},
                              [&](StatusOr<std::unique_ptr<WebSocketSession>> made) {
                                session = std::move(made).value();
                                sum.resolver.Follow(session->main().Call("add", 1, 2).hook());
                              });
    batch = HttpBatch::Create(*io, "http+unix:" + socket + ":/rpc", {}).value();
    batch->main().Call("who").Then(
        [&who](StatusOr<Value> outcome) { who.resolver.Settle(std::move(outcome)); });
  });
  CHECK(Promise<int>(sum.promise).Wait().value() == 3);
  CHECK(Promise<std::string>(who.promise).Wait().value() == "somebody near");
  RunOn(loop, [&] {
    session.reset();
    batch.reset();
    server.reset();
    io.reset();
  });
}

// ---- cut connections

TEST_CASE("wherever a connection is cut, every call that waits is told", "[rpc][sim]") {
  const auto seed = GENERATE(range(1u, 21u));
  CAPTURE(seed);
  World world(Plain(), seed);
  const AnyStub desk = world.Connect("ws://server:80/rpc").value();
  int answered = 0;
  world.client_host().Run([&] {
    for (int i = 0; i < 50; ++i)
      desk.Call("add", i, 1).Then([&answered](const StatusOr<Value>&) { ++answered; });
  });
  std::mt19937 rng(seed);
  for (auto events = rng() % 12; events > 0; --events) world.simulation().Step();
  world.simulation().SetPartitioned(world.client_host(), world.server_host(), true);
  world.simulation().SetPartitioned(world.server_host(), world.client_host(), true);
  world.RunFor(400);
  CHECK(answered == 50);
  CHECK(world.server().connections() == 0);
}

}  // namespace
}  // namespace edge::rpc
