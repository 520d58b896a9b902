// inference/serve/openai_api.h - the OpenAI HTTP API over an engine, without the HTTP.
//
// Requests and answers are those of https://platform.openai.com/docs/api-reference: models,
// chat completions (with tools and streams) and completions. What a request asks for and we do
// not have is an error, never ignored.
#pragma once
#include <functional>
#include <string>
#include <string_view>

#include "edge/base/clock.h"
#include "edge/inference/engine.h"

namespace edge::inference {

struct ApiAnswer {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;  // empty if it was streamed
};

// Where a streamed answer goes: called with each server-sent event, complete with its line ends.
// False: nobody listens any more.
using OnEvent = std::function<bool(std::string_view event)>;

// Thread-safe; Handle() blocks while the engine works.
class OpenAiApi {
 public:
  OpenAiApi(Engine& engine, std::string model, Clock& clock = SystemClock())
      : engine_(engine), model_(std::move(model)), clock_(clock) {}
  // Also GET /metrics (Prometheus text), /health, and / (a page to chat on).
  ApiAnswer Handle(std::string_view method, std::string_view path, std::string_view body,
                   const OnEvent& on_event) const;

 private:
  ApiAnswer Models() const;
  StatusOr<ApiAnswer> Chat(std::string_view body, const OnEvent& on_event) const;
  StatusOr<ApiAnswer> Complete(std::string_view body, const OnEvent& on_event) const;

  Engine& engine_;
  const std::string model_;
  Clock& clock_;
};

// The page at "/".
std::string_view ChatPage();

}  // namespace edge::inference
