#include <cstring>
#include <map>
#include <random>

#include "srs/pack.h"
#include "srs/record.h"
#include "tests/srs/srs_test_util.h"

namespace edge::srs {
namespace {

class MapImage final : public PageImage {
 public:
  Status ReadPage(uint32_t pgno, std::byte* out) override {
    std::memcpy(out, pages[pgno].bytes, kPageBytes);
    return OkStatus();
  }
  Status WritePage(uint32_t pgno, const std::byte* page, const Hash128&) override {
    std::memcpy(pages[pgno].bytes, page, kPageBytes);
    return OkStatus();
  }
  Status Resize(uint32_t size) override {
    pages.erase(pages.upper_bound(size), pages.end());
    return OkStatus();
  }
  std::map<uint32_t, Page> pages;
};

Page RandomChange(const Page& before, std::mt19937& rng) {
  Page page = before;
  switch (rng() % 4) {
    case 0:
      std::memset(page.bytes, 0, kPageBytes);
      break;
    case 1:
      for (std::byte& b : page.bytes) b = std::byte(rng());
      break;
    default:
      for (unsigned i = 0; i < rng() % 20; ++i) {
        const size_t at = rng() % kPageBytes;
        const size_t count = std::min<size_t>(1 + rng() % 60, kPageBytes - at);
        for (size_t k = at; k < at + count; ++k) page.bytes[k] = std::byte(rng());
      }
  }
  return page;
}

TEST_CASE("a record replayed on the page before gives the page after", "[srs][property]") {
  const auto seed = GENERATE(range(1u, 9u));
  CAPTURE(seed);
  std::mt19937 rng(seed);
  MapImage image;
  image.pages[1] = EmptyDatabasePage();
  State state = EmptyState("t", 1);
  for (int step = 0; step < 200; ++step) {
    CAPTURE(step);
    std::map<uint32_t, Page> after = image.pages;
    const auto pages = static_cast<uint32_t>(1 + rng() % 12);
    after.erase(after.upper_bound(pages), after.end());
    std::map<uint32_t, Page> changed;
    for (unsigned i = 0; i < rng() % 5; ++i) {
      const auto pgno = static_cast<uint32_t>(1 + rng() % pages);
      changed[pgno] = after[pgno] = RandomChange(after[pgno], rng);
    }
    Hash128 post;
    for (const auto& [pgno, page] : after) post ^= PageHash(pgno, page.bytes);
    RecordBuilder builder;
    builder.Begin(state.lsn + 1, step, pages, static_cast<uint32_t>(changed.size()));
    for (const auto& [pgno, page] : changed) {
      const auto it = image.pages.find(pgno);
      builder.Add(pgno, it != image.pages.end() ? it->second.bytes : nullptr, page.bytes);
    }
    Hash128 chain = state.chain;
    builder.Finish(post, &chain);
    const auto record = ParseRecord(builder.bytes(), state.chain);
    INFO(record.status().ToString());
    REQUIRE(record.ok());
    REQUIRE(ApplyRecord(*record, &image, &state).ok());
    REQUIRE(state.chain == chain);
    for (const auto& [pgno, page] : after) {
      REQUIRE(std::memcmp(image.pages[pgno].bytes, page.bytes, kPageBytes) == 0);
    }
    // Not on another base, and not with any byte changed.
    REQUIRE(!ParseRecord(builder.bytes(), Hash128{1, 2}).ok());
    Bytes flipped(builder.bytes().begin(), builder.bytes().end());
    flipped[rng() % flipped.size()] ^= std::byte(1 << rng() % 8);
    Hash128 chain_before = state.chain;
    REQUIRE(!ParseRecord(flipped, chain_before).ok());
  }
}

TEST_CASE("a small change makes a small record", "[srs]") {
  Page before{};
  for (size_t i = 0; i < kPageBytes; ++i) before.bytes[i] = std::byte(i * 31);
  Page after = before;
  after.bytes[7] = std::byte{1};
  std::memset(after.bytes + 2000, 9, 30);
  RecordBuilder builder;
  builder.Begin(1000, 1'700'000'000'000, 50, 1);
  builder.Add(3, before.bytes, after.bytes);
  Hash128 chain;
  builder.Finish({1, 2}, &chain);
  CHECK(builder.bytes().size() < 90);
}

TEST_CASE("bookmarks say where they point and sort by commit", "[srs]") {
  State state = EmptyState("t", 3);
  std::string last;
  for (const Lsn lsn : {0ull, 1ull, 9ull, 10ull, 0xffffffffull, 0x100000000ull}) {
    state.lsn = lsn;
    state.chain = HashBytes128(AsBytes("x"), lsn);
    const std::string text = FormatBookmark(state);
    CHECK(text > last);
    last = text;
    const auto parsed = ParseBookmark(text);
    REQUIRE(parsed.ok());
    CHECK(parsed->epoch == 3);
    CHECK(parsed->lsn == lsn);
    CHECK(parsed->chain == state.chain);
  }
  for (std::string_view bad :
       {"", "x", "00000001-00000000-00000000-0000000000000000000000000000000g"}) {
    CHECK(ParseBookmark(bad).status().code() == StatusCode::kInvalidArgument);
  }
}

TEST_CASE("a pack of an unknown version says so", "[srs]") {
  PackWriter writer({1, 2, {}, {}, 0});
  Bytes object = writer.Finish();
  REQUIRE(DecodePackHeader(object).ok());
  object[8] = std::byte{9};
  StoreLittle(object.data() + 12, uint32_t{0});
  StoreLittle(object.data() + 12, Crc32c(ByteView(object).first(kPackHeaderBytes)));
  CHECK(DecodePackHeader(object).status().code() == StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace edge::srs
