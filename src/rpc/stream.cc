#include "edge/rpc/stream.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <utility>

#include "edge/base/errors.h"
#include "src/rpc/hooks.h"

namespace edge::rpc {
namespace {

Value EndOfStream() {
  return Value(Array());
}
Value OneChunk(Value chunk) {
  Array array;
  array.push_back(std::move(chunk));
  return Value(std::move(array));
}
Status ReasonIn(const Array& args, std::string_view otherwise) {
  return args.empty() || args[0].is_nullish() ? Cancelled("{}", otherwise)
                                              : StatusFromError(args[0]);
}
Status NoSuchMethod(std::string_view method) {
  return InvalidArgument("'{}' is not a function.", method);
}

// What lies between the ends of a pipe. Whenever user code may run (a Settle), the state is
// already that of afterwards. Owners: the two ends.
class PipeCore {
 public:
  explicit PipeCore(size_t bytes_max) : bytes_max_(bytes_max) {}

  void Write(Value chunk, Resolver done) {
    if (!cancelled_.ok()) return done.Settle(cancelled_);
    if (closing_) return done.Settle(FailedPrecondition("a write after the end of the stream"));
    if (!readers_.empty()) {
      Resolver reader = TakeReader();
      done.Settle(Value());
      return reader.Settle(OneChunk(std::move(chunk)));
    }
    const size_t bytes = ApproximateBytes(chunk);
    bytes_ += bytes;
    const bool has_room = bytes_ <= bytes_max_;
    chunks_.push_back({std::move(chunk), bytes, has_room ? Resolver() : std::move(done)});
    if (has_room) done.Settle(Value());
  }

  // `why`: OK for a proper end, else what the reader fails with once it has read the rest.
  void End(Status why, Resolver done) {
    if (!cancelled_.ok()) return Settle(std::move(done), cancelled_);
    if (std::exchange(closing_, true))
      return Settle(std::move(done), FailedPrecondition("the stream has ended before"));
    end_ = std::move(why);
    closed_ = std::move(done);
    DeliverEnd();
  }

  void Read(Resolver reader) {
    if (!cancelled_.ok()) return reader.Settle(cancelled_);
    if (chunks_.empty()) {
      readers_.push_back(std::move(reader));
      if (closing_) DeliverEnd();
      return;
    }
    Waiting next = std::move(chunks_.front());
    chunks_.pop_front();
    bytes_ -= next.bytes;
    std::deque<Resolver> with_room;
    if (next.done) with_room.push_back(std::move(next.done));
    if (bytes_ <= bytes_max_) {
      for (Waiting& later : chunks_)
        if (later.done) with_room.push_back(std::move(later.done));
    }
    reader.Settle(OneChunk(std::move(next.chunk)));
    for (Resolver& done : with_room) done.Settle(Value());
  }

  void Cancel(const Status& reason) {
    if (!cancelled_.ok()) return;
    cancelled_ = reason;
    bytes_ = 0;
    const auto chunks = std::make_shared<std::deque<Waiting>>(std::exchange(chunks_, {}));
    auto readers = std::exchange(readers_, {});
    Resolver closed = std::move(closed_);
    for (Waiting& waiting : *chunks) Settle(std::move(waiting.done), reason);
    for (Resolver& reader : readers) reader.Settle(reason);
    Settle(std::move(closed), reason);
  }

 private:
  struct Waiting {
    Value chunk;
    size_t bytes = 0;
    Resolver done;  // empty: there was room
  };
  static void Settle(Resolver done, const Status& status) {
    if (done) done.Settle(status);
  }
  Resolver TakeReader() {
    Resolver reader = std::move(readers_.front());
    readers_.pop_front();
    return reader;
  }
  void DeliverEnd() {
    while (!readers_.empty() && chunks_.empty()) {
      Resolver reader = TakeReader();
      Resolver closed = std::move(closed_);
      reader.Settle(end_.ok() ? StatusOr<Value>(EndOfStream()) : end_);
      if (closed) closed.Settle(Value());
    }
  }

  const size_t bytes_max_;
  std::deque<Waiting> chunks_;
  std::deque<Resolver> readers_;
  size_t bytes_ = 0;
  bool closing_ = false;
  Status end_;        // of closing_
  Resolver closed_;   // told when the reader has seen the end
  Status cancelled_;  // not OK: by the reader
};

class PipeReadable : public MethodHook {
 public:
  explicit PipeReadable(std::shared_ptr<PipeCore> core)
      : MethodHook(Loop::Current()), core_(std::move(core)) {}
  ~PipeReadable() override { core_->Cancel(Cancelled("the reader of the stream went away")); }

 protected:
  void OnCall(std::string_view method, Array args, Resolver done) override {
    if (method == "read") return core_->Read(std::move(done));
    if (method != "cancel") return done.Settle(NoSuchMethod(method));
    core_->Cancel(ReasonIn(args, "the reader cancelled the stream"));
    done.Settle(Value());
  }

 private:
  const std::shared_ptr<PipeCore> core_;
};

class PipeWritable : public MethodHook {
 public:
  explicit PipeWritable(std::shared_ptr<PipeCore> core)
      : MethodHook(Loop::Current()), core_(std::move(core)) {}
  ~PipeWritable() override {
    if (!ended_) core_->End(Cancelled("the writer went away without closing the stream"), {});
  }

 protected:
  void OnCall(std::string_view method, Array args, Resolver done) override {
    if (method == "write")
      return core_->Write(args.empty() ? Value() : std::move(args[0]), std::move(done));
    if (method == "close") {
      ended_ = true;
      return core_->End(OkStatus(), std::move(done));
    }
    if (method != "abort") return done.Settle(NoSuchMethod(method));
    ended_ = true;
    core_->End(ReasonIn(args, "the writer broke the stream off"), {});
    done.Settle(Value());
  }

 private:
  const std::shared_ptr<PipeCore> core_;
  bool ended_ = false;
};

Answer Guarded(Callback<Answer()>& function) {
  try {
    return function();
  } catch (...) {
    return StatusOr<Value>(internal::StatusFromException());
  }
}

class GeneratorHook : public MethodHook {
 public:
  explicit GeneratorHook(Callback<Answer()> next)
      : MethodHook(Loop::Current()), next_(std::move(next)) {}

 protected:
  void OnCall(std::string_view method, Array args, Resolver done) override {
    if (method == "read") {
      readers_.push_back(std::move(done));
      return Run();
    }
    if (method != "cancel") return done.Settle(NoSuchMethod(method));
    Finish(ReasonIn(args, "the reader cancelled the stream"));
    done.Settle(Value());
    Run();
  }

 private:
  // Flat: a reader that reads again from inside its answer is served by the loop below.
  void Run() {
    if (std::exchange(running_, true)) return;
    const HookPtr self = Self();
    while (!readers_.empty() && !busy_) {
      if (finished_) {
        Give(end_.ok() ? StatusOr<Value>(EndOfStream()) : end_);
        continue;
      }
      busy_ = true;
      Guarded(next_).Finish([self = Self()](StatusOr<Value> chunk) {
        static_cast<GeneratorHook*>(self.get())->OnChunk(std::move(chunk));
      });
    }
    running_ = false;
  }
  void OnChunk(StatusOr<Value> chunk) {
    busy_ = false;
    if (!finished_) {
      if (!chunk.ok()) {
        Finish(chunk.status());
      } else if (const Array* items = chunk->array(); items == nullptr || items->empty()) {
        Finish(OkStatus());
      } else {
        Give(std::move(chunk));
      }
    } else {
      next_ = nullptr;
    }
    Run();
  }
  void Give(StatusOr<Value> chunk) {
    Resolver reader = std::move(readers_.front());
    readers_.pop_front();
    reader.Settle(std::move(chunk));
  }
  void Finish(Status end) {
    if (std::exchange(finished_, true)) return;
    end_ = std::move(end);
    if (!busy_) next_ = nullptr;  // else its task still uses it
  }

  Callback<Answer()> next_;
  std::deque<Resolver> readers_;
  bool running_ = false;
  bool busy_ = false;  // next_'s task has not ended
  bool finished_ = false;
  Status end_;
};

// Owners: the hook and the task of the function that runs.
class SinkState : public std::enable_shared_from_this<SinkState> {
 public:
  SinkState(Callback<Answer(Value)> write, Callback<Answer(Status)> end)
      : write_(std::move(write)), end_(std::move(end)) {}

  void Write(Value chunk, Resolver done) {
    if (ended_) return done.Settle(FailedPrecondition("a write after the end of the stream"));
    steps_.push_back({std::move(chunk), {}, false, std::move(done)});
    Run();
  }
  void End(Status why, Resolver done) {
    if (std::exchange(ended_, true)) {
      if (done) done.Settle(FailedPrecondition("the stream has ended before"));
      return;
    }
    steps_.push_back({Value(), std::move(why), true, std::move(done)});
    Run();
  }

 private:
  struct Step {
    Value chunk;
    Status why;
    bool is_end;
    Resolver done;
  };

  void Run() {
    if (std::exchange(running_, true)) return;
    const auto self = shared_from_this();
    while (!steps_.empty() && !busy_) {
      Step step = std::move(steps_.front());
      steps_.pop_front();
      if (!broken_.ok() && !step.is_end) {
        step.done.Settle(broken_);
        continue;
      }
      busy_ = true;
      Start(step).Finish([self, done = std::move(step.done),
                          is_end = step.is_end](StatusOr<Value> outcome) mutable {
        self->busy_ = false;
        if (is_end) {
          self->write_ = nullptr;
          self->end_ = nullptr;
          if (!self->broken_.ok()) outcome = self->broken_;
        } else if (!outcome.ok() && self->broken_.ok()) {
          self->broken_ = outcome.status();
        }
        if (done) done.Settle(outcome.ok() ? StatusOr<Value>(Value()) : outcome.status());
        self->Run();
      });
    }
    running_ = false;
  }
  Answer Start(Step& step) {
    try {
      if (!step.is_end) return write_(std::move(step.chunk));
      return end_(broken_.ok() ? step.why : broken_);
    } catch (...) {
      return StatusOr<Value>(internal::StatusFromException());
    }
  }

  Callback<Answer(Value)> write_;
  Callback<Answer(Status)> end_;
  std::deque<Step> steps_;
  bool running_ = false;
  bool busy_ = false;
  bool ended_ = false;
  Status broken_;
};

class SinkHook : public MethodHook {
 public:
  SinkHook(Callback<Answer(Value)> write, Callback<Answer(Status)> end)
      : MethodHook(Loop::Current()),
        state_(std::make_shared<SinkState>(std::move(write), std::move(end))) {}
  ~SinkHook() override {
    if (!ended_) state_->End(Cancelled("the writer went away without closing the stream"), {});
  }

 protected:
  void OnCall(std::string_view method, Array args, Resolver done) override {
    if (method == "write")
      return state_->Write(args.empty() ? Value() : std::move(args[0]), std::move(done));
    if (method != "close" && method != "abort") return done.Settle(NoSuchMethod(method));
    ended_ = true;
    state_->End(method == "close" ? OkStatus() : ReasonIn(args, "the writer broke the stream off"),
                std::move(done));
  }

 private:
  const std::shared_ptr<SinkState> state_;
  bool ended_ = false;
};

// One walk through a stream; owned by the callback that it waits for.
struct Walk : std::enable_shared_from_this<Walk> {
  HookPtr readable;
  Callback<void(Value, Callback<void(Status)>)> on_chunk;
  Callback<void(Status)> done;
  bool stepping = false;
  bool again = false;

  void Step() {
    again = true;
    if (std::exchange(stepping, true)) return;
    const auto self = shared_from_this();
    while (std::exchange(again, false) && readable) ReadOne();
    stepping = false;
  }
  void ReadOne() {
    constexpr std::string_view kRead = "read";
    PullResolved(readable->Call({&kRead, 1}, {}),
                 [self = shared_from_this()](StatusOr<Value> chunk) { self->OnRead(chunk); });
  }
  void OnRead(StatusOr<Value>& chunk) {
    if (!readable) return;
    Array* items = chunk.ok() ? chunk->As<Array>() : nullptr;
    if (!chunk.ok()) return Finish(chunk.status());
    if (items == nullptr || items->empty()) return Finish(OkStatus());
    on_chunk(std::move((*items)[0]), [self = shared_from_this()](Status status) {
      if (!self->readable) return;
      if (status.ok()) return self->Step();
      constexpr std::string_view kCancel = "cancel";
      Array args;
      args.push_back(ErrorFromStatus(status));
      self->readable->Call({&kCancel, 1}, std::move(args));
      self->Finish(std::move(status));
    });
  }
  void Finish(Status status) {
    readable = nullptr;
    if (auto finished = std::exchange(done, nullptr)) finished(std::move(status));
  }
};

}  // namespace

PipeEnds MakePipeHooks(const PipeOptions& options) {
  const auto core = std::make_shared<PipeCore>(options.bytes_max);
  return {MakeHook<PipeReadable>(core), MakeHook<PipeWritable>(core)};
}

HookPtr internal::MakeGenerator(Callback<Answer()> next) {
  return MakeHook<GeneratorHook>(std::move(next));
}

HookPtr internal::MakeSink(Callback<Answer(Value)> write, Callback<Answer(Status)> end) {
  return MakeHook<SinkHook>(std::move(write), std::move(end));
}

void ForEachChunk(HookPtr readable, Callback<void(Value, Callback<void(Status)> next)> on_chunk,
                  Callback<void(Status)> done) {
  auto walk = std::make_shared<Walk>();
  walk->readable = std::move(readable);
  walk->on_chunk = std::move(on_chunk);
  walk->done = std::move(done);
  walk->Step();
}

HookPtr CollectBlob(std::string type, HookPtr readable, size_t bytes_max) {
  Pending pending = MakePromise();
  const auto blob = std::make_shared<Blob>(Blob{std::move(type), {}});
  ForEachChunk(
      std::move(readable),
      [blob, bytes_max](Value chunk, Callback<void(Status)> next) {
        const BytesValue* data = chunk.As<BytesValue>();
        if (data == nullptr)
          return next(
              InvalidArgument("a blob is made of bytes, not of a {}", KindName(chunk.kind())));
        if (data->bytes.size() > bytes_max - blob->bytes.size())
          return next(ResourceExhausted("a blob of more than {} bytes", bytes_max));
        blob->bytes.insert(blob->bytes.end(), data->bytes.begin(), data->bytes.end());
        next(OkStatus());
      },
      [blob, resolver = std::move(pending.resolver)](Status status) mutable {
        resolver.Settle(status.ok() ? StatusOr<Value>(Value(std::move(*blob))) : status);
      });
  return std::move(pending.promise);
}

HookPtr StreamOfBytes(Bytes bytes) {
  return Generate<Bytes>([bytes = std::move(bytes), at = size_t{0}]() mutable {
           constexpr size_t kChunkBytes = 64 << 10;
           std::optional<Bytes> chunk;
           if (at == bytes.size()) return chunk;
           const size_t end = at + std::min(kChunkBytes, bytes.size() - at);
           chunk.emplace(bytes.begin() + static_cast<ptrdiff_t>(at),
                         bytes.begin() + static_cast<ptrdiff_t>(end));
           at = end;
           return chunk;
         })
      .hook();
}

}  // namespace edge::rpc
