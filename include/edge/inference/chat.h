// edge/inference/chat.h - conversations, and the text that a model was trained to see.
//
// A GGUF file carries its chat template as a Jinja program. We do not run it: we recognise
// the few shapes that models use and write them ourselves.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "edge/base/status.h"
#include "edge/inference/tokenizer.h"

namespace edge::inference {

struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

enum class ChatFormat : uint8_t {
  kPlain,   // no template in the file: "role: content" lines
  kChatMl,  // <|im_start|>role\ncontent<|im_end|>\n
  kLlama3,  // <|start_header_id|>role<|end_header_id|>\n\ncontent<|eot_id|>
};

// Immutable.
class ChatTemplate {
 public:
  // Reads `tokenizer.chat_template`. Unimplemented if there is one of an unknown shape.
  static StatusOr<ChatTemplate> FromGguf(const GgufFile& file);

  ChatFormat format() const { return format_; }
  // What is said when a conversation does not begin with a system message; may be empty.
  const std::string& default_system() const { return default_system_; }
  // Token ids of the conversation with the opening of the assistant's answer. Contents are
  // plain text: a message cannot smuggle in a control token. InvalidArgument: no messages,
  // or a role that is not one of the three.
  StatusOr<std::vector<TokenId>> Apply(const Tokenizer& tokenizer,
                                       std::span<const ChatMessage> messages) const;

 private:
  ChatFormat format_ = ChatFormat::kPlain;
  std::string default_system_;
};

}  // namespace edge::inference
