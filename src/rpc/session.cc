#include "edge/rpc/session.h"

#include <algorithm>
#include <array>
#include <deque>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "edge/base/check.h"
#include "edge/base/errors.h"
#include "edge/rpc/map.h"
#include "edge/rpc/stream.h"
#include "src/rpc/expression.h"
#include "src/rpc/hooks.h"
#include "src/rpc/json.h"
#include "src/rpc/message.h"
#include "src/rpc/stream_sender.h"

namespace edge::rpc {
namespace {

constexpr char kImportTag = 0;
constexpr size_t kBufferBytesKept = 1024;  // by an idle session

// What the peer finds at id 0 when we offer nothing.
HookPtr EmptyMain() {
  return ValueHook(Object());
}

}  // namespace

// An entry of the peer's export table, as long as we refer to it. Ids above 0 are results of
// our calls, ids below 0 what the peer has offered, 0 is its main object.
class ImportHook : public Hook {
 public:
  ImportHook(std::shared_ptr<Session::Core> core, Loop* home, int64_t id, bool is_promise)
      : Hook(home), core_(std::move(core)), id_(id), is_promise_(is_promise) {}
  ~ImportHook() override;

  const void* kind_tag() const override { return &kImportTag; }
  static ImportHook* From(const HookPtr& hook) {
    return hook && hook->kind_tag() == &kImportTag ? static_cast<ImportHook*>(hook.get()) : nullptr;
  }

  void Become(HookPtr target);  // it settled: from now on `target` is meant
  void AddIntroduction() { ++introductions_; }
  HookPtr TryRef() { return TrySelf(); }

  const Session::Core* core() const { return core_.get(); }
  int64_t id() const { return id_; }
  bool is_promise() const { return is_promise_; }
  uint64_t introductions() const { return introductions_; }
  const HookPtr& target() const { return target_; }

 protected:
  HookPtr DoCall(PathView path, Array args) override;
  HookPtr DoGet(PathView path) override;
  void DoPull(Settled done) override;
  HookPtr DoMap(PathView path, MapProgram program) override;
  void DoOnBroken(Callback<void(Status)> broken) override;

 private:
  const std::shared_ptr<Session::Core> core_;
  const int64_t id_;
  const bool is_promise_;
  bool pulled_ = false;
  uint64_t introductions_ = 1;
  HookPtr target_;
  std::vector<Settled> waiting_;
  std::vector<Callback<void(Status)>> on_broken_;
  HookPtr self_;  // set while something waits: an asked answer is always awaited
};

class Session::Core : public std::enable_shared_from_this<Core>,
                      public References,
                      public StreamCarrier {
 public:
  Core(HookPtr main, const SessionLimits& limits, Callback<void()> on_output)
      : limits_(limits), home_(Loop::Current()), on_output_(std::move(on_output)) {
    exports_[0] = {main ? std::move(main) : EmptyMain(), 1, false, false, 0, 0, nullptr};
  }

  void Start() { main_ = NewImport(0, false); }

  Counts counts() const { return {imports_.size(), exports_.size() + (evaluating_ ? 1 : 0)}; }
  static thread_local Core* current_core;  // whose message is being handled

  // ---- messages of the peer

  Status OnMessage(std::string_view text) {
    const auto keep = shared_from_this();  // a method that is called may end the session
    if (ended()) return end_status_;
    const CallContext::Scope outside(nullptr);
    Core* const outer = std::exchange(current_core, this);
    Status status = Dispatch(text);
    current_core = outer;
    if (!status.ok() && !ended()) Abort(std::move(status));
    CheckIdle();
    return end_status_;
  }

  Status Dispatch(std::string_view text) {
    if (text.size() > limits_.message_bytes_max)
      return ResourceExhausted("a message of {} bytes; {} are allowed", text.size(),
                               limits_.message_bytes_max);
    if (std::optional<Status> done = DispatchUsual(text)) return *std::move(done);
    const size_t depth_max = 2 * limits_.depth_max + 16;
    EDGE_ASSIGN_OR_RETURN(Value json, codec_ == Codec::kBinary ? ParseBinary(text, depth_max)
                                                               : ParseJson(text, depth_max));
    Array* message = json.As<Array>();
    if (message == nullptr || message->empty() || (*message)[0].string() == nullptr)
      return InvalidArgument("a message must be an array that starts with its type");
    const std::string type = *(*message)[0].string();
    const size_t size = message->size();
    const int64_t* id = size > 1 ? (*message)[1].As<int64_t>() : nullptr;
    if (type == "push" && size == 2) return OnPush(std::move((*message)[1]), text.size());
    if (type == "pull" && size == 2 && id != nullptr) return OnPull(*id);
    if ((type == "resolve" || type == "reject") && size == 3 && id != nullptr)
      return OnAnswer(*id, type == "reject", std::move((*message)[2]));
    if (type == "release" && size == 3 && id != nullptr && (*message)[2].As<int64_t>() != nullptr)
      return OnRelease(*id, *(*message)[2].As<int64_t>());
    if (type == "abort" && size == 2) return OnAbort(std::move((*message)[1]));
    if (type == "stream" && size == 2) return OnStream(std::move((*message)[1]), text.size());
    if (type == "pipe" && size == 1) return OnPipe();
    return InvalidArgument("bad message of type \"{}\"", std::string_view(type).substr(0, 40));
  }

  // The messages that nearly all are, read without a tree of the whole; nothing if this is
  // another, or looks wrong: then nothing has happened yet.
  std::optional<Status> DispatchUsual(std::string_view text) {
    MessageReader in(text, codec_, 2 * limits_.depth_max + 16);
    int64_t id = 0;
    int64_t count = 0;
    if (!in.Open()) return std::nullopt;
    if (in.Is(Word::kPush)) return DispatchCall(in, text.size());
    if (in.Is(Word::kPull)) {
      if (!in.Int(&id) || !in.Close() || !in.done()) return std::nullopt;
      return OnPull(id);
    }
    if (in.Is(Word::kRelease)) {
      if (!in.Int(&id) || !in.Int(&count) || !in.Close() || !in.done()) return std::nullopt;
      return OnRelease(id, count);
    }
    Value expression;
    if (!in.Is(Word::kResolve) || !in.Int(&id) || !in.Tree(&expression) || !in.Close() ||
        !in.done())
      return std::nullopt;
    return OnAnswer(id, false, std::move(expression));
  }

  std::optional<Status> DispatchCall(MessageReader& in, size_t message_bytes) {
    int64_t id = 0;
    std::array<std::string_view, 8> names;
    size_t name_count = 0;
    Value args;
    if (!in.Open() || !in.Is(Word::kPipeline) || !in.Int(&id) || !in.Names(names, &name_count) ||
        name_count > limits_.path_max || !in.Tree(&args) || args.array() == nullptr ||
        !in.Close() || !in.Close() || !in.done())
      return std::nullopt;
    if (exports_.size() >= limits_.exports_max) return std::nullopt;
    const auto found = exports_.find(id);
    if (found == exports_.end()) return std::nullopt;
    const HookPtr hook = found->second.hook;
    pipeline_depth_ = IsSettled(hook) ? 0 : found->second.depth;
    EDGE_ASSIGN_OR_RETURN(Array values,
                          EvaluateArguments(std::move(*args.As<Array>()), limits_, *this));
    evaluating_ = true;
    HookPtr result = hook->Call(PathView(names.data(), name_count), std::move(values));
    evaluating_ = false;
    if (ended()) return end_status_;
    return AddResult(std::move(result), message_bytes);
  }

  // Evaluates what becomes the peer's next result.
  StatusOr<HookPtr> NextResult(Value expression) {
    if (exports_.size() >= limits_.exports_max)
      return ResourceExhausted("{} objects and results are held; release some", exports_.size());
    pipeline_depth_ = 0;
    evaluating_ = true;
    StatusOr<Value> value = Evaluate(std::move(expression), limits_, *this);
    evaluating_ = false;
    if (!value.ok()) return value.status();
    if (ended()) return end_status_;
    return ValueHook(std::move(*value));
  }

  Status AddResult(HookPtr hook, size_t message_bytes) {
    const bool settled = IsSettled(hook);
    const size_t depth = settled ? 0 : pipeline_depth_ + 1;
    // What the message said is kept by the call until it has its result, and then that is.
    const size_t bytes = settled ? SettledBytes(hook) : message_bytes;
    exports_[next_result_++] = {std::move(hook), 1, false, false, depth, bytes, nullptr};
    if (depth > limits_.pipeline_max)
      return ResourceExhausted("{} calls wait for each other", depth);
    return Pin(bytes);
  }

  Status OnPush(Value expression, size_t message_bytes) {
    EDGE_ASSIGN_OR_RETURN(HookPtr hook, NextResult(std::move(expression)));
    return AddResult(std::move(hook), message_bytes);
  }

  Status OnStream(Value expression, size_t message_bytes) {
    if (stream_bytes_ + message_bytes > limits_.stream_bytes_max)
      return ResourceExhausted("{} bytes of streams are not acknowledged; wait for that",
                               stream_bytes_);
    stream_bytes_ += message_bytes;
    EDGE_ASSIGN_OR_RETURN(HookPtr hook, NextResult(std::move(expression)));
    const int64_t id = next_result_++;
    exports_[id] = {hook, 1, true, true, 0, 0, nullptr};
    ++unanswered_;
    hook->Pull([weak = weak_from_this(), id, message_bytes](StatusOr<Value> outcome) {
      const auto core = weak.lock();
      if (core == nullptr) return;
      core->stream_bytes_ -= message_bytes;
      core->Answer(id, std::move(outcome));
    });
    return OkStatus();
  }

  Status OnPipe() {
    if (exports_.size() >= limits_.exports_max)
      return ResourceExhausted("{} objects and results are held; release some", exports_.size());
    // No room of its own: a chunk is acknowledged when it is read.
    PipeEnds ends = MakePipeHooks({.bytes_max = 0});
    exports_[next_result_++] = {std::move(ends.writable), 1, false, false, 0, 0,
                                std::move(ends.readable)};
    return OkStatus();
  }

  Status Pin(size_t bytes) {
    pinned_bytes_ += bytes;
    if (pinned_bytes_ <= limits_.memory_bytes_max) return OkStatus();
    return ResourceExhausted("{} bytes are held for the peer; {} are allowed", pinned_bytes_,
                             limits_.memory_bytes_max);
  }

  Status OnPull(int64_t id) {
    const auto found = exports_.find(id);
    if (found == exports_.end()) return InvalidArgument("pull of {}, which is not exported", id);
    if (std::exchange(found->second.pulled, true)) return OkStatus();
    AnswerWhenSettled(id, found->second.hook);
    if (unanswered_ > limits_.calls_max)
      return ResourceExhausted("{} calls wait for their answers; {} are allowed", unanswered_,
                               limits_.calls_max);
    return OkStatus();
  }

  Status OnAnswer(int64_t id, bool is_rejection, Value expression) {
    EDGE_ASSIGN_OR_RETURN(Value value, Evaluate(std::move(expression), limits_, *this));
    if (const auto ack = acks_.find(id); ack != acks_.end()) {
      auto answered = std::move(ack->second);
      acks_.erase(ack);
      answered(is_rejection ? StatusFromError(value) : OkStatus());
      return OkStatus();
    }
    const auto found = imports_.find(id);
    const HookPtr hook = found == imports_.end() ? nullptr : found->second->TryRef();
    if (!hook) return OkStatus();  // released meanwhile
    if (id == 0) return InvalidArgument("the main object cannot be resolved");
    auto* import = static_cast<ImportHook*>(hook.get());
    imports_.erase(found);
    SendRelease(id, import->introductions());
    import->Become(is_rejection ? FailedHook(StatusFromError(value)) : ValueHook(std::move(value)));
    return OkStatus();
  }

  Status OnRelease(int64_t id, int64_t count) {
    const auto found = exports_.find(id);
    if (found == exports_.end()) return InvalidArgument("release of {}, which is not exported", id);
    Export& entry = found->second;
    if (count < 1 || static_cast<uint64_t>(count) > entry.count)
      return InvalidArgument("release of {}: {} of {} references", id, count, entry.count);
    entry.count -= static_cast<uint64_t>(count);
    if (entry.count != 0) return OkStatus();
    const Export dropped = std::move(entry);  // after the table is in order
    exports_.erase(found);
    pinned_bytes_ -= dropped.bytes;
    return OkStatus();
  }

  Status OnAbort(Value expression) {
    StatusOr<Value> error = Evaluate(std::move(expression), limits_, *this);
    End(Annotate(error.ok() ? StatusFromError(*error) : Unknown("no reason given"),
                 "the peer ended the session"));
    return end_status_;
  }

  // ---- References: what expressions of the peer name, and how we name things to it

  StatusOr<HookPtr> Resolve(int64_t id, const Path& path, std::optional<Array> args) override {
    const auto found = exports_.find(id);
    if (found == exports_.end()) return InvalidArgument("no export {}", id);
    const HookPtr hook = found->second.hook;
    if (!IsSettled(hook)) pipeline_depth_ = std::max(pipeline_depth_, found->second.depth);
    const std::vector<std::string_view> names(path.begin(), path.end());
    return args ? hook->Call(names, std::move(*args)) : hook->Get(names);
  }

  StatusOr<HookPtr> Introduce(int64_t id, bool is_promise) override {
    if (const auto found = imports_.find(id); found != imports_.end()) {
      if (is_promise) return InvalidArgument("promise {} was offered before", id);
      if (HookPtr hook = found->second->TryRef()) {
        found->second->AddIntroduction();
        return hook;
      }
    }
    if (imports_.size() >= limits_.imports_max)
      return ResourceExhausted("{} objects of the peer are in use", imports_.size());
    return NewImport(id, is_promise);
  }

  Status Name(const HookPtr& hook, bool is_promise, MessageWriter& out) override {
    EDGE_CHECK(hook);
    if (const ImportHook* import = ImportHook::From(hook);
        import != nullptr && import->core() == this) {
      if (import->target()) return Name(import->target(), is_promise, out);
      WriteNumbered(is_promise || import->is_promise() ? Word::kPipeline : Word::kImport,
                    import->id(), out);
      return OkStatus();
    }
    return Offer(hook, is_promise, is_promise ? Word::kPromise : Word::kExport, out);
  }

  Status Offer(const HookPtr& hook, bool is_promise, Word word, MessageWriter& out) {
    if (exports_.size() >= limits_.exports_max)
      return ResourceExhausted("the peer holds {} objects and results", exports_.size());
    const int64_t id = next_offer_--;
    exports_[id] = {hook, 1, is_promise, false, 0, 0, nullptr};
    offered_.push_back(id);
    WriteNumbered(word, id, out);
    return OkStatus();
  }

  StatusOr<HookPtr> IntroduceWritable(int64_t id) override {
    if (imports_.contains(id)) return InvalidArgument("stream {} was offered before", id);
    EDGE_ASSIGN_OR_RETURN(HookPtr import, Introduce(id, false));
    return MakeHook<StreamSender>(home_, shared_from_this(), std::move(import), id);
  }

  StatusOr<HookPtr> TakeReadable(int64_t id) override {
    const auto found = exports_.find(id);
    if (found == exports_.end() || !found->second.pipe_readable)
      return InvalidArgument("{} is no pipe, or its readable end was taken before", id);
    return std::exchange(found->second.pipe_readable, nullptr);
  }

  StatusOr<HookPtr> Map(int64_t id, const Path& path, MapProgram program) override {
    EDGE_ASSIGN_OR_RETURN(const HookPtr hook, Resolve(id, {}, std::nullopt));
    program.budget = std::make_shared<MapBudget>(
        MapBudget{.steps = limits_.map_steps_max, .bytes = limits_.map_bytes_max});
    const std::vector<std::string_view> names(path.begin(), path.end());
    return hook->Map(names, std::move(program));
  }

  // A pipe to the peer, filled from `stream` as its window has room. Its message leaves before
  // the one that is being written; if that fails, the pipe is broken off.
  Status NameReadable(const HookPtr& stream, MessageWriter& out) override {
    if (ended()) return end_status_;
    if (imports_.size() >= limits_.imports_max)
      return ResourceExhausted("{} objects of the peer are in use", imports_.size());
    const int64_t id = next_call_++;
    HookPtr import = NewImport(id, false);
    const HookPtr sender = MakeHook<StreamSender>(home_, shared_from_this(), std::move(import), id);
    std::string text = TakeBuffer();
    MessageWriter pipe(&text, codec_);
    pipe.BeginArray(1);
    pipe.Put(Word::kPipe);
    pipe.EndArray();
    Send(std::move(text));
    WriteNumbered(Word::kReadable, id, out);
    pumps_.emplace_back(stream, sender);
    return OkStatus();
  }

  // Under a fresh id: a stream of the peer's own goes back to it through us.
  Status NameWritable(const HookPtr& stream, MessageWriter& out) override {
    return Offer(stream, false, Word::kWritable, out);
  }

  // ---- streams to the peer

  Status SendStream(int64_t id, std::string_view method, const Array& args, size_t* bytes,
                    Callback<void(Status)> ack) override {
    if (ended()) return end_status_;
    std::string text = TakeBuffer();
    MessageWriter out(&text, codec_);
    out.BeginArray(2);
    out.Put(Word::kStream);
    out.BeginArray(4);
    out.Put(Word::kPipeline);
    out.Int(id);
    WritePath({&method, 1}, out);
    Status status = WriteArguments(args, limits_, *this, out);
    out.EndArray();
    out.EndArray();
    if (status.ok() && text.size() > limits_.message_bytes_max)
      status = ResourceExhausted("a chunk of {} bytes; {} are allowed", text.size(),
                                 limits_.message_bytes_max);
    if (!status.ok()) {
      TakeBackOffers();
      return status;
    }
    *bytes = text.size();
    stream_bytes_out_ += text.size();
    acks_[next_call_++] = [this, size = text.size(), ack = std::move(ack)](Status answer) mutable {
      stream_bytes_out_ -= size;
      ack(std::move(answer));
    };
    SendWithOffers(std::move(text));
    return OkStatus();
  }

  // A transport that takes its output when it likes sets the pace; one that takes each message
  // at once holds no more than the windows.
  bool MaySend(size_t in_flight) override {
    if (output_bytes_ >= kStreamOutputBytesMax) {
      streams_wait_ = true;
      return false;
    }
    return in_flight == 0 || stream_bytes_out_ < limits_.stream_bytes_max / 4 * 3;
  }
  int64_t now_us() override { return home_ == nullptr ? -1 : home_->clock().monotonic_ns() / 1000; }
  void AddSender(StreamSender* sender) override { senders_.insert(sender); }
  void RemoveSender(StreamSender* sender) override { senders_.erase(sender); }

  void ResumeSenders() {
    const auto keep = shared_from_this();
    std::vector<HookPtr> senders;
    for (StreamSender* sender : senders_)
      if (HookPtr hook = sender->TryRef()) senders.push_back(std::move(hook));
    for (const HookPtr& sender : senders) static_cast<StreamSender*>(sender.get())->Resume();
  }

  static void Pump(HookPtr stream, const HookPtr& sender) {
    auto* const to = static_cast<StreamSender*>(sender.get());
    to->set_on_broken([stream](const Status& why) {
      constexpr std::string_view kCancel = "cancel";
      Array args;
      args.push_back(ErrorFromStatus(why));
      stream->Call({&kCancel, 1}, std::move(args));
    });
    ForEachChunk(
        std::move(stream),
        [sender](Value chunk, Callback<void(Status)> next) {
          Pending room = MakePromise();
          static_cast<StreamSender*>(sender.get())
              ->Write(std::move(chunk), std::move(room.resolver));
          room.promise->Pull([next = std::move(next)](const StatusOr<Value>& written) mutable {
            next(written.status());
          });
        },
        [sender](const Status& end) {
          auto* const done = static_cast<StreamSender*>(sender.get());
          done->set_on_broken(nullptr);
          if (!end.ok()) return done->AbortInOrder(end);
          done->Close(MakePromise().resolver);
        });
  }

  // ---- our messages

  HookPtr PushMap(const ImportHook& on, PathView path, const MapProgram& program) {
    if (ended()) return FailedHook(end_status_);
    std::string text = TakeBuffer();
    MessageWriter out(&text, codec_);
    out.BeginArray(2);
    out.Put(Word::kPush);
    out.BeginArray(5);
    out.Put(Word::kRemap);
    out.Int(on.id());
    WritePath(path, out);
    out.BeginArray(program.captures.size());
    Status status;
    for (const HookPtr& capture : program.captures)
      if (status.ok()) status = NameCapture(capture, out);
    out.EndArray();
    if (status.ok() && !WriteTree(Value(program.instructions), out))
      status = InvalidArgument("a map with instructions that are not plain JSON");
    out.EndArray();
    out.EndArray();
    return Push(std::move(text), std::move(status));
  }

  // A capture is an import or an export: one of a promise's too.
  Status NameCapture(const HookPtr& hook, MessageWriter& out) {
    const ImportHook* import = ImportHook::From(hook);
    if (import == nullptr || import->core() != this) return Name(hook, false, out);
    if (import->target()) return NameCapture(import->target(), out);
    WriteNumbered(Word::kImport, import->id(), out);
    return OkStatus();
  }

  // The promise of a call (args) or of a property (null).
  HookPtr Push(const ImportHook& on, PathView path, const Array* args) {
    if (ended()) return FailedHook(end_status_);
    std::string text = TakeBuffer();
    MessageWriter out(&text, codec_);
    out.BeginArray(2);
    out.Put(Word::kPush);
    out.BeginArray(args != nullptr ? 4 : 3);
    out.Put(Word::kPipeline);
    out.Int(on.id());
    WritePath(path, out);
    Status status;
    if (args != nullptr) status = WriteArguments(*args, limits_, *this, out);
    out.EndArray();
    out.EndArray();
    return Push(std::move(text), std::move(status));
  }

  HookPtr Push(std::string text, Status status) {
    if (status.ok() && imports_.size() >= limits_.imports_max)
      status = ResourceExhausted("{} calls and objects of the peer are in use", imports_.size());
    if (status.ok() && text.size() > limits_.message_bytes_max)
      status = ResourceExhausted("a call of {} bytes; {} are allowed", text.size(),
                                 limits_.message_bytes_max);
    if (!status.ok()) {
      TakeBackOffers();
      return FailedHook(std::move(status));
    }
    HookPtr result = NewImport(next_call_++, true);
    SendWithOffers(std::move(text));
    return result;
  }

  void SendPull(int64_t id) {
    std::string text = TakeBuffer();
    MessageWriter out(&text, codec_);
    WriteNumbered(Word::kPull, id, out);
    Send(std::move(text));
  }

  void SendRelease(int64_t id, uint64_t count) {
    std::string text = TakeBuffer();
    MessageWriter out(&text, codec_);
    out.BeginArray(3);
    out.Put(Word::kRelease);
    out.Int(id);
    out.Int(static_cast<int64_t>(count));
    out.EndArray();
    Send(std::move(text));
  }

  static void WriteNumbered(Word word, int64_t id, MessageWriter& out) {
    out.BeginArray(2);
    out.Put(word);
    out.Int(id);
    out.EndArray();
  }

  void AnswerWhenSettled(int64_t id, const HookPtr& hook) {
    ++unanswered_;
    hook->Pull([weak = weak_from_this(), id](StatusOr<Value> outcome) {
      if (const auto core = weak.lock()) core->Answer(id, std::move(outcome));
    });
  }

  void Answer(int64_t id, StatusOr<Value> outcome) {
    --unanswered_;
    const auto found = exports_.find(id);
    if (!ended() && found != exports_.end()) {
      found->second.depth = 0;
      if (found->second.auto_release) {
        const Export dropped = std::move(found->second);
        exports_.erase(found);
        SendAnswer(id, std::move(outcome));
      } else {
        const size_t bytes = outcome.ok() ? ApproximateBytes(*outcome) : 0;
        pinned_bytes_ -= std::exchange(found->second.bytes, bytes);
        SendAnswer(id, std::move(outcome));
        if (Status status = Pin(bytes); !status.ok()) Abort(std::move(status));
      }
    }
    CheckIdle();
  }

  void SendAnswer(int64_t id, StatusOr<Value> outcome) {
    std::string text = TakeBuffer();
    if (outcome.ok()) {
      MessageWriter out(&text, codec_);
      out.BeginArray(3);
      out.Put(Word::kResolve);
      out.Int(id);
      Status status = WriteExpression(*outcome, limits_, *this, out);
      out.EndArray();
      if (status.ok() && text.size() > limits_.message_bytes_max)
        status = ResourceExhausted("a result of {} bytes; {} are allowed", text.size(),
                                   limits_.message_bytes_max);
      if (status.ok()) return SendWithOffers(std::move(text));
      TakeBackOffers();
      outcome = std::move(status);
      text.clear();
    }
    MessageWriter out(&text, codec_);
    out.BeginArray(3);
    out.Put(Word::kReject);
    out.Int(id);
    WriteError(outcome.status(), out);
    out.EndArray();
    Send(std::move(text));
  }

  void WriteError(const Status& status, MessageWriter& out) {
    References none;
    std::string text;
    MessageWriter writer(&text, codec_);
    const bool is_hidden = !limits_.reveals_internals && IsPrivate(status);
    const Value error =
        ErrorFromStatus(is_hidden ? Status(status.code(), "internal error") : status);
    if (WriteExpression(error, limits_, none, writer).ok()) return out.Raw(text);
    out.BeginArray(3);
    out.Put(Word::kError);
    out.String("Error");
    out.String("an error that could not be sent");
    out.EndArray();
  }

  // Promises that a message offers are answered unasked, after that message.
  void SendWithOffers(std::string text) {
    Send(std::move(text));
    for (const int64_t id : std::exchange(offered_, {})) {
      const auto found = exports_.find(id);
      if (found != exports_.end() && found->second.pulled)
        AnswerWhenSettled(id, HookPtr(found->second.hook));
    }
    for (auto& [stream, sender] : std::exchange(pumps_, {})) Pump(std::move(stream), sender);
  }

  void TakeBackOffers() {
    for (const int64_t id : std::exchange(offered_, {})) exports_.erase(id);
    pumps_.clear();
  }

  void Send(std::string text) {
    if (ended()) return;
    Queue(std::move(text));
    if (output_bytes_ <= limits_.output_bytes_max) return;
    output_.clear();
    output_bytes_ = 0;
    Abort(ResourceExhausted("the peer does not read: more than {} bytes wait for it",
                            limits_.output_bytes_max));
  }

  void Queue(std::string text) {
    if (sink_) {
      sink_(text);
      if (text.capacity() <= kBufferBytesKept) buffer_ = std::move(text);
      return;
    }
    output_bytes_ += text.size();
    output_.push_back(std::move(text));
    if (output_.size() == 1 && on_output_) on_output_();
  }

  // Empty, with the memory of the last message that went to the sink.
  std::string TakeBuffer() {
    std::string buffer = std::move(buffer_);
    buffer.clear();
    return buffer;
  }

  // ---- the end

  void Abort(Status reason) {
    if (ended()) return;
    std::string text;
    MessageWriter out(&text, codec_);
    out.BeginArray(2);
    out.Put(Word::kAbort);
    WriteError(reason, out);
    out.EndArray();
    Queue(std::move(text));  // above all limits
    End(std::move(reason));
  }

  void End(Status reason) {
    if (ended()) return;
    EDGE_CHECK(!reason.ok());
    const auto keep = shared_from_this();
    end_status_ = std::move(reason);
    if (on_ended_) on_ended_();
    const auto exports = std::exchange(exports_, {});
    const auto imports = std::exchange(imports_, {});
    auto acks = std::exchange(acks_, {});
    pumps_.clear();
    pinned_bytes_ = 0;
    const HookPtr main = std::move(main_);
    // Held all together first: what one failure runs may drop the others.
    std::vector<HookPtr> waiting;
    for (const auto& [id, import] : imports)
      if (HookPtr hook = import->TryRef()) waiting.push_back(std::move(hook));
    std::vector<HookPtr> senders;
    for (StreamSender* sender : senders_)
      if (HookPtr hook = sender->TryRef()) senders.push_back(std::move(hook));
    for (const HookPtr& hook : senders) static_cast<StreamSender*>(hook.get())->Fail(end_status_);
    for (auto& [id, ack] : acks) ack(end_status_);
    for (const HookPtr& hook : waiting)
      static_cast<ImportHook*>(hook.get())->Become(FailedHook(end_status_));
  }

  void Drop(const ImportHook& import) {  // its last reference is gone
    if (ended() || import.target()) return;
    const auto found = imports_.find(import.id());
    if (found != imports_.end() && found->second == &import) imports_.erase(found);
    if (import.id() != 0) SendRelease(import.id(), import.introductions());
  }

  void CheckIdle() {
    if (unanswered_ == 0 && on_idle_ && !ended()) on_idle_();
  }

  bool ended() const { return !end_status_.ok(); }

  HookPtr NewImport(int64_t id, bool is_promise) {
    HookPtr hook = MakeHook<ImportHook>(shared_from_this(), home_, id, is_promise);
    imports_[id] = static_cast<ImportHook*>(hook.get());
    return hook;
  }

  struct Export {
    HookPtr hook;
    uint64_t count = 0;
    bool pulled = false;        // an answer was asked for, or is due unasked
    bool auto_release = false;  // gone with its answer: a stream message's
    size_t depth = 0;           // of unsettled calls that it waits for, itself included
    size_t bytes = 0;           // that it keeps alive, about
    HookPtr pipe_readable;      // of a pipe, until it is taken
  };
  // Streams wait behind this much output: what the transport has not taken helps nobody.
  static constexpr size_t kStreamOutputBytesMax = 1 << 20;

  const SessionLimits limits_;
  Loop* const home_;
  Callback<void()> on_output_;
  Callback<void()> on_idle_;
  Status end_status_;
  std::unordered_map<int64_t, Export> exports_;
  std::unordered_map<int64_t, ImportHook*> imports_;  // each removes itself when it dies
  HookPtr main_;
  int64_t next_call_ = 1;                           // our next push
  int64_t next_result_ = 1;                         // the peer's next push
  int64_t next_offer_ = -1;                         // our next stub
  std::vector<int64_t> offered_;                    // by the message that is being written
  std::vector<std::pair<HookPtr, HookPtr>> pumps_;  // by it too: stream and sender
  std::unordered_map<int64_t, Callback<void(Status)>> acks_;  // by id of the stream message
  std::unordered_set<StreamSender*> senders_;                 // each removes itself
  bool streams_wait_ = false;                                 // for the transport to take output
  bool evaluating_ = false;                                   // what becomes the next export
  size_t stream_bytes_ = 0;                                   // of the peer's, not acknowledged
  size_t stream_bytes_out_ = 0;                               // of ours
  size_t pinned_bytes_ = 0;                                   // sum over exports_
  size_t pipeline_depth_ = 0;  // deepest unsettled result that the message refers to
  Codec codec_ = Codec::kJson;
  Callback<void(std::string_view)> sink_;
  Callback<void()> on_ended_;
  std::string buffer_;
  std::deque<std::string> output_;
  size_t output_bytes_ = 0;
  size_t unanswered_ = 0;
};

thread_local Session::Core* Session::Core::current_core = nullptr;

// ---- ImportHook

ImportHook::~ImportHook() {
  core_->Drop(*this);
}

HookPtr ImportHook::DoCall(PathView path, Array args) {
  if (target_) return target_->Call(path, std::move(args));
  return core_->Push(*this, path, &args);
}

HookPtr ImportHook::DoGet(PathView path) {
  if (target_) return target_->Get(path);
  return core_->Push(*this, path, nullptr);
}

void ImportHook::DoPull(Settled done) {
  if (target_) return target_->Pull(std::move(done));
  if (!is_promise_) return done(Value(StubRef{Self()}));
  if (core_->ended()) return done(core_->end_status_);
  waiting_.push_back(std::move(done));
  self_ = Self();
  if (id_ > 0 && !std::exchange(pulled_, true)) core_->SendPull(id_);
}

HookPtr ImportHook::DoMap(PathView path, MapProgram program) {
  if (target_) return target_->Map(path, std::move(program));
  return core_->PushMap(*this, path, program);
}

void ImportHook::DoOnBroken(Callback<void(Status)> broken) {
  if (target_) return target_->OnBroken(std::move(broken));
  if (core_->ended()) return broken(core_->end_status_);
  on_broken_.push_back(std::move(broken));
}

void ImportHook::Become(HookPtr target) {
  const HookPtr self = Self();
  self_ = nullptr;
  target_ = std::move(target);
  for (Settled& done : std::exchange(waiting_, {})) target_->Pull(std::move(done));
  for (auto& broken : std::exchange(on_broken_, {})) target_->OnBroken(std::move(broken));
}

// ---- Session

std::unique_ptr<Session> Session::Create(HookPtr main, const SessionLimits& limits,
                                         Callback<void()> on_output) {
  auto core = std::make_shared<Core>(std::move(main), limits, std::move(on_output));
  core->Start();
  return std::unique_ptr<Session>(new Session(std::move(core)));
}

Session::Session(std::shared_ptr<Core> core) : core_(std::move(core)) {}
Session::~Session() {
  core_->on_output_ = nullptr;
  core_->on_idle_ = nullptr;
  core_->sink_ = nullptr;
  core_->on_ended_ = nullptr;
  core_->End(Unavailable("the session was closed"));
}

AnyStub Session::main() const {
  if (!core_->main_) return AnyStub(FailedHook(core_->end_status_));
  return AnyStub(core_->main_);
}

Status Session::OnMessage(std::string_view text) {
  return core_->OnMessage(text);
}
void Session::OnClosed(Status reason) {
  core_->End(std::move(reason));
}
void Session::Abort(Status reason) {
  core_->Abort(std::move(reason));
}

bool Session::TakeOutput(std::string* message) {
  if (core_->output_.empty()) return false;
  *message = std::move(core_->output_.front());
  core_->output_.pop_front();
  core_->output_bytes_ -= message->size();
  if (core_->streams_wait_ && core_->output_bytes_ < Core::kStreamOutputBytesMax / 2) {
    core_->streams_wait_ = false;
    core_->ResumeSenders();
  }
  return true;
}

void Session::SendTo(Callback<void(std::string_view)> sink, Callback<void()> on_ended) {
  core_->sink_ = std::move(sink);
  core_->on_ended_ = std::move(on_ended);
}
void Session::UseBinary() {
  core_->codec_ = Codec::kBinary;
}

bool Session::has_output() const {
  return !core_->output_.empty();
}
size_t Session::output_bytes() const {
  return core_->output_bytes_;
}
bool Session::ended() const {
  return core_->ended();
}
const Status& Session::end_status() const {
  return core_->end_status_;
}
Session::Counts Session::counts() const {
  return core_->counts();
}
std::optional<Session::Counts> Session::CallerCounts() {
  if (Core::current_core == nullptr) return std::nullopt;
  return Core::current_core->counts();
}
size_t Session::unanswered_pulls() const {
  return core_->unanswered_;
}
void Session::set_on_idle(Callback<void()> on_idle) {
  core_->on_idle_ = std::move(on_idle);
}

}  // namespace edge::rpc
