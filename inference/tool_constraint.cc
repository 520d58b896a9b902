#include "inference/tool_constraint.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "edge/base/errors.h"
#include "inference/answer_filter.h"

namespace edge::inference {
namespace {

using nlohmann::json;

class CallState final : public Constraint {
 public:
  CallState(const Tokenizer& tokenizer, std::shared_ptr<const Grammar> grammar,
            CallFirst call_first)
      : tokenizer_(tokenizer),
        grammar_(std::move(grammar)),
        anything_((tokenizer.size() + 63) / 64, ~uint64_t{0}) {
    if (call_first == CallFirst::kYes) {
      forced_ = std::string(kToolCallOpen) + "\n";
      call_.emplace(grammar_);
    }
  }

  TokenMask Allowed() override { return call_ ? call_->Mask() : TokenMask(anything_); }

  void Accept(TokenId token) override {
    if (call_) {
      call_->Accept(token);
      CloseIfFinished();
      return;
    }
    const std::string_view piece = tokenizer_.Piece(token);
    tail_ += piece;
    const size_t open = tail_.find(kToolCallOpen);
    if (open == std::string::npos) {
      if (tail_.size() >= kToolCallOpen.size()) {
        tail_.erase(0, tail_.size() - kToolCallOpen.size() + 1);
      }
      return;
    }
    // What the token holds beyond the mark is the beginning of the object.
    std::string rest = tail_.substr(open + kToolCallOpen.size());
    tail_.clear();
    const size_t text = std::min(rest.find_first_not_of(" \n"), rest.size());
    call_.emplace(grammar_);
    if (text == rest.size()) {
      if (rest.empty()) forced_ = "\n";
      return;
    }
    // It cannot be taken back: a call that begins wrongly is left to the check of the reply.
    if (!call_->AcceptText(rest.substr(text))) call_.reset();
  }

  void TakeForced(std::vector<TokenId>* tokens) override {
    // Each stretch is one of the next: a mark that was decided on, or what the grammar leaves
    // no choice about.
    for (int stretch = 0; stretch < 4; ++stretch) {
      if (!forced_.empty()) {
        const auto ids = tokenizer_.Encode(std::exchange(forced_, ""), ControlText::kParse);
        tokens->insert(tokens->end(), ids.begin(), ids.end());
      }
      if (!call_) return;
      const std::vector<TokenId> ids = call_->ForcedTokens();
      for (const TokenId id : ids) {
        if (!call_->Accept(id)) return;
        tokens->push_back(id);
      }
      CloseIfFinished();
      if (forced_.empty()) return;
    }
  }

  bool complete() const override { return false; }

 private:
  void CloseIfFinished() {
    if (!call_->finished()) return;
    call_.reset();
    forced_ = "\n" + std::string(kToolCallClose);
  }

  const Tokenizer& tokenizer_;
  const std::shared_ptr<const Grammar> grammar_;
  const std::vector<uint64_t> anything_;
  std::optional<GrammarState> call_;  // while inside a call
  std::string tail_;                  // of the text, shorter than a mark
  std::string forced_;                // to be written next
};

class CallFactory final : public ConstraintFactory {
 public:
  CallFactory(std::shared_ptr<const Grammar> grammar, CallFirst call_first)
      : grammar_(std::move(grammar)), call_first_(call_first) {}
  StatusOr<std::unique_ptr<Constraint>> Begin(const Tokenizer& tokenizer) const override {
    if (&tokenizer != &grammar_->tokens().tokenizer()) {
      return InvalidArgument("the constraint was made for another tokenizer");
    }
    return std::unique_ptr<Constraint>(
        std::make_unique<CallState>(tokenizer, grammar_, call_first_));
  }

 private:
  const std::shared_ptr<const Grammar> grammar_;
  const CallFirst call_first_;
};

}  // namespace

StatusOr<std::shared_ptr<const ConstraintFactory>> ConstrainCalls(
    const std::vector<std::string>& tools, std::shared_ptr<const TokenTrie> tokens,
    CallFirst call_first) {
  // Written by hand, for members come in the order of the schema and the name is to be first.
  std::string schema;
  for (const std::string& text : tools) {
    const json tool = json::parse(text, nullptr, false);
    if (!tool.is_object() || !tool.contains("name")) return InvalidArgument("a tool has no name");
    json arguments = tool.value("parameters", json::object());
    if (!arguments.contains("type")) arguments["type"] = "object";
    schema += schema.empty() ? R"({"anyOf":[)" : ",";
    schema += R"({"type":"object","properties":{"name":{"const":)" + tool["name"].dump() +
              R"(},"arguments":)" + arguments.dump() +
              R"(},"required":["name","arguments"],"additionalProperties":false})";
  }
  schema += "]}";
  EDGE_ASSIGN_OR_RETURN(auto grammar, Grammar::FromJsonSchema(schema, std::move(tokens)));
  return std::shared_ptr<const ConstraintFactory>(
      std::make_shared<CallFactory>(std::move(grammar), call_first));
}

}  // namespace edge::inference
