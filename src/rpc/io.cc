#include "edge/rpc/io.h"

#include <span>

#include "edge/base/check.h"
#include "src/rpc/io_rep.h"

namespace edge::rpc {

uint32_t Io::Rep::NextMask() {
  if (masks_left_ == 0) {
    random.Fill(std::as_writable_bytes(std::span(masks_)));
    masks_left_ = masks_.size();
  }
  return masks_[--masks_left_];
}

Io::Io(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}

Io::~Io() {
  const auto closing = std::exchange(rep_->closing, {});
}

Loop& Io::loop() const {
  return rep_->loop;
}

Network& Io::network() const {
  return rep_->network;
}

StatusOr<std::unique_ptr<Io>> Io::Create(Loop& loop, Network& network, Random& random) {
  return std::unique_ptr<Io>(new Io(std::make_unique<Rep>(loop, network, random)));
}

}  // namespace edge::rpc
