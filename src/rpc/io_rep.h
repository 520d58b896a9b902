// What transports of one loop share.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_set>

#include "edge/rpc/io.h"

namespace edge::rpc {

struct Io::Rep {
  Rep(Loop& of_loop, Network& of_network, Random& of_random)
      : loop(of_loop), network(of_network), random(of_random) {}

  // Four bytes that a peer's script cannot foresee (RFC 6455, section 5.3).
  uint32_t NextMask();

  Loop& loop;
  Network& network;
  Random& random;
  // Connections that nobody holds but that still have something to send.
  std::unordered_set<std::shared_ptr<void>> closing;
  // For whoever needs bytes during one call; idle connections hold none of their own.
  std::string scratch;

 private:
  std::array<uint32_t, 512> masks_{};
  size_t masks_left_ = 0;
};

}  // namespace edge::rpc
