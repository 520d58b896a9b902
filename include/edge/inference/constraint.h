// edge/inference/constraint.h - what a reply may say, token by token.
//
// A grammar, a JSON schema or anything else that knows which tokens may come next takes part
// in a request through these two interfaces. The engine asks after every token.
#pragma once
#include <memory>
#include <vector>

#include "edge/base/status.h"
#include "edge/inference/sampler.h"
#include "edge/inference/tokenizer.h"

namespace edge::inference {

// The state of one reply. Single-threaded; its calls may come from different threads, one
// after another.
class Constraint {
 public:
  virtual ~Constraint() = default;
  // The tokens that may come next, a bit for each of the tokenizer's: at least one of them
  // set. End tokens are set where the reply may end. Valid until the next Accept().
  virtual TokenMask Allowed() = 0;
  // `token`, one of those, was chosen. Not called for end tokens.
  virtual void Accept(TokenId token) = 0;
  // Appends tokens that must come next, if there is only one way to go on, and accepts them:
  // the engine takes them without asking the model. Most often none.
  virtual void TakeForced(std::vector<TokenId>* tokens) = 0;
  // Nothing but the end may come: the reply is over without another pass.
  virtual bool complete() const = 0;
};

// Makes such states. Immutable, hence thread-safe; one may serve many requests.
class ConstraintFactory {
 public:
  virtual ~ConstraintFactory() = default;
  // `tokenizer` outlives the result. InvalidArgument: it cannot be met with these tokens.
  virtual StatusOr<std::unique_ptr<Constraint>> Begin(const Tokenizer& tokenizer) const = 0;
};

}  // namespace edge::inference
