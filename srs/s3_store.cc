#include "edge/srs/s3_store.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <ctime>
#include <optional>
#include <thread>
#include <utility>

#include "edge/base/errors.h"
#include "edge/base/mutex.h"
#include "srs/object_store.h"
#include "srs/sigv4.h"

namespace edge::srs {
namespace {

constexpr uint64_t kPartBytesMin = 5 << 20;  // S3's own limits
constexpr uint64_t kPartsMax = 10'000;
constexpr uint64_t kReplyBytesMax = 8 << 20;  // of anything but an object
constexpr std::string_view kNonePresent = "*";

// --- XML: the few elements of S3's answers that we read ---

std::string Unescaped(std::string_view text) {
  static constexpr std::pair<std::string_view, char> kNames[] = {
      {"&amp;", '&'},   {"&lt;", '<'},  {"&gt;", '>'},  {"&quot;", '"'},
      {"&apos;", '\''}, {"&#34;", '"'}, {"&#39;", '\''}};
  std::string plain;
  for (size_t at = 0; at < text.size();) {
    const auto known = std::ranges::find_if(
        kNames, [&](const auto& name) { return text.substr(at).starts_with(name.first); });
    plain += known != std::end(kNames) ? known->second : text[at];
    at += known != std::end(kNames) ? known->first.size() : 1;
  }
  return plain;
}

// The content of the first <name> element in `*xml`, which is cut to what comes after it.
std::optional<std::string_view> NextElement(std::string_view* xml, std::string_view name) {
  const std::string open = "<" + std::string(name) + ">";
  const std::string close = "</" + std::string(name) + ">";
  const size_t start = xml->find(open);
  if (start == std::string_view::npos) return std::nullopt;
  const size_t end = xml->find(close, start + open.size());
  if (end == std::string_view::npos) return std::nullopt;
  const std::string_view content = xml->substr(start + open.size(), end - start - open.size());
  xml->remove_prefix(end + close.size());
  return content;
}
std::string Element(std::string_view xml, std::string_view name) {
  return Unescaped(NextElement(&xml, name).value_or(""));
}

std::string_view HeaderOf(const HttpResponse& response, std::string_view name) {
  for (const auto& [key, value] : response.headers) {
    if (key == name) return value;
  }
  return {};
}

std::optional<uint64_t> Number(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "Tue, 15 Nov 1994 08:12:31 GMT" as milliseconds.
std::optional<int64_t> HttpDate(std::string_view text) {
  std::tm parts{};
  const std::string owned(text);
  if (strptime(owned.c_str(), "%a, %d %b %Y %H:%M:%S GMT", &parts) == nullptr) return std::nullopt;
  return int64_t{timegm(&parts)} * 1000;
}

// Where "bytes 0-9/20" begins.
std::optional<uint64_t> RangeStart(std::string_view header) {
  if (!header.starts_with("bytes ")) return std::nullopt;
  header.remove_prefix(6);
  return Number(header.substr(0, header.find('-')));
}

class S3 final : public ObjectStore {
 public:
  explicit S3(S3Options options) : options_(std::move(options)) {
    if (options_.http == nullptr) options_.http = CurlHttpClient();
    if (options_.clock == nullptr) options_.clock = &SystemClock();
    if (options_.random == nullptr) options_.random = &SystemRandom();
    if (!options_.sleep_ms) {
      options_.sleep_ms = [](int64_t ms) {
        std::this_thread::sleep_for(std::chrono::milliseconds(ms));
      };
    }
    if (options_.endpoint.empty()) {
      base_ = Format("https://{}.s3.{}.amazonaws.com", {options_.bucket, options_.region});
    } else {
      base_ = options_.endpoint;
      path_prefix_ = "/" + options_.bucket;
    }
    host_ = base_.substr(base_.find("://") + 3);
    if (!options_.prefix.empty()) key_prefix_ = options_.prefix + "/";
  }

  StatusOr<std::string> Put(const std::string& key, ByteView content,
                            const PutCondition& condition) override {
    EDGE_RETURN_IF_ERROR(CheckKey(key));
    bool is_settled = true;  // false: an attempt may have succeeded unseen
    auto put = content.size() > options_.part_bytes
                   ? PutInParts(key, content, condition, &is_settled)
                   : PutWhole(key, content, condition, &is_settled);
    const StatusCode code = put.status().code();
    if (is_settled || (code != StatusCode::kAlreadyExists && code != StatusCode::kAborted)) {
      return put;
    }
    // Refused by the condition, perhaps only because an earlier try of ours had worked.
    std::string etag;
    const auto present = Read(key, {}, &etag);
    if (present.ok() && std::ranges::equal(*present, content)) return etag;
    return put;
  }

  StatusOr<Bytes> Get(const std::string& key, const ByteRange& range) override {
    EDGE_RETURN_IF_ERROR(CheckKey(key));
    return Read(key, range, nullptr);
  }

  StatusOr<ObjectInfo> Head(const std::string& key) override {
    EDGE_RETURN_IF_ERROR(CheckKey(key));
    Call call{"HEAD", key};
    EDGE_ASSIGN_OR_RETURN(const HttpResponse answer, Send(call));
    if (answer.code != 200) return Failure(call, answer);
    const auto bytes = Number(HeaderOf(answer, "content-length"));
    if (!bytes) return Unavailable("{}: the answer to HEAD has no length", NameOf(key));
    return ObjectInfo{key, *bytes, std::string(HeaderOf(answer, "etag"))};
  }

  StatusOr<std::vector<ObjectInfo>> List(const std::string& prefix, const std::string& start_after,
                                         size_t count_max) override {
    std::vector<ObjectInfo> found;
    std::string after = start_after;
    while (found.size() < count_max) {
      const size_t wanted = std::min<size_t>(1000, count_max - found.size());
      Call call{"GET", ""};
      call.query = {{"list-type", "2"},
                    {"prefix", key_prefix_ + prefix},
                    {"max-keys", std::to_string(wanted)}};
      if (!after.empty()) call.query["start-after"] = key_prefix_ + after;
      EDGE_ASSIGN_OR_RETURN(const HttpResponse answer, Send(call));
      if (answer.code != 200) return Failure(call, answer);
      std::string_view xml = AsText(answer.body);
      if (xml.find("</ListBucketResult>") == std::string_view::npos) {
        return Unavailable("{}: a listing without its end", NameOf(prefix));
      }
      const bool is_truncated = Element(xml, "IsTruncated") == "true";
      const size_t before = found.size();
      while (const auto item = NextElement(&xml, "Contents")) {
        const std::string key = Element(*item, "Key");
        const auto bytes = Number(Element(*item, "Size"));
        if (!key.starts_with(key_prefix_) || !bytes) {
          return Unavailable("{}: a listing with the key \"{}\"", NameOf(prefix), key);
        }
        found.push_back({key.substr(key_prefix_.size()), *bytes, Element(*item, "ETag")});
      }
      if (!is_truncated) break;
      if (found.size() == before) {
        return Unavailable("{}: a listing that promises more and has nothing", NameOf(prefix));
      }
      after = found.back().key;
    }
    return found;
  }

  Status Delete(const std::string& key) override {
    EDGE_RETURN_IF_ERROR(CheckKey(key));
    Call call{"DELETE", key};
    EDGE_ASSIGN_OR_RETURN(const HttpResponse answer, Send(call));
    if (answer.code == 200 || answer.code == 204 || answer.code == 404) return OkStatus();
    return Failure(call, answer);
  }

 private:
  struct Call {
    std::string method;
    std::string key;  // empty: the bucket
    std::map<std::string, std::string> query = {};
    std::map<std::string, std::string> headers = {};
    ByteView body = {};
    uint64_t reply_bytes_max = kReplyBytesMax;
    bool is_settled = true;  // out: false if an attempt may have been acted on unseen
  };

  std::string NameOf(std::string_view key) const {
    return Format("s3://{}/{}{}", {options_.bucket, key_prefix_, key});
  }

  StatusOr<std::string> PutWhole(const std::string& key, ByteView content,
                                 const PutCondition& condition, bool* is_settled) {
    Call call{"PUT", key};
    call.body = content;
    AddCondition(condition, &call);
    EDGE_ASSIGN_OR_RETURN(const HttpResponse answer, Send(call));
    *is_settled = call.is_settled;
    if (answer.code == 200) return std::string(HeaderOf(answer, "etag"));
    return PutFailure(call, answer, condition);
  }

  StatusOr<std::string> PutInParts(const std::string& key, ByteView content,
                                   const PutCondition& condition, bool* is_settled) {
    Call begin{"POST", key};
    begin.query["uploads"] = "";
    EDGE_ASSIGN_OR_RETURN(const HttpResponse begun, Send(begin));
    if (begun.code != 200) return Failure(begin, begun);
    const std::string upload = Element(AsText(begun.body), "UploadId");
    if (upload.empty()) return Unavailable("{}: an upload without a name", NameOf(key));
    auto put = PutParts(key, upload, content, condition, is_settled);
    if (!put.ok()) {
      Call abort{"DELETE", key};
      abort.query["uploadId"] = upload;
      Send(abort).status().IgnoreError();  // else the bucket's own rules remove it
    }
    return put;
  }

  StatusOr<std::string> PutParts(const std::string& key, const std::string& upload,
                                 ByteView content, const PutCondition& condition,
                                 bool* is_settled) {
    const uint64_t part_bytes =
        std::max<uint64_t>(options_.part_bytes, (content.size() + kPartsMax - 1) / kPartsMax);
    std::string list = "<CompleteMultipartUpload>";
    for (uint64_t at = 0, number = 1; at < content.size(); at += part_bytes, ++number) {
      Call part{"PUT", key};
      part.query = {{"partNumber", std::to_string(number)}, {"uploadId", upload}};
      part.body = content.subspan(at, std::min<uint64_t>(part_bytes, content.size() - at));
      EDGE_ASSIGN_OR_RETURN(const HttpResponse answer, Send(part));
      if (answer.code != 200) return Failure(part, answer);
      list += Format("<Part><PartNumber>{}</PartNumber><ETag>{}</ETag></Part>",
                     {number, HeaderOf(answer, "etag")});
    }
    list += "</CompleteMultipartUpload>";
    Call finish{"POST", key};
    finish.query["uploadId"] = upload;
    finish.body = AsBytes(list);
    AddCondition(condition, &finish);
    EDGE_ASSIGN_OR_RETURN(const HttpResponse answer, Send(finish));
    *is_settled = finish.is_settled;
    const std::string_view xml = AsText(answer.body);
    // S3 may begin its answer, with a 200, before it knows.
    if (answer.code == 200 && xml.find("<Error>") == std::string_view::npos) {
      return Element(xml, "ETag");
    }
    if (!finish.is_settled && answer.code == 404) {
      // The upload is gone: finished by an earlier try of ours, if the object is there.
      std::string etag;
      const auto present = Read(key, {}, &etag);
      if (present.ok() && std::ranges::equal(*present, content)) return etag;
    }
    return PutFailure(finish, answer, condition);
  }

  static void AddCondition(const PutCondition& condition, Call* call) {
    if (condition.if_absent) call->headers["if-none-match"] = kNonePresent;
    if (condition.if_etag) call->headers["if-match"] = *condition.if_etag;
  }
  Status PutFailure(const Call& call, const HttpResponse& answer, const PutCondition& condition) {
    if (answer.code == 412 && condition.if_absent) {
      return AlreadyExists("object {}", NameOf(call.key));
    }
    if (condition.if_etag && (answer.code == 412 || answer.code == 404)) {
      return Aborted("object {}: has changed", NameOf(call.key));
    }
    return Failure(call, answer);
  }

  StatusOr<Bytes> Read(const std::string& key, const ByteRange& range, std::string* etag) {
    if (range.bytes == 0) return Bytes();
    Call call{"GET", key};
    const bool is_whole = range.offset == 0 && range.bytes == UINT64_MAX;
    if (!is_whole) {
      call.headers["range"] =
          range.bytes > UINT64_MAX - range.offset
              ? Format("bytes={}-", {range.offset})
              : Format("bytes={}-{}", {range.offset, range.offset + range.bytes - 1});
    }
    call.reply_bytes_max = options_.object_bytes_max;
    EDGE_ASSIGN_OR_RETURN(HttpResponse answer, Send(call));
    if (answer.code == 416) return Bytes();  // begins behind the end
    if (answer.code != 200 && answer.code != 206) return Failure(call, answer);
    if (etag != nullptr) *etag = HeaderOf(answer, "etag");
    const auto start = answer.code == 206 ? RangeStart(HeaderOf(answer, "content-range"))
                                          : std::optional<uint64_t>(0);
    const auto length = Number(HeaderOf(answer, "content-length"));
    if (!start || (answer.code == 206 && *start != range.offset) ||
        (length && *length != answer.body.size())) {
      return Unavailable("{}: asked from {}, got {} bytes from {}, {} promised", NameOf(key),
                         range.offset, answer.body.size(), start.value_or(0), length.value_or(0));
    }
    Bytes& body = answer.body;
    if (answer.code == 200 && !is_whole) {  // a server without ranges
      const auto skip = std::min<uint64_t>(range.offset, body.size());
      body.erase(body.begin(), body.begin() + static_cast<ptrdiff_t>(skip));
    }
    if (body.size() > range.bytes) body.resize(range.bytes);
    return std::move(body);
  }

  // --- One request, until it is answered for good ---

  StatusOr<HttpResponse> Send(Call& call) {
    Status last;
    for (int attempt = 0; attempt < options_.attempts_max; ++attempt) {
      if (attempt > 0) Pause(attempt);
      StatusOr<HttpResponse> answer = SendOnce(call);
      if (!answer.ok()) {
        if (answer.status().code() != StatusCode::kUnavailable) return answer;
        call.is_settled = false;
        last = answer.status();
        continue;
      }
      if (CorrectClock(*answer)) {
        last = Failure(call, *answer);
        continue;
      }
      const std::string code = Element(AsText(answer->body), "Code");
      const bool is_failed = answer->code >= 500 && answer->code != 507;  // 507: full
      const bool is_passing = is_failed || answer->code == 429 || answer->code == 408 ||
                              code == "RequestTimeout" || code == "ConditionalRequestConflict" ||
                              code == "OperationAborted" ||
                              (answer->code == 200 && code == "InternalError");
      if (!is_passing) return answer;
      if (is_failed) call.is_settled = false;
      last = Failure(call, *answer);
    }
    return Unavailable("{} (tried {} times)", Message(last), options_.attempts_max);
  }

  StatusOr<HttpResponse> SendOnce(const Call& call) {
    SigV4Request signed_request;
    signed_request.method = call.method;
    signed_request.path =
        path_prefix_ + "/" + (call.key.empty() ? "" : UriEncode(key_prefix_ + call.key, "/"));
    signed_request.query = call.query;
    signed_request.headers = call.headers;
    signed_request.headers["host"] = host_;
    if (!options_.session_token.empty()) {
      signed_request.headers["x-amz-security-token"] = options_.session_token;
    }
    signed_request.body = call.body;
    signed_request.wall_ms = options_.clock->wall_ms() + clock_error_ms_.load();
    Sign({options_.access_key, options_.secret_key, options_.region}, &signed_request);
    HttpRequest request;
    request.method = call.method;
    request.url = base_ + signed_request.path;
    if (!call.query.empty()) request.url += "?" + EncodeQuery(call.query);
    signed_request.headers.erase("host");  // curl says the same
    request.headers.assign(signed_request.headers.begin(), signed_request.headers.end());
    request.body = call.body;
    request.timeout_ms = options_.request_timeout_ms;
    request.response_bytes_max = call.reply_bytes_max;
    return options_.http->Send(request);
  }

  // A clock that is wrong by more than 15 minutes gets all requests refused: go by theirs.
  bool CorrectClock(const HttpResponse& answer) {
    if (answer.code != 403 || Element(AsText(answer.body), "Code") != "RequestTimeTooSkewed") {
      return false;
    }
    const auto theirs = HttpDate(HeaderOf(answer, "date"));
    if (!theirs) return false;
    clock_error_ms_ = *theirs - options_.clock->wall_ms();
    return true;
  }

  void Pause(int attempt) {
    const int64_t most =
        std::min(options_.retry_delay_ms_max, options_.retry_delay_ms << std::min(attempt - 1, 20));
    MutexLock lock(&pause_mu_);
    const auto delay =
        static_cast<int64_t>(static_cast<double>(most) * (0.5 + options_.random->Unit() / 2));
    options_.sleep_ms(delay);
  }

  Status Failure(const Call& call, const HttpResponse& answer) const {
    const std::string code = Element(AsText(answer.body), "Code");
    const std::string text =
        Format("{} {}: HTTP {}{}{}{}{}",
               {call.method, NameOf(call.key), answer.code, code.empty() ? "" : " ", code,
                code.empty() ? "" : ": ", Element(AsText(answer.body), "Message")});
    switch (answer.code) {
      case 404:
        return NotFound("{}", text);
      case 401:
      case 403:
        return PermissionDenied("{}", text);
      case 301:
      case 307:
        return FailedPrecondition("{}: the bucket is in region \"{}\", not \"{}\"", text,
                                  HeaderOf(answer, "x-amz-bucket-region"), options_.region);
      case 412:
        return Aborted("{}", text);
      case 413:
      case 507:
        return ResourceExhausted("{}", text);
      default:
        break;
    }
    if (code == "ExpiredToken" || code == "InvalidToken") return PermissionDenied("{}", text);
    if (code == "EntityTooLarge" || code == "QuotaExceeded") return ResourceExhausted("{}", text);
    if (answer.code >= 500 || answer.code == 429 || answer.code < 400) {
      return Unavailable("{}", text);
    }
    return InvalidArgument("{}", text);
  }

  S3Options options_;
  std::string base_;
  std::string host_;
  std::string path_prefix_;
  std::string key_prefix_;
  std::atomic<int64_t> clock_error_ms_{0};
  Mutex pause_mu_;  // delays of several threads queue up: all of them wait for one store
};

}  // namespace

StatusOr<std::unique_ptr<ObjectStore>> S3Store(S3Options options) {
  const auto bad = [](std::string_view name, std::string_view why) {
    return InvalidArgument("S3Options::{}: {}", name, why);
  };
  if (options.bucket.empty()) return bad("bucket", "is empty");
  if (options.access_key.empty() || options.secret_key.empty()) {
    return bad("access_key",
               "the key or its secret is empty (in the environment: "
               "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)");
  }
  if (options.region.empty()) return bad("region", "is empty");
  if (!options.prefix.empty()) {
    EDGE_RETURN_IF_ERROR(Annotate(CheckKey(options.prefix), "S3Options::prefix"));
  }
  if (options.attempts_max < 1) return bad("attempts_max", "is below 1");
  if (options.part_bytes < kPartBytesMin) return bad("part_bytes", "is below 5 MiB");
  while (options.endpoint.ends_with('/')) options.endpoint.pop_back();
  if (!options.endpoint.empty() && !options.endpoint.starts_with("http://") &&
      !options.endpoint.starts_with("https://")) {
    return bad("endpoint", "begins with neither http:// nor https://");
  }
  return std::make_unique<S3>(std::move(options));
}

StatusOr<std::unique_ptr<ObjectStore>> OpenStore(std::string_view url, Environment environment) {
  if (url.starts_with("folder:")) return FolderStore(std::string(url.substr(7)));
  if (url.starts_with("file://")) return FolderStore(std::string(url.substr(7)));
  if (!url.starts_with("s3://")) {
    if (url.empty() || url.find("://") != std::string_view::npos) {
      return InvalidArgument("store \"{}\": s3://bucket/prefix, folder:PATH or a path wanted", url);
    }
    return FolderStore(std::string(url));
  }
  const auto look_up = [&](const char* name) -> std::string {
    const char* value = environment ? environment(name) : nullptr;
    return value != nullptr ? value : "";
  };
  const auto set = [](std::string* option, std::string value) {
    if (!value.empty()) *option = std::move(value);
  };
  S3Options options;
  options.access_key = look_up("AWS_ACCESS_KEY_ID");
  options.secret_key = look_up("AWS_SECRET_ACCESS_KEY");
  options.session_token = look_up("AWS_SESSION_TOKEN");
  set(&options.region, look_up("AWS_DEFAULT_REGION"));
  set(&options.region, look_up("AWS_REGION"));
  set(&options.endpoint, look_up("AWS_ENDPOINT_URL"));
  set(&options.endpoint, look_up("AWS_ENDPOINT_URL_S3"));
  std::string_view rest = url.substr(5);
  std::string_view query;
  if (const size_t mark = rest.find('?'); mark != std::string_view::npos) {
    query = rest.substr(mark + 1);
    rest = rest.substr(0, mark);
  }
  while (rest.ends_with('/')) rest.remove_suffix(1);
  const size_t slash = rest.find('/');
  options.bucket = rest.substr(0, slash);
  if (slash != std::string_view::npos) options.prefix = rest.substr(slash + 1);
  while (!query.empty()) {
    const size_t end = std::min(query.find('&'), query.size());
    const std::string_view part = query.substr(0, end);
    query.remove_prefix(std::min(end + 1, query.size()));
    const size_t equals = std::min(part.find('='), part.size());
    const std::string_view name = part.substr(0, equals);
    const std::string value(part.substr(std::min(equals + 1, part.size())));
    if (name == "region") {
      options.region = value;
    } else if (name == "endpoint") {
      options.endpoint = value;
    } else {
      return InvalidArgument(
          "store \"{}\": unknown parameter \"{}\"; region and endpoint are known", url, name);
    }
  }
  return S3Store(std::move(options));
}

}  // namespace edge::srs
