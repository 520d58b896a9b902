#include "src/rpc/http_message.h"

#include <openssl/sha.h>

#include <algorithm>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/status.hpp>
#include <boost/beast/http/string_body.hpp>

#include "src/rpc/message.h"

namespace edge::rpc {
namespace {

namespace http = boost::beast::http;

std::string_view View(boost::beast::string_view text) {
  return {text.data(), text.size()};
}

template <bool kIsRequest>
class ParserImpl final : public HttpParser {
 public:
  ParserImpl(size_t head_bytes_max, size_t body_bytes_max) {
    parser_.header_limit(static_cast<uint32_t>(std::min<size_t>(head_bytes_max, UINT32_MAX)));
    parser_.body_limit(body_bytes_max);
    parser_.eager(true);
  }

  size_t Put(std::string_view bytes, HttpProblem* problem) override {
    boost::system::error_code error;
    const size_t taken = parser_.put(boost::asio::buffer(bytes.data(), bytes.size()), error);
    *problem = HttpProblem::kNone;
    if (!error || error == http::error::need_more) return taken;
    *problem = error == http::error::header_limit || error == http::error::buffer_overflow
                   ? HttpProblem::kHeadTooLarge
               : error == http::error::body_limit ? HttpProblem::kBodyTooLarge
                                                  : HttpProblem::kMalformed;
    return taken;
  }
  void PutEnd() override {
    boost::system::error_code ignored;
    if (parser_.got_some() && !parser_.is_done()) parser_.put_eof(ignored);
  }
  bool head_done() const override { return parser_.is_header_done(); }
  bool done() const override { return parser_.is_done(); }
  bool expects_continue() const override {
    return HeaderListHas(View(parser_.get()[http::field::expect]), "100-continue");
  }

  HttpMessage Take() override {
    auto& from = parser_.get();
    HttpMessage message;
    if constexpr (kIsRequest) {
      message.method = View(from.method_string());
      message.target = View(from.target());
    } else {
      message.status = from.result_int();
    }
    for (const auto& field : from)
      message.headers.emplace_back(ToLowerAscii(View(field.name_string())), View(field.value()));
    message.keep_alive = from.keep_alive();
    message.is_upgrade = HeaderListHas(message.Header("connection"), "upgrade") &&
                         HeaderListHas(message.Header("upgrade"), "websocket");
    message.body = std::move(from.body());
    return message;
  }

 private:
  std::conditional_t<kIsRequest, http::request_parser<http::string_body>,
                     http::response_parser<http::string_body>>
      parser_;
};

}  // namespace

std::string_view HttpMessage::Header(std::string_view lower_case_name) const {
  for (const auto& [name, value] : headers)
    if (name == lower_case_name) return value;
  return {};
}

std::unique_ptr<HttpParser> HttpParser::ForRequest(size_t head_bytes_max, size_t body_bytes_max) {
  return std::make_unique<ParserImpl<true>>(head_bytes_max, body_bytes_max);
}

std::unique_ptr<HttpParser> HttpParser::ForResponse(size_t head_bytes_max, size_t body_bytes_max) {
  return std::make_unique<ParserImpl<false>>(head_bytes_max, body_bytes_max);
}

std::string_view HttpReason(unsigned status) {
  return View(http::obsolete_reason(http::int_to_status(status)));
}

std::string ToLowerAscii(std::string_view text) {
  std::string lower(text);
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return lower;
}

std::string WebSocketAccept(std::string_view key) {
  const std::string salted = std::string(key) + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
  std::array<std::byte, SHA_DIGEST_LENGTH> digest;
  SHA1(reinterpret_cast<const unsigned char*>(salted.data()), salted.size(),
       reinterpret_cast<unsigned char*>(digest.data()));
  std::string accept;
  AppendBase64(digest, &accept);
  return accept + '=';
}

bool HeaderListHas(std::string_view list, std::string_view item) {
  while (!list.empty()) {
    const size_t comma = std::min(list.find(','), list.size());
    std::string_view part = list.substr(0, comma);
    list.remove_prefix(std::min(comma + 1, list.size()));
    while (!part.empty() && (part.front() == ' ' || part.front() == '\t')) part.remove_prefix(1);
    while (!part.empty() && (part.back() == ' ' || part.back() == '\t')) part.remove_suffix(1);
    if (ToLowerAscii(part) == ToLowerAscii(item)) return true;
  }
  return false;
}

}  // namespace edge::rpc
