#include "edge/base/check.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace edge {
namespace {
std::atomic<CheckFailureHook> failure_hook{nullptr};
}  // namespace

void SetCheckFailureHook(CheckFailureHook hook) {
  failure_hook.store(hook);
}

void CheckFailed(const char* expression, const char* file, int line) {
  if (const CheckFailureHook hook = failure_hook.load()) {
    hook(expression, file, line);
  } else {
    std::fprintf(stderr, "%s:%d: edge check failed: %s\n", file, line, expression);
  }
  std::abort();
}

}  // namespace edge
