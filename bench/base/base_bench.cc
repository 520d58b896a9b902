// edge::base beside what a program would use instead: tasks handed to another thread, hops
// between threads, checksums, recording a measurement.
#include <array>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <future>
#include <memory>
#include <mutex>
#include <thread>

#include "bench/bench.h"
#include "edge/base/checksum.h"
#include "edge/base/executor.h"
#include "edge/base/metrics.h"
#include "edge/base/random.h"

namespace {

using edge::bench::Sample;
using edge::bench::SecondsOf;

// Threads of io_contexts, one each: the same shape as an Executor.
class AsioLoops {
 public:
  explicit AsioLoops(size_t count) : contexts_(count) {
    for (auto& context : contexts_) {
      guards_.emplace_back(boost::asio::make_work_guard(context));
      threads_.emplace_back([&context] { context.run(); });
    }
  }
  ~AsioLoops() {
    guards_.clear();
    for (std::thread& thread : threads_) thread.join();
  }
  boost::asio::io_context& context(size_t index) { return contexts_[index]; }

 private:
  std::vector<boost::asio::io_context> contexts_;
  std::vector<boost::asio::executor_work_guard<boost::asio::io_context::executor_type>> guards_;
  std::vector<std::thread> threads_;
};

constexpr uint64_t kPosts = 100'000;
constexpr uint64_t kHops = 5'000;

// post(task) hands `task` to one thread; each task adds its number.
template <typename Post>
Sample PostAll(Post post) {
  uint64_t sum = 0;  // the other thread's, until `done`
  std::promise<void> done;
  const double seconds = SecondsOf([&] {
    for (uint64_t i = 0; i < kPosts; ++i) post([&sum, i] { sum += i; });
    post([&done] { done.set_value(); });
    done.get_future().wait();
  });
  return {seconds * 1e9 / static_cast<double>(kPosts), sum};
}

// post(index, task): a baton goes to and fro between two threads.
template <typename Post>
struct Baton {
  Post post;
  std::promise<uint64_t> done;
  uint64_t hops = 0;
  void Pass() {
    if (++hops == kHops) return done.set_value(hops);
    post(hops % 2, [this] { Pass(); });
  }
};
template <typename Post>
Sample PassBaton(Post post) {
  Baton<Post> baton{std::move(post), {}};
  uint64_t answer = 0;
  const double seconds = SecondsOf([&] {
    baton.post(0, [&baton] { baton.Pass(); });
    answer = baton.done.get_future().get();
  });
  return {seconds * 1e9 / static_cast<double>(kHops), answer};
}

uint32_t TableCrc32c(edge::ByteView bytes) {
  static const auto table = [] {
    std::array<uint32_t, 256> made{};
    for (uint32_t i = 0; i < 256; ++i) {
      made[i] = i;
      for (int bit = 0; bit < 8; ++bit) {
        made[i] = (made[i] >> 1) ^ ((made[i] & 1) != 0 ? 0x82f63b78 : 0);
      }
    }
    return made;
  }();
  uint32_t crc = ~uint32_t{0};
  for (const std::byte byte : bytes) {
    crc = (crc >> 8) ^ table[(crc ^ static_cast<uint32_t>(byte)) & 0xff];
  }
  return ~crc;
}

}  // namespace

int main(int argc, char** argv) {
  edge::bench::Suite suite(argc, argv);
  auto executor = edge::Executor::Create({.threads = 2}).value();
  AsioLoops asio(2);

  suite.Row(
      {.name = "base/post", .peer_name = "boost::asio::post", .unit = "ns/task"},
      [&] {
        return PostAll([&loop = executor->loop(0)](auto task) {
          while (!loop.Post(task).ok()) std::this_thread::yield();  // full: wait for it
        });
      },
      [&] {
        return PostAll([&context = asio.context(0)](auto task) {
          boost::asio::post(context, std::move(task));
        });
      });
  suite.Row(
      {.name = "base/hop", .peer_name = "boost::asio::post", .unit = "ns/hop"},
      [&] {
        return PassBaton(
            [&](size_t index, auto task) { executor->loop(index).PostUrgent(std::move(task)); });
      },
      [&] {
        return PassBaton([&](size_t index, auto task) {
          boost::asio::post(asio.context(index), std::move(task));
        });
      });

  edge::Bytes bytes(size_t{1} << 20);
  edge::SeededRandom(1).Fill(bytes);
  const auto gigabytes = [&](double seconds) { return 8 * 1.048576e-3 / seconds; };
  suite.Row(
      {.name = "base/crc32c/1MiB",
       .peer_name = "table, a byte at a time",
       .unit = "GB/s",
       .better = edge::bench::Better::kHigher},
      [&] {
        uint32_t crc = 0;
        const double seconds = SecondsOf([&] {
          for (int i = 0; i < 8; ++i) edge::bench::KeepAlive(crc = edge::Crc32c(bytes));
        });
        return Sample{gigabytes(seconds), crc};
      },
      [&] {
        uint32_t crc = 0;
        const double seconds = SecondsOf([&] {
          for (int i = 0; i < 8; ++i) edge::bench::KeepAlive(crc = TableCrc32c(bytes));
        });
        return Sample{gigabytes(seconds), crc};
      });

  // A fresh one each time, for the same answer; the peer counts into fixed buckets by search.
  constexpr uint64_t kRecords = 1'000'000;
  suite.Row(
      {.name = "base/histogram/record", .peer_name = "mutex and sorted bounds", .unit = "ns"},
      [&] {
        const auto histogram = std::make_unique<edge::Histogram>();
        const double seconds = SecondsOf([&] {
          for (uint64_t i = 0; i < kRecords; ++i) histogram->Record(i);
        });
        return Sample{seconds * 1e9 / kRecords, histogram->count()};
      },
      [&] {
        std::mutex mutex;
        std::vector<uint64_t> bounds;
        for (uint64_t bound = 1; bound < uint64_t{1} << 62; bound *= 2) {
          bounds.push_back(bound);
        }
        std::vector<uint64_t> counts(bounds.size() + 1);
        const double seconds = SecondsOf([&] {
          for (uint64_t i = 0; i < kRecords; ++i) {
            const std::lock_guard<std::mutex> lock(mutex);
            ++counts[static_cast<size_t>(std::ranges::upper_bound(bounds, i) - bounds.begin())];
          }
        });
        uint64_t total = 0;
        for (const uint64_t count : counts) total += count;
        return Sample{seconds * 1e9 / kRecords, total};
      });
  return 0;
}
