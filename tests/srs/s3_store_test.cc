#include "edge/srs/s3_store.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <thread>

#include "edge/base/errors.h"
#include "edge/srs/relay.h"
#include "srs/sigv4.h"
#include "tests/srs/s3_server.h"
#include "tests/srs/store_promises.h"

namespace edge::srs {
namespace {

// --- Signatures: the worked examples of Amazon's documentation ---

constexpr SigV4Key kExampleKey = {"AKIAIOSFODNN7EXAMPLE",
                                  "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1"};

std::string SignatureOf(SigV4Request request) {
  request.headers["host"] = "examplebucket.s3.amazonaws.com";
  request.wall_ms = 1'369'353'600'000;  // 2013-05-24T00:00:00Z
  Sign(kExampleKey, &request);
  const std::string& text = request.headers["authorization"];
  return text.substr(text.rfind('=') + 1);
}

TEST_CASE("requests are signed as in Amazon's examples", "[srs][s3]") {
  CHECK(SignatureOf({"GET", "/test.txt", {}, {{"range", "bytes=0-9"}}, {}}) ==
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
  CHECK(SignatureOf({"PUT",
                     "/" + UriEncode("test$file.text"),
                     {},
                     {{"date", "Fri, 24 May 2013 00:00:00 GMT"},
                      {"x-amz-storage-class", "REDUCED_REDUNDANCY"}},
                     AsBytes("Welcome to Amazon S3.")}) ==
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
  CHECK(SignatureOf({"GET", "/", {{"lifecycle", ""}}, {}, {}}) ==
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
  CHECK(SignatureOf({"GET", "/", {{"max-keys", "2"}, {"prefix", "J"}}, {}, {}}) ==
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

// --- A scripted network ---

class Script final : public HttpClient {
 public:
  using Step = std::function<StatusOr<HttpResponse>(const HttpRequest&)>;
  StatusOr<HttpResponse> Send(const HttpRequest& request) override {
    sent.push_back(request);
    bodies.emplace_back(AsText(request.body));
    if (steps.empty()) return Unavailable("nobody there");
    const Step step = std::move(steps.front());
    steps.pop_front();
    return step(request);
  }
  void Answer(int code, std::string body = "",
              std::vector<std::pair<std::string, std::string>> headers = {}) {
    steps.push_back([=](const HttpRequest&) -> StatusOr<HttpResponse> {
      return HttpResponse{code, headers, ToBytes(body)};
    });
  }
  void Break() {
    steps.push_back([](const HttpRequest&) -> StatusOr<HttpResponse> {
      return Unavailable("connection reset");
    });
  }
  std::deque<Step> steps;
  std::vector<HttpRequest> sent;
  std::vector<std::string> bodies;
};

class HandClock final : public Clock {
 public:
  int64_t monotonic_ns() const override { return 0; }
  int64_t wall_ms() const override { return now_ms; }
  int64_t now_ms = 1'000;
};

struct Scripted {
  Scripted() {
    S3Options options;
    options.bucket = "b";
    options.prefix = "p/q";
    options.endpoint = "http://store";
    options.access_key = "k";
    options.secret_key = "s";
    options.attempts_max = 3;
    options.http = script;
    options.clock = &clock;
    options.random = &random;
    options.sleep_ms = [this](int64_t ms) { slept.push_back(ms); };
    store = S3Store(std::move(options)).value();
  }
  std::shared_ptr<Script> script = std::make_shared<Script>();
  HandClock clock;
  SeededRandom random{1};
  std::vector<int64_t> slept;
  std::unique_ptr<ObjectStore> store;
};

std::string ErrorXml(const std::string& code) {
  return "<?xml version=\"1.0\"?><Error><Code>" + code + "</Code><Message>why</Message></Error>";
}

TEST_CASE("what fails for a passing reason is tried again, later each time", "[srs][s3]") {
  Scripted s3;
  s3.script->Answer(503, ErrorXml("SlowDown"));
  s3.script->Break();
  s3.script->Answer(200, "hello");
  CHECK(AsText(s3.store->Get("x").value()) == "hello");
  REQUIRE(s3.slept.size() == 2);
  CHECK((s3.slept[0] >= 50 && s3.slept[0] <= 100));
  CHECK((s3.slept[1] >= 100 && s3.slept[1] <= 200));
  CHECK(s3.script->sent[0].url == "http://store/b/p/q/x");

  for (int i = 0; i < 3; ++i) s3.script->Answer(500);
  const Status gone = s3.store->Get("x").status();
  CHECK(gone.code() == StatusCode::kUnavailable);
  CHECK(Message(gone).find("tried 3 times") != std::string_view::npos);
}

TEST_CASE("a refusal is final and says why", "[srs][s3]") {
  Scripted s3;
  struct Case {
    int code;
    const char* xml_code;
    StatusCode wanted;
  };
  for (const Case& c : {Case{403, "AccessDenied", StatusCode::kPermissionDenied},
                        Case{403, "SignatureDoesNotMatch", StatusCode::kPermissionDenied},
                        Case{400, "ExpiredToken", StatusCode::kPermissionDenied},
                        Case{404, "NoSuchKey", StatusCode::kNotFound},
                        Case{404, "NoSuchBucket", StatusCode::kNotFound},
                        Case{400, "InvalidRange", StatusCode::kInvalidArgument},
                        Case{301, "PermanentRedirect", StatusCode::kFailedPrecondition},
                        Case{507, "", StatusCode::kResourceExhausted}}) {
    CAPTURE(c.code, c.xml_code);
    s3.script->steps.clear();
    for (int i = 0; i < 3; ++i) s3.script->Answer(c.code, ErrorXml(c.xml_code));
    const Status status = s3.store->Get("x").status();
    CHECK(status.code() == c.wanted);
    CHECK(Message(status).find("s3://b/p/q/x") != std::string_view::npos);
    CHECK(Message(status).find(c.xml_code) != std::string_view::npos);
  }
}

TEST_CASE("a put whose answer was lost succeeds once, if it is ours that is there", "[srs][s3]") {
  Scripted s3;
  s3.script->Break();  // it did arrive
  s3.script->Answer(412, ErrorXml("PreconditionFailed"));
  s3.script->Answer(200, "mine", {{"etag", "\"e\""}});
  CHECK(s3.store->Put("x", AsBytes("mine"), {.if_absent = true}).value() == "\"e\"");

  s3.script->Break();
  s3.script->Answer(412, ErrorXml("PreconditionFailed"));
  s3.script->Answer(200, "theirs", {{"etag", "\"f\""}});
  CHECK(s3.store->Put("x", AsBytes("mine"), {.if_absent = true}).status().code() ==
        StatusCode::kAlreadyExists);

  s3.script->Answer(412, ErrorXml("PreconditionFailed"));  // at once: no doubt whose
  CHECK(s3.store->Put("x", AsBytes("mine"), {.if_absent = true}).status().code() ==
        StatusCode::kAlreadyExists);
  CHECK(s3.script->steps.empty());

  s3.script->Break();
  s3.script->Answer(412, ErrorXml("PreconditionFailed"));
  s3.script->Answer(200, "mine", {{"etag", "\"g\""}});
  CHECK(s3.store->Put("x", AsBytes("mine"), {.if_etag = "\"e\""}).value() == "\"g\"");
}

TEST_CASE("an answer that does not fit the question is no answer", "[srs][s3]") {
  Scripted s3;
  s3.script->Answer(206, "45", {{"content-range", "bytes 4-5/10"}, {"content-length", "2"}});
  CHECK(s3.store->Get("x", {3, 2}).status().code() == StatusCode::kUnavailable);
  s3.script->Answer(206, "4", {{"content-range", "bytes 3-4/10"}, {"content-length", "2"}});
  CHECK(s3.store->Get("x", {3, 2}).status().code() == StatusCode::kUnavailable);
  s3.script->Answer(200, "0123456789");  // a server that knows no ranges
  CHECK(AsText(s3.store->Get("x", {3, 2}).value()) == "34");
  s3.script->Answer(200, "<ListBucketResult><Contents>");
  CHECK(s3.store->List("").status().code() == StatusCode::kUnavailable);
  s3.script->Answer(200, "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>");
  CHECK(s3.store->List("").status().code() == StatusCode::kUnavailable);
}

TEST_CASE("a clock that is wrong goes by the store's", "[srs][s3]") {
  Scripted s3;
  s3.script->Answer(403, ErrorXml("RequestTimeTooSkewed"),
                    {{"date", "Fri, 24 May 2013 00:00:00 GMT"}});
  s3.script->Answer(200, "hello");
  CHECK(s3.store->Get("x").ok());
  const auto& headers = s3.script->sent.back().headers;
  const auto date =
      std::ranges::find(headers, "x-amz-date", &std::pair<std::string, std::string>::first);
  REQUIRE(date != headers.end());
  CHECK(date->second == "20130524T000000Z");
}

TEST_CASE("a large object goes up in parts, and a failed one is taken back", "[srs][s3]") {
  Scripted s3;
  const std::string content(40 << 20, 'x');
  s3.script->Answer(200, "<R><UploadId>u&amp;1</UploadId></R>");
  for (const char* etag : {"\"1\"", "\"2\"", "\"3\""}) s3.script->Answer(200, "", {{"etag", etag}});
  s3.script->Answer(200, "<R><ETag>&quot;all&quot;</ETag></R>");
  CHECK(s3.store->Put("x", AsBytes(content), {.if_absent = true}).value() == "\"all\"");
  CHECK(s3.script->sent[1].url == "http://store/b/p/q/x?partNumber=1&uploadId=u%261");
  CHECK(s3.script->sent[3].body.size() == 8 << 20);
  CHECK(s3.script->bodies[4].find("<PartNumber>3</PartNumber><ETag>\"3\"</ETag>") !=
        std::string::npos);

  s3.script->Answer(200, "<R><UploadId>u2</UploadId></R>");
  s3.script->Answer(200, "", {{"etag", "1"}});
  s3.script->Answer(403, ErrorXml("AccessDenied"));
  s3.script->Answer(204);
  CHECK(s3.store->Put("x", AsBytes(content)).status().code() == StatusCode::kPermissionDenied);
  CHECK(s3.script->sent.back().method == "DELETE");
  CHECK(s3.script->sent.back().url == "http://store/b/p/q/x?uploadId=u2");
}

TEST_CASE("options and URLs that make no sense are refused by name", "[srs][s3]") {
  const auto why = [](const char* url) {
    const std::map<std::string, const char*> values = {{"AWS_ACCESS_KEY_ID", "k"},
                                                       {"AWS_SECRET_ACCESS_KEY", "s"}};
    const auto store = OpenStore(url, [&values](const char* name) {
      const auto it = values.find(name);
      return it == values.end() ? nullptr : it->second;
    });
    return store.ok() ? std::string("ok") : std::string(Message(store.status()));
  };
  CHECK(why("s3://bucket/some/prefix?region=eu-west-1") == "ok");
  CHECK(why("folder:backup") == "ok");
  CHECK(why("backup") == "ok");
  CHECK(why("s3://").find("bucket") != std::string::npos);
  CHECK(why("s3://b?colour=red").find("colour") != std::string::npos);
  CHECK(why("s3://b?endpoint=localhost").find("http://") != std::string::npos);
  CHECK(why("gs://b").find("gs://b") != std::string::npos);
  CHECK(Message(OpenStore("s3://b", {}).status()).find("AWS_ACCESS_KEY_ID") !=
        std::string_view::npos);
}

// --- A real server on loopback ---

S3Options OptionsFor(int port) {
  S3Options options;
  options.bucket = "bucket";
  options.endpoint = "http://127.0.0.1:" + std::to_string(port);
  options.access_key = options.secret_key = "k";
  return options;
}

Bytes RandomBytes(size_t count, uint64_t seed) {
  Bytes bytes(count);
  SeededRandom(seed).Fill(bytes);
  return bytes;
}

TEST_CASE("a real server finds our requests in order", "[srs][s3][server]") {
  S3Server server;
  auto store = S3Store(server.options()).value();
  CheckStorePromises(*store);

  const Bytes large = RandomBytes(12 << 20, 3);  // three parts
  REQUIRE(store->Put("large", large, {.if_absent = true}).ok());
  CHECK(store->Head("large").value().bytes == large.size());
  CHECK(store->Get("large").value() == large);
  const Bytes middle = store->Get("large", {(5 << 20) - 7, 100}).value();
  CHECK(std::ranges::equal(middle, ByteView(large).subspan((5 << 20) - 7, 100)));
  CHECK(store->Put("large", RandomBytes(12 << 20, 4), {.if_absent = true}).status().code() ==
        StatusCode::kAlreadyExists);

  for (int i = 0; i < 25; ++i) {
    REQUIRE(store->Put("many/" + std::to_string(100 + i), AsBytes("x")).ok());
  }
  CHECK(store->List("many/", "", 7).value().size() == 7);
  CHECK(store->List("many/", "many/119", 1000).value().size() == 5);

  // One of many racing creators wins.
  std::atomic<int> winners{0};
  std::vector<std::thread> racers;
  for (int i = 0; i < 4; ++i) {
    racers.emplace_back([&store, &winners, i] {
      const std::string name = std::to_string(i);
      if (store->Put("register", AsBytes(name), {.if_absent = true}).ok()) ++winners;
    });
  }
  for (std::thread& racer : racers) racer.join();
  CHECK(winners == 1);
}

TEST_CASE("a real server that checks signatures accepts ours, and no others", "[srs][s3][server]") {
  S3Server server(Signatures::kChecked);
  S3Options right = server.options();
  right.prefix = "";
  auto store = S3Store(std::move(right)).value();
  const Bytes large = RandomBytes(6 << 20, 3);  // two parts
  REQUIRE(store->Put("large", large, {.if_absent = true}).ok());
  REQUIRE(store->Put("small-._x", AsBytes("small")).ok());
  CHECK(store->Get("large").value() == large);
  CHECK(AsText(store->Get("small-._x", {1, 3}).value()) == "mal");
  CHECK(store->Head("small-._x").value().bytes == 5);
  CHECK(store->List("").value().size() == 2);
  CHECK(store->List("s", "large", 5).value().size() == 1);
  CHECK(store->Delete("small-._x").ok());

  S3Options wrong = server.options();
  wrong.secret_key = "guessed";
  const Status refused = S3Store(std::move(wrong)).value()->Get("large").status();
  CHECK(refused.code() == StatusCode::kPermissionDenied);
  CHECK(Message(refused).find("SignatureDoesNotMatch") != std::string_view::npos);
  S3Options stranger = server.options();
  stranger.access_key = "AKIAUNKNOWN";
  CHECK(S3Store(std::move(stranger)).value()->Get("large").status().code() ==
        StatusCode::kPermissionDenied);
  S3Options elsewhere = server.options();
  elsewhere.bucket = "no-such-bucket";
  CHECK(S3Store(std::move(elsewhere)).value()->Get("large").status().code() ==
        StatusCode::kNotFound);
}

TEST_CASE("a relay brings a database back from a bucket", "[srs][s3][server]") {
  S3Server server;
  TempFolder folder;
  const auto open = [&](const std::string& directory) {
    return Relay::Open({.directory = folder / directory,
                        .store = S3Store(server.options()).value(),
                        .batch_interval_ms = 1'000'000})
        .value();
  };
  std::string bookmark;
  {
    auto relay = open("here");
    auto db = relay->OpenDatabase("orders").value();
    MustRun(db->handle(), "CREATE TABLE t(a)");
    for (int i = 0; i < 20; ++i) MustRun(db->handle(), "INSERT INTO t VALUES(randomblob(3000))");
    bookmark = db->GetCurrentBookmark();
    REQUIRE(relay->Flush().ok());
  }
  auto relay = open("there");
  auto db = relay->OpenDatabase("orders").value();
  CHECK(db->GetCurrentBookmark() == bookmark);
  CHECK(Ask(db->handle(), "SELECT count(*), total(length(a)) FROM t") == "20|60000.0");
}

// --- A server that misbehaves on the wire ---

// Answers each connection with the next of `answers`, byte for byte, and closes it; an empty
// one is never given: the connection stays open and silent.
class RudeServer {
 public:
  explicit RudeServer(std::vector<std::string> answers) : answers_(std::move(answers)) {
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
    socklen_t size = sizeof(address);
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    REQUIRE(listen(listener_, 8) == 0);
    thread_ = std::thread([this] { Run(); });
  }
  ~RudeServer() {
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    close(listener_);
    for (const int silent : silent_) close(silent);
  }
  RudeServer(const RudeServer&) = delete;
  int port() const { return port_; }

 private:
  void Run() {
    for (const std::string& answer : answers_) {
      const int peer = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (peer < 0) return;
      std::string request;
      char buffer[4096];
      while (request.find("\r\n\r\n") == std::string::npos) {
        const ssize_t got = read(peer, buffer, sizeof(buffer));
        if (got <= 0) break;
        request.append(buffer, static_cast<size_t>(got));
      }
      if (answer.empty()) {
        silent_.push_back(peer);
        continue;
      }
      [[maybe_unused]] const ssize_t sent = send(peer, answer.data(), answer.size(), MSG_NOSIGNAL);
      shutdown(peer, SHUT_WR);
      while (read(peer, buffer, sizeof(buffer)) > 0) {  // else the reset overtakes the answer
      }
      close(peer);
    }
  }
  std::vector<std::string> answers_;
  std::vector<int> silent_;
  int listener_ = -1;
  int port_ = 0;
  std::thread thread_;
};

TEST_CASE("late, torn, double and nonsense answers end in the right bytes or an error",
          "[srs][s3][server]") {
  const std::string good = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
  const std::string doubled = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello" + good;
  const std::string torn = "HTTP/1.1 200 OK\r\nContent-Length: 50\r\nConnection: close\r\n\r\nhel";
  const std::string error =
      "HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
  const std::string nonsense = "SSH-2.0-OpenSSH\r\n";
  RudeServer server({"", torn, error, nonsense, good, doubled, good, torn, torn});
  S3Options options = OptionsFor(server.port());
  options.request_timeout_ms = 150;  // the silent one
  options.attempts_max = 5;
  options.sleep_ms = [](int64_t) {};
  auto store = S3Store(std::move(options)).value();
  CHECK(AsText(store->Get("x").value()) == "hello");
  CHECK(AsText(store->Get("x").value()) == "hello");
  CHECK(AsText(store->Get("x").value()) == "hello");
}

TEST_CASE("a store that is not there is named with what was tried", "[srs][s3]") {
  S3Options options = OptionsFor(1);  // nothing listens there
  options.attempts_max = 2;
  options.sleep_ms = [](int64_t) {};
  const Status gone = S3Store(std::move(options)).value()->Get("x").status();
  CHECK(gone.code() == StatusCode::kUnavailable);
  CHECK(Message(gone).find("127.0.0.1:1") != std::string_view::npos);
}

TEST_CASE("an answer longer than allowed is cut off, not swallowed", "[srs][s3][server]") {
  RudeServer server({"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n" +
                     std::string(100, 'x')});
  S3Options options = OptionsFor(server.port());
  options.object_bytes_max = 10;
  CHECK(S3Store(std::move(options)).value()->Get("x").status().code() ==
        StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace edge::srs
