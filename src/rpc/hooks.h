// Parts of hook.cc that sessions and targets use too.
#pragma once
#include "edge/rpc/hook.h"
#include "edge/rpc/value.h"

namespace edge::rpc {

bool HoldsPromises(const Array& args);

// As Pull, with the promises inside the outcome replaced too.
void PullResolved(const HookPtr& hook, Settled done);

}  // namespace edge::rpc
