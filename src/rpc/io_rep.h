// The Asio context behind an Io. Includes Asio: for the transport's .cc files only.
#pragma once
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>

#include "edge/rpc/io.h"

namespace edge::rpc {

struct Io::Rep final : Loop::Waiter {
  explicit Rep(Loop& of_loop);
  ~Rep() override;
  void Wait(int fd, int64_t deadline_ns) override;
  void Arm(int fd);  // have the context notice when the loop's own descriptor is readable

  Loop& loop;
  boost::asio::io_context context;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work;
  boost::asio::posix::stream_descriptor loop_events;
  bool armed = false;
};

}  // namespace edge::rpc
