// inference/chat.cc - recognises a file's chat template and writes conversations in it.
#include "edge/inference/chat.h"

#include "edge/base/errors.h"

namespace edge::inference {
namespace {

// The default system message of a ChatML template stands between the system opening and the
// next <|im_end|> in one of its string literals. Templates that open the system turn with
// the message's own role have none.
std::string DefaultSystem(std::string_view text) {
  constexpr std::string_view kOpening = "<|im_start|>system";
  for (size_t at = text.find(kOpening); at != std::string_view::npos;
       at = text.find(kOpening, at + 1)) {
    std::string_view rest = text.substr(at + kOpening.size());
    // A line feed: as such, or as Jinja's escape.
    if (rest.starts_with("\\n")) {
      rest.remove_prefix(2);
    } else if (rest.starts_with('\n')) {
      rest.remove_prefix(1);
    } else {
      continue;
    }
    const size_t end = rest.find("<|im_end|>");
    if (end == std::string_view::npos) continue;
    const std::string_view message = rest.substr(0, end);
    if (message.empty() || message.find_first_of("{}'\"+\\") != std::string_view::npos) continue;
    return std::string(message);
  }
  return "";
}

void Append(std::vector<TokenId>* out, const std::vector<TokenId>& more) {
  out->insert(out->end(), more.begin(), more.end());
}

}  // namespace

StatusOr<ChatTemplate> ChatTemplate::FromGguf(const GgufFile& file) {
  ChatTemplate out;
  EDGE_ASSIGN_OR_RETURN(const auto text, file.Text("tokenizer.chat_template"));
  if (!text || text->empty()) return out;
  if (text->find("<|im_start|>") != std::string_view::npos) {
    out.format_ = ChatFormat::kChatMl;
    out.default_system_ = DefaultSystem(*text);
  } else if (text->find("<|start_header_id|>") != std::string_view::npos) {
    out.format_ = ChatFormat::kLlama3;
  } else {
    return Unimplemented("{}: a chat template of unknown shape (known: ChatML, Llama 3): {}",
                         file.name(), text->substr(0, 60));
  }
  return out;
}

StatusOr<std::vector<TokenId>> ChatTemplate::Apply(const Tokenizer& tokenizer,
                                                   std::span<const ChatMessage> messages) const {
  if (messages.empty()) return InvalidArgument("a conversation without messages");
  std::vector<TokenId> ids;
  if (tokenizer.adds_bos()) ids.push_back(*tokenizer.bos());
  // Markup is read with its control tokens, contents are not. Contents join the plain text
  // around them before they are encoded, as they do where a template is rendered whole.
  std::string plain;
  auto flush = [&] {
    Append(&ids, tokenizer.Encode(plain));
    plain.clear();
  };
  auto control = [&](std::string_view text) {
    flush();
    Append(&ids, tokenizer.Encode(text, ControlText::kParse));
  };
  auto open = [&](std::string_view role) {
    if (format_ == ChatFormat::kChatMl) {
      control("<|im_start|>");
      plain.append(role).append("\n");
    } else if (format_ == ChatFormat::kLlama3) {
      control("<|start_header_id|>");
      plain.append(role);
      control("<|end_header_id|>");
      plain.append("\n\n");
    } else {
      plain.append(role).append(":");
    }
  };
  auto turn = [&](std::string_view role, std::string_view content) {
    open(role);
    if (format_ == ChatFormat::kPlain) plain.append(" ");
    plain.append(content);
    if (format_ == ChatFormat::kChatMl) control("<|im_end|>");
    if (format_ == ChatFormat::kLlama3) control("<|eot_id|>");
    if (format_ != ChatFormat::kLlama3) plain.append("\n");
  };
  if (messages[0].role != "system" && !default_system_.empty()) turn("system", default_system_);
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role != "system" && role != "user" && role != "assistant") {
      return InvalidArgument("message {}: role \"{}\" is not system, user or assistant", i, role);
    }
    turn(role, messages[i].content);
  }
  open("assistant");
  flush();
  return ids;
}

}  // namespace edge::inference
