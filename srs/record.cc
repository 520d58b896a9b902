#include "srs/record.h"

#include <bit>
#include <cstring>

#include "edge/base/errors.h"

namespace edge::srs {
namespace {

uint64_t Load64(const std::byte* at) {
  return LoadLittle<uint64_t>(at);
}

void PutVarint(Bytes* out, uint64_t value) {
  ByteWriter(out).Varint(value);
}

void Append(Bytes* out, const std::byte* at, size_t count) {
  out->insert(out->end(), at, at + count);
}

// Appends {gap, length, bytes} for each run of differing bytes. Runs closer than a word are
// one run: a new run costs two bytes of lengths. False if it would exceed `bytes_max`.
bool AppendRuns(const std::byte* before, const std::byte* after, size_t bytes_max, Bytes* out) {
  const size_t start_size = out->size();
  size_t end_of_last = 0;
  for (size_t at = 0; at < kPageBytes;) {
    if (at % 64 == 0) {  // the common case: nothing changed here
      if (std::memcmp(before + at, after + at, 64) == 0) {
        at += 64;
        continue;
      }
    }
    uint64_t difference = Load64(before + at) ^ Load64(after + at);
    if (difference == 0) {
      at += 8;
      continue;
    }
    const size_t start = at + static_cast<size_t>(std::countr_zero(difference)) / 8;
    while (at + 8 < kPageBytes) {
      const uint64_t next = Load64(before + at + 8) ^ Load64(after + at + 8);
      if (next == 0) break;
      difference = next;
      at += 8;
    }
    const size_t end = at + 8 - static_cast<size_t>(std::countl_zero(difference)) / 8;
    PutVarint(out, start - end_of_last);
    PutVarint(out, end - start);
    Append(out, after + start, end - start);
    if (out->size() - start_size > bytes_max) return false;
    end_of_last = end;
    at += 8;
  }
  return true;
}

Hash128 NextChain(const Hash128& before, ByteView body) {
  return HashBytes128(body, before.low + 0x9e3779b97f4a7c15u * before.high);
}

constexpr size_t kTrailerBytes = 16 + 8;  // post, chain

bool RunsAreValid(ByteView runs) {
  ByteReader in(runs);
  uint64_t at = 0;
  while (!in.failed() && in.remaining() > 0) {
    const uint64_t gap = in.Varint();
    const uint64_t count = in.Varint();
    if (gap > kPageBytes || count == 0 || count > kPageBytes) return false;
    at += gap + count;
    if (at > kPageBytes) return false;
    in.Raw(count);
  }
  return !in.failed();
}

}  // namespace

bool IsZero(const std::byte* page) {
  // A page equals itself shifted by one byte and starts with zero: all are zero.
  return page[0] == std::byte{0} && std::memcmp(page, page + 1, kPageBytes - 1) == 0;
}

Hash128 PageHash(uint32_t pgno, const std::byte* page) {
  if (IsZero(page)) return {};
  return HashBytes128({page, kPageBytes}, pgno);
}

const Page& EmptyDatabasePage() {
  static const Page page = [] {
    Page p{};
    const auto set = [&p](size_t at, unsigned value) { p.bytes[at] = std::byte(value); };
    std::memcpy(p.bytes, "SQLite format 3", 16);
    set(16, 0x10);           // page size 4096, big-endian
    set(18, 2), set(19, 2);  // write and read version: WAL
    set(21, 64), set(22, 32), set(23, 32);
    set(31, 1);      // one page
    set(100, 0x0d);  // an empty leaf of the schema table
    set(105, 0x10);  // its cells end at 4096
    return p;
  }();
  return page;
}

State EmptyState(std::string_view name, uint32_t epoch) {
  State state;
  state.epoch = epoch;
  state.pages = 1;
  state.chain = HashBytes128(AsBytes(name), epoch);
  state.post = PageHash(1, EmptyDatabasePage().bytes);
  return state;
}

std::string FormatBookmark(const State& state) {
  return Format("{:08x}-{:08x}-{:08x}-{}", {state.epoch, static_cast<uint32_t>(state.lsn >> 32),
                                            static_cast<uint32_t>(state.lsn), state.chain.ToHex()});
}

StatusOr<Bookmark> ParseBookmark(std::string_view text) {
  const auto bad = [text] { return InvalidArgument("not a bookmark: \"{}\"", text); };
  if (text.size() != 59 || text[8] != '-' || text[17] != '-' || text[26] != '-') return bad();
  std::string digits(text.substr(0, 8));
  digits += text.substr(9, 8);
  digits += text.substr(18, 8);
  digits += text.substr(27);
  std::byte raw[28];
  if (!FromHex(digits, raw)) return bad();
  const auto big = [&raw](size_t at, size_t count) {
    uint64_t value = 0;
    for (size_t i = at; i < at + count; ++i) value = value << 8 | std::to_integer<uint64_t>(raw[i]);
    return value;
  };
  Bookmark bookmark;
  bookmark.epoch = static_cast<uint32_t>(big(0, 4));
  bookmark.lsn = big(4, 8);
  bookmark.chain.high = big(12, 8);
  bookmark.chain.low = big(20, 8);
  return bookmark;
}

void RecordBuilder::Begin(Lsn lsn, int64_t wall_ms, uint32_t pages, uint32_t frame_count) {
  out_.clear();
  last_pgno_ = 0;
  PutVarint(&out_, lsn);
  PutVarint(&out_, static_cast<uint64_t>(wall_ms));
  PutVarint(&out_, pages);
  PutVarint(&out_, frame_count);
}

void RecordBuilder::Add(uint32_t pgno, const std::byte* before, const std::byte* after) {
  PutVarint(&out_, pgno - last_pgno_);
  last_pgno_ = pgno;
  const size_t at = out_.size();
  if (IsZero(after)) {
    out_.push_back(std::byte(FrameKind::kZero));
    return;
  }
  static constexpr Page kZeroPage{};
  out_.push_back(std::byte(FrameKind::kDiff));
  out_.resize(out_.size() + 2);  // the length of the runs
  if (AppendRuns(before != nullptr ? before : kZeroPage.bytes, after, kPageBytes * 3 / 4, &out_)) {
    StoreLittle(out_.data() + at + 1, static_cast<uint16_t>(out_.size() - at - 3));
    return;
  }
  out_.resize(at);
  out_.push_back(std::byte(FrameKind::kFull));
  Append(&out_, after, kPageBytes);
}

void RecordBuilder::Finish(const Hash128& post, Hash128* chain) {
  ByteWriter out(&out_);
  out.U64(post.low);
  out.U64(post.high);
  *chain = NextChain(*chain, out_);
  out.U64(chain->low);
}

void FrameView::ApplyTo(std::byte* page) const {
  switch (kind) {
    case FrameKind::kZero:
      std::memset(page, 0, kPageBytes);
      return;
    case FrameKind::kFull:
      std::memcpy(page, content.data(), kPageBytes);
      return;
    case FrameKind::kDiff:
      break;
  }
  ByteReader in(content);
  for (size_t at = 0; in.remaining() > 0;) {
    at += in.Varint();
    const ByteView run = in.Sized();
    std::memcpy(page + at, run.data(), run.size());
    at += run.size();
  }
}

StatusOr<RecordView> ParseRecord(ByteView bytes, const Hash128& chain_before) {
  const auto bad = [](std::string_view what) { return DataLoss("record: {}", what); };
  if (bytes.size() < kTrailerBytes) return bad("too short");
  RecordView record;
  ByteReader in(bytes.first(bytes.size() - kTrailerBytes));
  record.lsn = in.Varint();
  record.wall_ms = static_cast<int64_t>(in.Varint());
  const uint64_t pages = in.Varint();
  const uint64_t frame_count = in.Varint();
  if (in.failed() || pages == 0 || pages > kPagesMax || record.lsn == 0 || record.wall_ms < 0) {
    return bad("field out of range");
  }
  record.pages = static_cast<uint32_t>(pages);
  if (frame_count > in.remaining() / 2) return bad("frame count out of range");
  record.frames.reserve(frame_count);
  uint64_t pgno = 0;
  for (uint64_t i = 0; i < frame_count; ++i) {
    const uint64_t step = in.Varint();
    if (in.failed() || step == 0 || step > kPagesMax || (pgno += step) > kPagesMax) {
      return bad("page number out of range");
    }
    FrameView frame{static_cast<uint32_t>(pgno), static_cast<FrameKind>(in.U8()), {}};
    switch (frame.kind) {
      case FrameKind::kZero:
        break;
      case FrameKind::kFull:
        frame.content = in.Raw(kPageBytes);
        break;
      case FrameKind::kDiff:
        frame.content = in.Raw(in.U16());
        if (!in.failed() && !RunsAreValid(frame.content)) return bad("runs out of range");
        break;
      default:
        return bad("unknown kind of frame");
    }
    if (in.failed()) return bad("cut off");
    record.frames.push_back(frame);
  }
  if (in.remaining() != 0) return bad("bytes left over");
  ByteReader trailer(bytes.last(kTrailerBytes));
  record.post.low = trailer.U64();
  record.post.high = trailer.U64();
  record.chain = NextChain(chain_before, bytes.first(bytes.size() - 8));
  if (trailer.U64() != record.chain.low) {
    return DataLoss("record {}: does not follow the one before (chain)", record.lsn);
  }
  return record;
}

Status ApplyRecord(const RecordView& record, PageImage* image, State* state) {
  if (record.lsn != state->lsn + 1) {
    return DataLoss("record {} cannot follow record {}", record.lsn, state->lsn);
  }
  Page page;
  Hash128 post = state->post;
  for (uint32_t pgno = record.pages + 1; pgno <= state->pages; ++pgno) {
    EDGE_RETURN_IF_ERROR(image->ReadPage(pgno, page.bytes));
    post ^= PageHash(pgno, page.bytes);
  }
  EDGE_RETURN_IF_ERROR(image->Resize(record.pages));
  for (const FrameView& frame : record.frames) {
    if (frame.pgno > record.pages)
      return DataLoss("record {}: page {} is past the end", record.lsn, frame.pgno);
    EDGE_RETURN_IF_ERROR(image->ReadPage(frame.pgno, page.bytes));
    post ^= PageHash(frame.pgno, page.bytes);
    frame.ApplyTo(page.bytes);
    const Hash128 hash = PageHash(frame.pgno, page.bytes);
    post ^= hash;
    EDGE_RETURN_IF_ERROR(image->WritePage(frame.pgno, page.bytes, hash));
  }
  if (post != record.post) {
    return DataLoss("record {}: the database hashes to {}, expected {}", record.lsn, post.ToHex(),
                    record.post.ToHex());
  }
  state->lsn = record.lsn;
  state->pages = record.pages;
  state->wall_ms = record.wall_ms;
  state->chain = record.chain;
  state->post = post;
  return OkStatus();
}

}  // namespace edge::srs
