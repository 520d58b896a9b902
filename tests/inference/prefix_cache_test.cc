#include "inference/prefix_cache.h"

#include <catch2/catch.hpp>
#include <map>
#include <memory>
#include <random>
#include <set>

namespace edge::inference {
namespace {

constexpr KvShape kShape{2, 2, 16, true};

// Writes what the keys of these tokens would be: a mark that depends on all tokens before.
void Write(KvSequence* sequence, const std::vector<TokenId>& tokens) {
  const uint32_t begin = sequence->position();
  uint32_t mark = 1;
  for (uint32_t i = 0; i < tokens.size(); ++i) {
    mark = mark * 31 + static_cast<uint32_t>(tokens[i]);
    if (i < begin) continue;
    for (uint32_t head = 0; head < 4; ++head) {
      auto* block = reinterpret_cast<uint16_t*>(sequence->block_of(head / 2, head % 2, i));
      block[i % 16] = static_cast<uint16_t>(mark + head);
    }
  }
  sequence->Commit(static_cast<uint32_t>(tokens.size()) - begin);
}

bool Reads(const KvSequence& sequence, const std::vector<TokenId>& tokens) {
  uint32_t mark = 1;
  for (uint32_t i = 0; i < sequence.position(); ++i) {
    mark = mark * 31 + static_cast<uint32_t>(tokens[i]);
    for (uint32_t head = 0; head < 4; ++head) {
      const auto* block = reinterpret_cast<uint16_t*>(sequence.block_of(head / 2, head % 2, i));
      if (block[i % 16] != static_cast<uint16_t>(mark + head)) return false;
    }
  }
  return true;
}

TEST_CASE("shared prefixes hold what was written and no block is lost", "[inference][property]") {
  const auto seed = GENERATE(range(1u, 17u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  KvPool pool = KvPool::Create(kShape, 4 * 40 * kShape.block_bytes()).value();
  {
    PrefixCache cache(&pool);
    struct Text {
      std::vector<TokenId> tokens;
      std::unique_ptr<KvSequence> kv;
    };
    std::vector<Text> running;
    size_t hits = 0;
    for (int step = 0; step < 600; ++step) {
      if (running.size() < 3 && rng() % 2 == 0) {
        Text text;  // few kinds of blocks, so that prefixes are common
        const size_t length = 1 + rng() % 70;
        for (size_t i = 0; i < length; ++i) {
          text.tokens.push_back(static_cast<TokenId>(i / 16 * 7 + (rng() % 40 == 0)));
        }
        text.kv = std::make_unique<KvSequence>(&pool);
        const uint32_t known = cache.Match(rng() % 2, text.tokens, text.kv.get());
        if (known == text.tokens.size()) text.kv->Truncate(known - 1);
        hits += known > 0;
        while (!text.kv->Reserve(static_cast<uint32_t>(length) - text.kv->position())) {
          REQUIRE(cache.EvictOne());
        }
        Write(text.kv.get(), text.tokens);
        running.push_back(std::move(text));
      } else if (!running.empty()) {
        const size_t which = rng() % running.size();
        Text& text = running[which];
        if (rng() % 2 == 0) {
          cache.Insert(rng() % 2, text.tokens, *text.kv);
          running.erase(running.begin() + static_cast<ptrdiff_t>(which));
        } else {  // goes back a little and on with something else
          const auto back =
              static_cast<uint32_t>(rng() % std::min<uint32_t>(5, text.kv->position()));
          text.kv->Truncate(text.kv->position() - back);
          text.tokens.resize(text.kv->position());
          text.tokens.push_back(static_cast<TokenId>(rng() % 3));
          while (!text.kv->Reserve(1)) REQUIRE(cache.EvictOne());
          Write(text.kv.get(), text.tokens);
        }
      }
      for (const Text& text : running) REQUIRE(Reads(*text.kv, text.tokens));
    }
    CHECK(hits > 0);
  }
  CHECK(pool.blocks_free() == pool.blocks_total());
}

TEST_CASE("the least recently used prefix goes first, a child before its parent", "[inference]") {
  KvPool pool = KvPool::Create(kShape, 4 * 40 * kShape.block_bytes()).value();
  PrefixCache cache(&pool);
  const std::vector<TokenId> a(48, 1), b(32, 2);
  for (const auto& tokens : {a, b}) {
    KvSequence sequence(&pool);
    REQUIRE(sequence.Reserve(static_cast<uint32_t>(tokens.size())));
    Write(&sequence, tokens);
    cache.Insert(0, tokens, sequence);
  }
  CHECK(cache.size() == 5);
  auto known = [&](const std::vector<TokenId>& tokens) {
    KvSequence sequence(&pool);
    return cache.Match(0, tokens, &sequence);
  };
  CHECK(known(a) == 48);
  CHECK(cache.EvictOne());  // of b, used longer ago
  CHECK(known(b) == 16);
  CHECK(known(a) == 48);
  CHECK(cache.EvictOne());
  CHECK(known(b) == 0);
  CHECK(cache.EvictOne());
  CHECK(known(a) == 32);
}

}  // namespace
}  // namespace edge::inference
