// HTTP/1.1 messages without I/O, for both sides: bytes in, one message out, and texts of heads.
// The parser is Boost.Beast's; it stays in the .cc file.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edge::rpc {

struct HttpMessage {
  unsigned status = 0;  // of a response
  std::string method;   // of a request
  std::string target;
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  std::string body;
  bool keep_alive = false;
  bool is_upgrade = false;  // to a WebSocket
  std::string_view Header(std::string_view lower_case_name) const;
};

enum class HttpProblem : uint8_t { kNone, kHeadTooLarge, kBodyTooLarge, kMalformed };

// One message. Single-threaded.
class HttpParser {
 public:
  static std::unique_ptr<HttpParser> ForRequest(size_t head_bytes_max, size_t body_bytes_max);
  static std::unique_ptr<HttpParser> ForResponse(size_t head_bytes_max, size_t body_bytes_max);
  virtual ~HttpParser() = default;
  // Takes from the front of `bytes`, all that has come and was not taken; returns how much.
  virtual size_t Put(std::string_view bytes, HttpProblem* problem) = 0;
  // The peer will send no more: a body without a length may be complete by that.
  virtual void PutEnd() = 0;
  virtual bool head_done() const = 0;
  virtual bool done() const = 0;
  virtual bool expects_continue() const = 0;  // once the head is done
  virtual HttpMessage Take() = 0;             // once done; or, of a 101 response, its head
};

std::string_view HttpReason(unsigned status);  // "Not Found"
std::string ToLowerAscii(std::string_view text);
// The Sec-WebSocket-Accept that answers `key` (RFC 6455, section 4.2.2).
std::string WebSocketAccept(std::string_view key);
// Does a list such as "a, b" have `item`? Without regard to case.
bool HeaderListHas(std::string_view list, std::string_view item);

}  // namespace edge::rpc
