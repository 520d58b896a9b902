// Parts of hook.cc that sessions and targets use too.
#pragma once
#include <span>
#include <string>

#include "edge/base/bytes.h"
#include "edge/rpc/hook.h"
#include "edge/rpc/value.h"

namespace edge::rpc {

bool HoldsPromises(std::span<const Value> args);

// Is it a promise already kept or broken, or an object?
bool IsSettled(const HookPtr& hook);
// What a promise was kept with, borrowed from it; null for any other hook.
const Value* KeptValue(const HookPtr& hook);
// About how much memory a promise already kept holds; 0 for others.
size_t SettledBytes(const HookPtr& hook);

// As Pull, with the promises inside the outcome replaced too.
void PullResolved(const HookPtr& hook, Settled done);

// Is the text of this failure only for those who run the program?
bool IsPrivate(const Status& status);

// The promise of a Blob: all of `readable`, whose chunks must be bytes. ResourceExhausted when
// there are more than `bytes_max`.
HookPtr CollectBlob(std::string type, HookPtr readable, size_t bytes_max);
// A readable stream of `bytes` in chunks of 64 KiB.
HookPtr StreamOfBytes(Bytes bytes);

}  // namespace edge::rpc
