// edge/rpc/attenuate.h - a weaker stub from a stronger one.
//
//   Stub<User> reader = Only<&User::GetName, &User::GetPosts>(user);   // and nothing else
//   auto revocation = std::make_shared<Revocation>();
//   Stub<User> lent = Attenuate(user, {.lifetime_ms = 60'000, .calls_max = 100,
//                                      .revocation = revocation});
//   revocation->Revoke();                                              // from any thread
//
// Whoever holds a stub may call it, so to lend less is to hand out another stub. What a lent
// stub returns - stubs, promises and streams, wherever in a result they are - is lent under the
// same expiry, budget and revocation; the list of methods is for the stub itself. A refused
// call never reaches the object: PermissionDenied, or ResourceExhausted once the budget is spent.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "edge/rpc/hook.h"
#include "edge/rpc/names.h"
#include "edge/rpc/stub.h"

namespace edge::rpc {

// Ends all stubs that were made with it, at once and for good. Thread-safe.
class Revocation {
 public:
  void Revoke() { revoked_.store(true, std::memory_order_release); }
  bool revoked() const { return revoked_.load(std::memory_order_acquire); }

 private:
  std::atomic<bool> revoked_{false};
};

struct Attenuation {
  // Wire names of methods and properties, "" for calling a function; empty: all.
  std::vector<std::string> methods = {};
  int64_t lifetime_ms = 0;  // from now, by the clock of the object's loop; 0: no end
  uint64_t calls_max = 0;   // calls and reads, its results' too, chunks of streams not; 0: any
  std::shared_ptr<Revocation> revocation = nullptr;
};

// Its home is that of `hook`. O(1); each call costs one hook and a few checks more.
HookPtr AttenuateHook(HookPtr hook, Attenuation limits);

template <typename T>
Stub<T> Attenuate(const Stub<T>& stub, Attenuation limits) {
  return Stub<T>(AttenuateHook(stub.hook(), std::move(limits)));
}

// Only these methods, which must be in T's list.
template <auto... kMethods, typename T>
Stub<T> Only(const Stub<T>& stub) {
  return Attenuate(stub, {.methods = {std::string(internal::WireName<T, kMethods>::value)...}});
}

}  // namespace edge::rpc
