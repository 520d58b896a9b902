// The Namespace's calls: their checks, and the hits. Misses are in fetch.cc, writes in
// write.cc.
#include "edge/kv/namespace.h"

#include <utility>

#include "edge/base/errors.h"
#include "kv/cursor.h"
#include "kv/limits.h"
#include "kv/store.h"

namespace edge::kv {
namespace {

constexpr uint64_t kHotBytesMin = 256 << 10;
constexpr size_t kItemsMax = 10'000;
constexpr uint64_t kItemsBytesMax = 100'000'000;
constexpr size_t kPieceBytes = 64 << 10;

}  // namespace

// --- Reading ----------------------------------------------------------------------------

StatusOr<std::optional<std::string>> Namespace::Get(std::string_view key,
                                                    const GetOptions& options) {
  if (options.cache_ttl_s) EDGE_RETURN_IF_ERROR(CheckCacheTtl("GET", options));
  const uint64_t hash = HashKey(key);
  std::optional<std::string> value;
  const bool hit = rep_->ReadHot(hash, key, options, [&](const Record& record) {
    if (!record.absent) value.emplace(record.value());
  });
  if (!hit) [[unlikely]] {
    EDGE_ASSIGN_OR_RETURN(Answer answer, rep_->Fetch(hash, key, options));
    if (answer.entry) value = std::move(answer.entry->value);
  }
  if (value && options.type == ValueType::kJson) EDGE_RETURN_IF_ERROR(CheckJson(*value));
  return value;
}

namespace {

// A value of the length of the one before, as they often are, is copied without ado.
inline void Assign(std::string_view from, std::string* to) {
  if (from.size() == to->size()) [[likely]] {
    std::memcpy(to->data(), from.data(), from.size());
  } else {
    to->assign(from);
  }
}

}  // namespace

StatusOr<bool> Namespace::GetInto(std::string_view key, std::string* value,
                                  const GetOptions& options) {
  if (&options != &kDefaultGet) [[unlikely]]
    return GetWithOptions(key, value, options);
  const uint64_t hash = HashKey(key);
  bool found = false;
  const bool hit = rep_->ReadHot(hash, key, kDefaultGet, [&](const Record& record) {
    found = !record.absent;
    if (found) Assign(record.value(), value);
  });
  if (hit) [[likely]]
    return found;
  return FetchInto(hash, key, value, kDefaultGet);
}

StatusOr<bool> Namespace::FetchInto(uint64_t hash, std::string_view key, std::string* value,
                                    const GetOptions& options) {
  EDGE_ASSIGN_OR_RETURN(Answer answer, rep_->Fetch(hash, key, options));
  if (answer.entry) *value = std::move(answer.entry->value);
  return answer.entry.has_value();
}

StatusOr<bool> Namespace::GetWithOptions(std::string_view key, std::string* value,
                                         const GetOptions& options) {
  EDGE_RETURN_IF_ERROR(CheckCacheTtl("GET", options));
  const uint64_t hash = HashKey(key);
  StatusOr<bool> found = false;
  const bool hit = rep_->ReadHot(hash, key, options, [&](const Record& record) {
    found = !record.absent;
    if (*found) Assign(record.value(), value);
  });
  if (!hit) found = FetchInto(hash, key, value, options);
  if (found.ok() && *found && options.type == ValueType::kJson) {
    EDGE_RETURN_IF_ERROR(CheckJson(*value));
  }
  return found;
}

namespace {

StatusOr<std::optional<ValueWithMetadata>> ToResult(StatusOr<Answer> answer, ValueType type,
                                                    int64_t now_s) {
  if (!answer.ok()) return std::move(answer).status();
  if (!answer->entry) return std::optional<ValueWithMetadata>();
  if (type == ValueType::kJson) EDGE_RETURN_IF_ERROR(CheckJson(answer->entry->value));
  return std::optional(ValueWithMetadata{
      std::move(answer->entry->value), std::move(answer->entry->metadata), answer->source,
      std::max<int64_t>(now_s - answer->loaded_s, 0), answer->stale});
}

}  // namespace

StatusOr<std::optional<ValueWithMetadata>> Namespace::GetWithMetadata(std::string_view key,
                                                                      const GetOptions& options) {
  EDGE_RETURN_IF_ERROR(CheckCacheTtl("GET", options));
  const uint64_t hash = HashKey(key);
  Answer answer;
  const bool hit = rep_->ReadHot(hash, key, options, [&](const Record& record) {
    if (!record.absent) answer.entry = ToEntry(record);
    answer.loaded_s = record.loaded_s;
  });
  if (hit) return ToResult(std::move(answer), options.type, rep_->NowSeconds());
  return ToResult(rep_->Fetch(hash, key, options), options.type, rep_->NowSeconds());
}

void Namespace::GetAsync(std::string_view key, const GetOptions& options, GetDone done) {
  if (Status status = CheckCacheTtl("GET", options); !status.ok()) return done(status);
  if (options.timeout_ms != 0 && rep_->options.loop == nullptr) {
    return done(InvalidArgument("kv: a timeout of {} ms without Options.loop to keep it",
                                options.timeout_ms));
  }
  const uint64_t hash = HashKey(key);
  Answer answer;
  const bool hit = rep_->ReadHot(hash, key, options, [&](const Record& record) {
    if (!record.absent) answer.entry = ToEntry(record);
    answer.loaded_s = record.loaded_s;
  });
  if (hit) return done(ToResult(std::move(answer), options.type, rep_->NowSeconds()));
  rep_->FetchAsync(
      hash, key, options,
      [rep = rep_, type = options.type, done = std::move(done)](StatusOr<Answer> fetched) mutable {
        done(ToResult(std::move(fetched), type, rep->NowSeconds()));
      });
}

StatusOr<std::optional<PinnedValue>> Namespace::Pin(std::string_view key,
                                                    const GetOptions& options) {
  if (options.cache_ttl_s) EDGE_RETURN_IF_ERROR(CheckCacheTtl("GET", options));
  const uint64_t hash = HashKey(key);
  std::optional<PinnedValue> pinned;
  const auto own = [&pinned](Entry entry) {
    pinned->copy_ = std::make_unique<const Entry>(std::move(entry));
    pinned->value_ = pinned->copy_->value;
    pinned->metadata_ = pinned->copy_->metadata;
  };
  const bool hit = rep_->ReadHot(hash, key, options, [&](const Record& record) {
    if (record.absent) return;
    pinned.emplace();
    pinned->block_ = rep_->hot->Pin(hash, &record);
    if (pinned->block_ == nullptr) return own(ToEntry(record));
    pinned->value_ = record.value();
    pinned->metadata_ = record.metadata();
  });
  if (!hit) [[unlikely]] {
    EDGE_ASSIGN_OR_RETURN(Answer answer, rep_->Fetch(hash, key, options));
    if (answer.entry) {
      pinned.emplace();
      own(*std::move(answer.entry));
    }
  }
  if (pinned && options.type == ValueType::kJson) EDGE_RETURN_IF_ERROR(CheckJson(pinned->value_));
  return pinned;
}

PinnedValue::PinnedValue(PinnedValue&& other) noexcept
    : block_(std::exchange(other.block_, nullptr)),
      copy_(std::move(other.copy_)),
      value_(std::exchange(other.value_, {})),
      metadata_(std::exchange(other.metadata_, {})),
      read_(std::exchange(other.read_, 0)) {}

PinnedValue& PinnedValue::operator=(PinnedValue&& other) noexcept {
  if (this == &other) return *this;
  if (block_ != nullptr) HotTier::Unpin(block_);
  block_ = std::exchange(other.block_, nullptr);
  copy_ = std::move(other.copy_);
  value_ = std::exchange(other.value_, {});
  metadata_ = std::exchange(other.metadata_, {});
  read_ = std::exchange(other.read_, 0);
  return *this;
}

size_t PinnedValue::Read(MutableByteView out) {
  const size_t count = std::min(out.size(), value_.size() - read_);
  if (count > 0) std::memcpy(out.data(), value_.data() + read_, count);
  read_ += count;
  return count;
}

PinnedValue::~PinnedValue() {
  if (block_ != nullptr) HotTier::Unpin(block_);
}

// --- Reading many -----------------------------------------------------------------------

// on_hit(index, record) for what is hot, within one read section; then on_miss(index, answer).
template <typename Hit, typename Miss>
Status Namespace::Rep::GetMany(std::span<const std::string_view> keys, const GetOptions& get,
                               Hit&& on_hit, Miss&& on_miss) {
  if (keys.size() > kBulkKeysMax) {
    return InvalidArgument("KV GET_BULK failed: 400 You can request a maximum of {} keys",
                           kBulkKeysMax);
  }
  if (keys.empty()) {
    return InvalidArgument("KV GET_BULK failed: 400 You must request a minimum of 1 key");
  }
  EDGE_RETURN_IF_ERROR(CheckCacheTtl("GET_BULK", get));
  EDGE_RETURN_IF_ERROR(CheckBulkType(get.type));
  std::array<uint64_t, kBulkKeysMax> hashes;
  std::array<size_t, kBulkKeysMax> missing;
  size_t missing_count = 0;
  uint64_t bytes = 0;
  {
    // Three passes, so that the memory accesses of all keys overlap.
    const ReadSection section;
    Lane* lane = &LaneOf(section.reader_index());
    bool refresh = false;  // left to reads of one key
    for (size_t i = 0; i < keys.size(); ++i) {
      hashes[i] = HashKey(keys[i]);
      hot->PrefetchBucket(hashes[i]);
    }
    for (size_t i = 0; i < keys.size(); ++i) hot->PrefetchRecord(hashes[i]);
    for (size_t i = 0; i < keys.size(); ++i) {
      const Record* record = hot->Find(hashes[i], keys[i]);
      if (record == nullptr || !IsUsable(*record, get, &refresh)) {
        missing[missing_count++] = i;
        continue;
      }
      CountHit(lane, hashes[i], *record, 0);
      if (record->absent) continue;
      bytes += record->value_bytes;
      if (bytes > kBulkBytesMax) break;
      on_hit(i, *record);
    }
  }
  if (missing_count > 0 && bytes <= kBulkBytesMax) {
    std::vector<Answer> answers(missing_count);
    EDGE_RETURN_IF_ERROR(FetchMany(keys, hashes, {missing.data(), missing_count}, get, &answers));
    for (size_t k = 0; k < missing_count; ++k) {
      if (!answers[k].entry) continue;
      bytes += answers[k].entry->value.size();
      on_miss(missing[k], std::move(answers[k]));
    }
  }
  if (bytes > kBulkBytesMax) {
    return InvalidArgument(
        "KV GET_BULK failed: 413 Total size of request exceeds the limit of 25MB");
  }
  return OkStatus();
}

Status Namespace::GetManyInto(std::span<const std::string_view> keys,
                              std::vector<std::optional<std::string>>* values,
                              const GetOptions& options) {
  values->resize(keys.size());
  std::array<bool, kBulkKeysMax> found{};
  EDGE_RETURN_IF_ERROR(rep_->GetMany(
      keys, options,
      [&](size_t i, const Record& record) {
        std::optional<std::string>& value = (*values)[i];
        if (!value) value.emplace();
        Assign(record.value(), &*value);
        found[i] = true;
      },
      [&](size_t i, Answer&& answer) {
        (*values)[i] = std::move(answer.entry->value);
        found[i] = true;
      }));
  for (size_t i = 0; i < keys.size(); ++i) {
    if (!found[i]) (*values)[i].reset();
  }
  if (options.type == ValueType::kJson) {
    for (const auto& value : *values) {
      if (value) EDGE_RETURN_IF_ERROR(CheckBulkJson(*value));
    }
  }
  return OkStatus();
}

StatusOr<std::vector<std::optional<std::string>>> Namespace::GetMany(
    std::span<const std::string_view> keys, const GetOptions& options) {
  std::vector<std::optional<std::string>> values;
  EDGE_RETURN_IF_ERROR(GetManyInto(keys, &values, options));
  return values;
}

StatusOr<std::vector<std::optional<ValueWithMetadata>>> Namespace::GetManyWithMetadata(
    std::span<const std::string_view> keys, const GetOptions& options) {
  std::vector<std::optional<ValueWithMetadata>> values(keys.size());
  const int64_t now_s = rep_->NowSeconds();
  EDGE_RETURN_IF_ERROR(rep_->GetMany(
      keys, options,
      [&](size_t i, const Record& record) {
        values[i].emplace(ValueWithMetadata{
            std::string(record.value()), std::string(record.metadata()), Source::kHot,
            std::max<int64_t>(now_s - record.loaded_s, 0), /*stale=*/false});
      },
      [&](size_t i, Answer&& answer) {
        values[i].emplace(ValueWithMetadata{
            std::move(answer.entry->value), std::move(answer.entry->metadata), answer.source,
            std::max<int64_t>(now_s - answer.loaded_s, 0), answer.stale});
      }));
  if (options.type == ValueType::kJson) {
    for (const auto& value : values) {
      if (value) EDGE_RETURN_IF_ERROR(CheckBulkJson(value->value));
    }
  }
  return values;
}

// --- Writing ----------------------------------------------------------------------------

namespace {

struct Checked {
  std::string_view metadata;
  int64_t expiration_s = 0;
};

StatusOr<Checked> CheckPut(std::string_view key, uint64_t value_bytes, const PutOptions& options,
                           int64_t now_s, uint64_t value_bytes_max) {
  Checked checked;
  EDGE_RETURN_IF_ERROR(CheckKey("PUT", key));
  EDGE_ASSIGN_OR_RETURN(checked.expiration_s, CheckExpiration(options, now_s));
  EDGE_ASSIGN_OR_RETURN(checked.metadata, CheckMetadata(options.metadata));
  EDGE_RETURN_IF_ERROR(CheckValueBytes(value_bytes, value_bytes_max));
  return checked;
}

}  // namespace

Status Namespace::Put(std::string_view key, std::string_view value, const PutOptions& options) {
  EDGE_ASSIGN_OR_RETURN(
      const Checked checked,
      CheckPut(key, value.size(), options, rep_->NowSeconds(), rep_->options.value_bytes_max));
  const EntryView entry{value, checked.metadata, checked.expiration_s};
  return rep_->Write(key, &entry, 0).status();
}

void Namespace::PutAsync(std::string_view key, std::string_view value, const PutOptions& options,
                         Callback<void(Status)> done) {
  const auto checked =
      CheckPut(key, value.size(), options, rep_->NowSeconds(), rep_->options.value_bytes_max);
  if (!checked.ok()) return done(checked.status());
  Entry entry{std::string(value), std::string(checked->metadata), checked->expiration_s};
  rep_->WriteAsync(
      std::string(key), std::move(entry), 0,
      [done = std::move(done)](StatusOr<Version> result) mutable { done(result.status()); });
}

Status Namespace::PutStream(std::string_view key, Callback<StatusOr<size_t>(MutableByteView)> read,
                            const PutOptions& options) {
  const uint64_t bytes_max = rep_->options.value_bytes_max;
  EDGE_RETURN_IF_ERROR(CheckPut(key, 0, options, rep_->NowSeconds(), bytes_max).status());
  std::string value;
  Bytes piece(kPieceBytes);
  uint64_t bytes = 0;
  for (;;) {
    EDGE_ASSIGN_OR_RETURN(const size_t count, read(piece));
    if (count == 0) break;
    if (count > piece.size()) {
      return InvalidArgument("kv: the stream gave {} bytes for {}", count, piece.size());
    }
    bytes += count;
    if (bytes <= bytes_max) value.append(AsText({piece.data(), count}));
  }
  EDGE_RETURN_IF_ERROR(CheckValueBytes(bytes, bytes_max));
  return Put(key, value, options);
}

Status Namespace::PutMany(std::span<const PutItem> items) {
  if (items.size() > kItemsMax) {
    return InvalidArgument("kv: {} items, at most {} may be put together", items.size(), kItemsMax);
  }
  const int64_t now_s = rep_->NowSeconds();
  uint64_t bytes = 0;
  for (const PutItem& item : items) {
    EDGE_RETURN_IF_ERROR(
        CheckPut(item.key, item.value.size(), item.options, now_s, rep_->options.value_bytes_max)
            .status());
    bytes += item.key.size() + item.value.size() + item.options.metadata.size();
  }
  if (bytes > kItemsBytesMax) {
    return InvalidArgument("kv: items of {} bytes, at most {} may be put together", bytes,
                           kItemsBytesMax);
  }
  for (const PutItem& item : items) {
    EDGE_RETURN_IF_ERROR(Put(item.key, item.value, item.options));
  }
  return OkStatus();
}

Status Namespace::Delete(std::string_view key) {
  EDGE_RETURN_IF_ERROR(CheckKey("DELETE", key));
  return rep_->Write(key, nullptr, 0).status();
}

void Namespace::DeleteAsync(std::string_view key, Callback<void(Status)> done) {
  if (Status status = CheckKey("DELETE", key); !status.ok()) return done(status);
  rep_->WriteAsync(
      std::string(key), std::nullopt, 0,
      [done = std::move(done)](StatusOr<Version> result) mutable { done(result.status()); });
}

Status Namespace::DeleteMany(std::span<const std::string_view> keys) {
  if (keys.size() > kItemsMax) {
    return InvalidArgument("kv: {} keys, at most {} may be deleted together", keys.size(),
                           kItemsMax);
  }
  for (const std::string_view key : keys) EDGE_RETURN_IF_ERROR(CheckKey("DELETE", key));
  for (const std::string_view key : keys) EDGE_RETURN_IF_ERROR(Delete(key));
  return OkStatus();
}
// --- The rest ---------------------------------------------------------------------------

StatusOr<ListPage> Namespace::List(const ListOptions& options) {
  EDGE_RETURN_IF_ERROR(CheckPrefix(options.prefix));
  EDGE_RETURN_IF_ERROR(CheckListLimit(options.limit));
  OriginListQuery query;
  query.prefix = options.prefix;
  query.count_max = static_cast<size_t>(options.limit > 0 ? options.limit : kListLimitMax);
  query.now_s = rep_->NowSeconds();
  std::string after;
  if (!options.cursor.empty()) {
    EDGE_ASSIGN_OR_RETURN(after, DecodeCursor(options.cursor, options.prefix));
    query.after = std::move(after);
  }
  EDGE_ASSIGN_OR_RETURN(OriginListPage page, Guarded([&] { return rep_->origin->List(query); }));
  ListPage result;
  result.list_complete = page.complete;
  if (!page.complete) {
    result.cursor =
        page.keys.empty() ? std::string(options.cursor) : EncodeCursor(page.keys.back().name);
  }
  result.keys = std::move(page.keys);
  return result;
}

// A namespace as what stands behind another one.
class Namespace::Tier final : public Origin {
 public:
  explicit Tier(std::shared_ptr<Rep> rep) : namespace_(std::move(rep)) {}

  StatusOr<std::optional<Entry>> Get(std::string_view key) override {
    Rep& rep = *namespace_.rep_;
    const uint64_t hash = HashKey(key);
    std::optional<Entry> entry;
    const bool hit = rep.ReadHot(hash, key, {}, [&](const Record& record) {
      if (!record.absent) entry = ToEntry(record);
    });
    if (hit) return entry;
    EDGE_ASSIGN_OR_RETURN(Answer answer, rep.Fetch(hash, key, {}));
    return std::move(answer.entry);
  }

  StatusOr<Version> Put(std::string_view key, const EntryView& entry) override {
    EDGE_RETURN_IF_ERROR(CheckEntry(key, entry.value, entry.metadata));
    return namespace_.rep_->Write(key, &entry, entry.version);
  }
  StatusOr<Version> Delete(std::string_view key, Version version) override {
    EDGE_RETURN_IF_ERROR(CheckKey("DELETE", key));
    return namespace_.rep_->Write(key, nullptr, version);
  }
  StatusOr<OriginListPage> List(const OriginListQuery& query) override {
    return Guarded([&] { return namespace_.rep_->origin->List(query); });
  }
  StatusOr<std::unique_ptr<Subscription>> Watch(OnChange on_change) override {
    return namespace_.rep_->watchers.Add(std::move(on_change));
  }

  bool is_async() const override { return namespace_.rep_->origin->is_async(); }
  void StartGetMany(std::vector<std::string> keys, GetManyDone done) override {
    // Owners: the callbacks of the keys.
    struct Gather {
      Mutex mutex;
      StatusOr<std::vector<std::optional<Entry>>> entries ABSL_GUARDED_BY(mutex) =
          std::vector<std::optional<Entry>>();
      size_t left ABSL_GUARDED_BY(mutex) = 0;
      GetManyDone done;
    };
    const auto gather = std::make_shared<Gather>();
    {
      MutexLock lock(&gather->mutex);
      gather->entries->resize(keys.size());
      gather->left = keys.size() + 1;
    }
    gather->done = std::move(done);
    const auto arrived = [](Gather& at, size_t i, StatusOr<Answer> answer) {
      StatusOr<std::vector<std::optional<Entry>>> all = std::vector<std::optional<Entry>>();
      {
        MutexLock lock(&at.mutex);
        if (!answer.ok()) {
          at.entries = answer.status();
        } else if (at.entries.ok() && i < at.entries->size()) {
          (*at.entries)[i] = std::move(answer->entry);
        }
        if (--at.left > 0) return;
        all = std::move(at.entries);
      }
      at.done(std::move(all));
    };
    for (size_t i = 0; i < keys.size(); ++i) {
      const uint64_t hash = HashKey(keys[i]);
      Answer answer;
      const bool hit = namespace_.rep_->ReadHot(hash, keys[i], {}, [&](const Record& record) {
        if (!record.absent) answer.entry = ToEntry(record);
      });
      if (hit) {
        arrived(*gather, i, std::move(answer));
        continue;
      }
      namespace_.rep_->FetchAsync(hash, keys[i], {},
                                  [gather, i, arrived](StatusOr<Answer> fetched) {
                                    arrived(*gather, i, std::move(fetched));
                                  });
    }
    arrived(*gather, keys.size(), Answer());
  }
  void StartPut(std::string key, Entry entry, WriteDone done) override {
    if (Status status = CheckEntry(key, entry.value, entry.metadata); !status.ok()) {
      return done(status);
    }
    const Version version = entry.version;
    namespace_.rep_->WriteAsync(std::move(key), std::move(entry), version, std::move(done));
  }
  void StartDelete(std::string key, Version version, WriteDone done) override {
    if (Status status = CheckKey("DELETE", key); !status.ok()) return done(status);
    namespace_.rep_->WriteAsync(std::move(key), std::nullopt, version, std::move(done));
  }
  void StartList(OriginListQuery query, ListDone done) override {
    namespace_.rep_->origin->StartList(std::move(query), std::move(done));
  }

 private:
  // The namespace in front has checked it; but it may be a process that we do not know.
  Status CheckEntry(std::string_view key, std::string_view value, std::string_view metadata) {
    EDGE_RETURN_IF_ERROR(CheckKey("PUT", key));
    EDGE_RETURN_IF_ERROR(CheckMetadata(metadata).status());
    return CheckValueBytes(value.size(), namespace_.rep_->options.value_bytes_max);
  }
  Namespace namespace_;
};

std::shared_ptr<Origin> Namespace::AsOrigin() const {
  return std::make_shared<Tier>(rep_);
}

Namespace::Namespace(std::shared_ptr<Rep> rep) : rep_(std::move(rep)) {}

StatusOr<Namespace> Namespace::Open(std::shared_ptr<Origin> origin, const Options& options) {
  if (origin == nullptr) return InvalidArgument("kv: Open needs an origin");
  const unsigned shards = options.shard_count;
  if (shards > 256 || (shards & (shards - 1)) != 0) {
    return InvalidArgument("kv: shard_count is {}; it must be a power of two up to 256, or 0",
                           shards);
  }
  const uint64_t bytes_min = kHotBytesMin * std::max(shards, 1u);
  if (options.hot_bytes_max < bytes_min) {
    return InvalidArgument("kv: hot_bytes_max is {}; it must be at least {}", options.hot_bytes_max,
                           bytes_min);
  }
  if (options.value_bytes_max > kValueBytesMax) {
    return InvalidArgument("kv: value_bytes_max is {}; it must be at most {}",
                           options.value_bytes_max, kValueBytesMax);
  }
  if (options.stale_for_s < 0 || options.stale_if_error_s < 0) {
    return InvalidArgument("kv: stale_for_s is {} and stale_if_error_s {}; neither may be negative",
                           options.stale_for_s, options.stale_if_error_s);
  }
  if (options.refresh_ahead_s < 0 ||
      (options.refresh_ahead_s > 0 && options.refresh_ahead_s >= options.fresh_for_s)) {
    return InvalidArgument("kv: refresh_ahead_s is {}; it must be in [0, fresh_for_s), here {}",
                           options.refresh_ahead_s, options.fresh_for_s);
  }
  if (options.fresh_for_s < 0 || options.absent_fresh_for_s < 0) {
    return InvalidArgument(
        "kv: fresh_for_s is {} and absent_fresh_for_s {}; neither may be negative",
        options.fresh_for_s, options.absent_fresh_for_s);
  }
  auto rep = std::make_shared<Rep>();
  rep->options = options;
  rep->ages = options.fresh_for_s != kForever || options.absent_fresh_for_s != kForever;
  rep->in_background = options.loop != nullptr || origin->is_async();
  rep->origin = std::move(origin);
  // The machine's own clock is read in its coarse form; any other is asked each time.
  rep->clock = options.clock == &SystemClock() ? nullptr : options.clock;
  rep->hot = HotTier::Create(options.hot_bytes_max, options.shard_count);
  if (!options.disk_directory.empty()) {
    EDGE_ASSIGN_OR_RETURN(rep->disk, DiskTier::Open({.files = options.files,
                                                     .directory = options.disk_directory,
                                                     .bytes_max = options.disk_bytes_max,
                                                     .segment_bytes = options.disk_segment_bytes}));
  }
  // The origin may call at once, and until the subscription, which is a part of rep, has ended.
  auto watch = rep->origin->Watch(
      [at = rep.get()](std::string_view key, Version version) { at->OnChanged(key, version); });
  if (watch.ok()) {
    rep->subscription = *std::move(watch);
  } else if (watch.status().code() != StatusCode::kUnimplemented) {
    return watch.status();
  }
  return Namespace(std::move(rep));
}

}  // namespace edge::kv
