#include "inference/kv_pool.h"

#include <catch2/catch.hpp>
#include <map>
#include <memory>
#include <random>
#include <set>

#include "inference/thread_pool.h"

namespace edge::inference {
namespace {

constexpr KvShape kShape{.layers = 2, .kv_heads = 3, .head_size = 8, .half = true};

TEST_CASE("the cache never takes more than its budget", "[inference][property]") {
  const auto seed = GENERATE(range(1u, 17u));
  CAPTURE(seed);
  std::mt19937 random(seed);
  const uint64_t budget = kShape.block_bytes() * 100 + 5;
  KvPool pool = KvPool::Create(kShape, budget).value();
  REQUIRE(pool.blocks_total() == 100);
  std::vector<std::unique_ptr<KvSequence>> sequences;
  std::vector<uint32_t> lengths;
  for (int step = 0; step < 400; ++step) {
    const auto what = random() % 8;
    if (what == 0) {
      sequences.push_back(std::make_unique<KvSequence>(&pool));
      lengths.push_back(0);
    } else if (!sequences.empty()) {
      const size_t i = random() % sequences.size();
      if (what == 1) {
        sequences.erase(sequences.begin() + static_cast<ptrdiff_t>(i));
        lengths.erase(lengths.begin() + static_cast<ptrdiff_t>(i));
      } else {
        const auto count = static_cast<uint32_t>(random() % 40 + 1);
        const uint32_t free_before = pool.blocks_free();
        if (sequences[i]->Reserve(count)) {
          sequences[i]->Commit(count);
          lengths[i] += count;
        } else {
          REQUIRE(pool.blocks_free() == free_before);  // all or nothing
        }
      }
    }
    REQUIRE(pool.bytes_used() <= budget);
    // No block belongs to two, and each head has exactly what its length needs.
    std::set<const std::byte*> seen;
    for (size_t i = 0; i < sequences.size(); ++i) {
      for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
        for (uint32_t head = 0; head < kShape.kv_heads; ++head) {
          REQUIRE(sequences[i]->length(layer, head) == lengths[i]);
          for (uint32_t slot = 0; slot < lengths[i]; slot += kSlotsPerBlock) {
            const std::byte* block = sequences[i]->block_of(layer, head, slot);
            REQUIRE(block == sequences[i]->blocks(layer, head)[slot / kSlotsPerBlock]);
            REQUIRE(seen.insert(block).second);
          }
        }
      }
    }
  }
  sequences.clear();
  REQUIRE(pool.bytes_used() == 0);
}

TEST_CASE("a budget below one block per head is refused with its numbers", "[inference]") {
  const auto pool = KvPool::Create(kShape, 100);
  CHECK(pool.status().code() == StatusCode::kResourceExhausted);
  CHECK(Message(pool.status()) ==
        "kv_bytes_max is 100, but 16 tokens take 4608 (2 layers x 3 KV heads x 768 bytes)");
}

TEST_CASE("every task of a pool runs exactly once", "[inference]") {
  const uint32_t threads = GENERATE(1u, 2u, 4u);
  ThreadPool pool(threads);
  std::vector<std::atomic<uint32_t>> counts(100);
  uint64_t expected = 0;
  for (uint32_t round = 0; round < 2000; ++round) {
    const uint32_t tasks = round % 100 + 1;
    pool.Run(tasks, [&](uint32_t task, uint32_t worker) {
      if (worker >= threads) std::abort();
      counts[task].fetch_add(1, std::memory_order_relaxed);
    });
    expected += tasks;
    uint64_t total = 0;
    for (const auto& count : counts) total += count.load();
    REQUIRE(total == expected);
  }
}

}  // namespace
}  // namespace edge::inference
