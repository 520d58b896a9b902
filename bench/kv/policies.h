// bench/kv/policies.h - replacement policies over keys of equal size, plainly written: what
// our hit ratio is measured against.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace edge::bench {

class Policy {
 public:
  virtual ~Policy() = default;
  virtual bool Access(uint32_t key) = 0;  // true: it was there; it is now, or the policy refuses
};

struct NamedPolicy {
  std::string name;
  std::unique_ptr<Policy> policy;
};

// LRU, CLOCK, SIEVE, 2Q, ARC, S3-FIFO, W-TinyLFU, each with room for `entries`.
std::vector<NamedPolicy> AllPolicies(size_t entries);

}  // namespace edge::bench
