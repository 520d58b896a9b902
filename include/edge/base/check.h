// edge/base/check.h - broken invariants.
//
// A broken invariant is a bug of ours, not an error of the caller. EDGE_CHECK stays on in
// release builds; it reports to the host's failure hook and, if that returns, aborts.
#pragma once

namespace edge {

// Called once with the failed expression and where it stands; default: print on stderr.
// May be null (back to default). Thread-safe to call, set it before starting threads.
using CheckFailureHook = void (*)(const char* expression, const char* file, int line);
void SetCheckFailureHook(CheckFailureHook hook);

[[noreturn]] void CheckFailed(const char* expression, const char* file, int line);

}  // namespace edge

#define EDGE_CHECK(x) \
  (static_cast<bool>(x) ? static_cast<void>(0) : ::edge::CheckFailed(#x, __FILE__, __LINE__))

// For hot paths: on unless NDEBUG is defined.
#ifdef NDEBUG
#define EDGE_DCHECK(x) static_cast<void>(sizeof(static_cast<bool>(x)))
#else
#define EDGE_DCHECK(x) EDGE_CHECK(x)
#endif
