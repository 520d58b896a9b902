#include "edge/rpc/io.h"

#include <boost/asio/executor_work_guard.hpp>
#include <chrono>

#include "edge/base/check.h"
#include "edge/base/errors.h"
#include "src/rpc/io_rep.h"

namespace edge::rpc {
namespace {
// Handlers run in one turn, so that the loop's own tasks are not kept waiting for ever.
constexpr int kHandlersPerTurn = 256;
}  // namespace

// Everything happens on one thread: Asio's own locks are left out.
Io::Rep::Rep(Loop& of_loop)
    : loop(of_loop),
      context(BOOST_ASIO_CONCURRENCY_HINT_UNSAFE),
      work(context.get_executor()),
      loop_events(context) {}

Io::Rep::~Rep() {
  if (loop_events.is_open()) loop_events.release();  // the loop's, not ours
}

void Io::Rep::Arm(int fd) {
  if (!loop_events.is_open()) loop_events.assign(fd);
  if (armed) return;
  armed = true;
  loop_events.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                         [this](const boost::system::error_code& error) {
                           if (!error) armed = false;
                         });
}

void Io::Rep::Wait(int fd, int64_t deadline_ns) {
  if (deadline_ns != INT64_MIN) {
    Arm(fd);
    if (deadline_ns == INT64_MAX) {
      context.run_one();
    } else if (const int64_t left_ns = deadline_ns - loop.clock().monotonic_ns(); left_ns > 0) {
      context.run_one_for(std::chrono::nanoseconds(left_ns));
    }
  }
  for (int i = 0; i < kHandlersPerTurn && context.poll_one() != 0; ++i) {
  }
}

Io::Io(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}

Io::~Io() {
  EDGE_CHECK(rep_->loop.IsCurrent());
  rep_->loop.SetWaiter(nullptr).IgnoreError();
}

Loop& Io::loop() const {
  return rep_->loop;
}

StatusOr<std::unique_ptr<Io>> Io::Create(Loop& loop) {
  auto rep = std::make_unique<Rep>(loop);
  EDGE_RETURN_IF_ERROR(loop.SetWaiter(rep.get()));
  return std::unique_ptr<Io>(new Io(std::move(rep)));
}

}  // namespace edge::rpc
