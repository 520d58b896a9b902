#include "edge/rpc/session.h"

#include <array>
#include <deque>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "edge/base/check.h"
#include "edge/base/errors.h"
#include "src/rpc/expression.h"
#include "src/rpc/hooks.h"
#include "src/rpc/json.h"

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

 private:
  const std::shared_ptr<Session::Core> core_;
  const int64_t id_;
  const bool is_promise_;
  bool pulled_ = false;
  uint64_t introductions_ = 1;
  HookPtr target_;
  std::vector<Settled> waiting_;
  HookPtr self_;  // set while something waits: an asked answer is always awaited
};

class Session::Core : public std::enable_shared_from_this<Core>, public References {
 public:
  Core(HookPtr main, const SessionLimits& limits, Callback<void()> on_output)
      : limits_(limits), home_(Loop::Current()), on_output_(std::move(on_output)) {
    exports_[0] = {main ? std::move(main) : EmptyMain(), 1, false};
  }

  void Start() { main_ = NewImport(0, false); }

  // ---- messages of the peer

  Status OnMessage(std::string_view text) {
    const auto keep = shared_from_this();  // a method that is called may end the session
    if (ended()) return end_status_;
    const CallContext::Scope outside(nullptr);
    Status status = Dispatch(text);
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
    if (type == "push" && size == 2) return OnPush(std::move((*message)[1]));
    if (type == "pull" && size == 2 && id != nullptr) return OnPull(*id);
    if ((type == "resolve" || type == "reject") && size == 3 && id != nullptr)
      return OnAnswer(*id, type == "reject", std::move((*message)[2]));
    if (type == "release" && size == 3 && id != nullptr && (*message)[2].As<int64_t>() != nullptr)
      return OnRelease(*id, *(*message)[2].As<int64_t>());
    if (type == "abort" && size == 2) return OnAbort(std::move((*message)[1]));
    if (type == "stream" || type == "pipe")
      return Unimplemented("\"{}\" messages are not supported", type);
    return InvalidArgument("bad message of type \"{}\"", std::string_view(type).substr(0, 40));
  }

  // The messages that nearly all are, read without a tree of the whole; nothing if this is
  // another, or looks wrong: then nothing has happened yet.
  std::optional<Status> DispatchUsual(std::string_view text) {
    MessageReader in(text, codec_, 2 * limits_.depth_max + 16);
    int64_t id = 0;
    int64_t count = 0;
    if (!in.Open()) return std::nullopt;
    if (in.Is(Word::kPush)) return DispatchCall(in);
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

  std::optional<Status> DispatchCall(MessageReader& in) {
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
    EDGE_ASSIGN_OR_RETURN(Array values,
                          EvaluateArguments(std::move(*args.As<Array>()), limits_, *this));
    HookPtr result = hook->Call(PathView(names.data(), name_count), std::move(values));
    if (ended()) return end_status_;
    exports_[next_result_++] = {std::move(result), 1, false};
    return OkStatus();
  }

  Status OnPush(Value expression) {
    if (exports_.size() >= limits_.exports_max)
      return ResourceExhausted("{} objects and results are held; release some", exports_.size());
    EDGE_ASSIGN_OR_RETURN(Value value, Evaluate(std::move(expression), limits_, *this));
    if (ended()) return end_status_;
    exports_[next_result_++] = {ValueHook(std::move(value)), 1, false};
    return OkStatus();
  }

  Status OnPull(int64_t id) {
    const auto found = exports_.find(id);
    if (found == exports_.end()) return InvalidArgument("pull of {}, which is not exported", id);
    if (!std::exchange(found->second.pulled, true)) AnswerWhenSettled(id, found->second.hook);
    return OkStatus();
  }

  Status OnAnswer(int64_t id, bool is_rejection, Value expression) {
    EDGE_ASSIGN_OR_RETURN(Value value, Evaluate(std::move(expression), limits_, *this));
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
    const HookPtr hook = std::move(entry.hook);  // dropped after the table is in order
    exports_.erase(found);
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
    if (exports_.size() >= limits_.exports_max)
      return ResourceExhausted("the peer holds {} objects and results", exports_.size());
    const int64_t id = next_offer_--;
    exports_[id] = {hook, 1, is_promise};
    offered_.push_back(id);
    WriteNumbered(is_promise ? Word::kPromise : Word::kExport, id, out);
    return OkStatus();
  }

  // ---- our messages

  // The promise of a call (args) or of a property (null).
  HookPtr Push(const ImportHook& on, PathView path, const Array* args) {
    if (ended()) return FailedHook(end_status_);
    if (imports_.size() >= limits_.imports_max)
      return FailedHook(
          ResourceExhausted("{} calls and objects of the peer are in use", imports_.size()));
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
    if (!ended() && exports_.contains(id)) SendAnswer(id, std::move(outcome));
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
    MessageWriter error(&text, codec_);
    if (WriteExpression(ErrorFromStatus(status), limits_, none, error).ok()) return out.Raw(text);
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
  }

  void TakeBackOffers() {
    for (const int64_t id : std::exchange(offered_, {})) exports_.erase(id);
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
    const HookPtr main = std::move(main_);
    // Held all together first: what one failure runs may drop the others.
    std::vector<HookPtr> waiting;
    for (const auto& [id, import] : imports)
      if (HookPtr hook = import->TryRef()) waiting.push_back(std::move(hook));
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
    bool pulled = false;  // an answer was asked for, or is due unasked
  };

  const SessionLimits limits_;
  Loop* const home_;
  Callback<void()> on_output_;
  Callback<void()> on_idle_;
  Status end_status_;
  std::unordered_map<int64_t, Export> exports_;
  std::unordered_map<int64_t, ImportHook*> imports_;  // each removes itself when it dies
  HookPtr main_;
  int64_t next_call_ = 1;         // our next push
  int64_t next_result_ = 1;       // the peer's next push
  int64_t next_offer_ = -1;       // our next stub
  std::vector<int64_t> offered_;  // by the message that is being written
  Codec codec_ = Codec::kJson;
  Callback<void(std::string_view)> sink_;
  Callback<void()> on_ended_;
  std::string buffer_;
  std::deque<std::string> output_;
  size_t output_bytes_ = 0;
  size_t unanswered_ = 0;
};

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

void ImportHook::Become(HookPtr target) {
  const HookPtr self = Self();
  self_ = nullptr;
  target_ = std::move(target);
  for (Settled& done : std::exchange(waiting_, {})) target_->Pull(std::move(done));
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
  return {core_->imports_.size(), core_->exports_.size()};
}
size_t Session::unanswered_pulls() const {
  return core_->unanswered_;
}
void Session::set_on_idle(Callback<void()> on_idle) {
  core_->on_idle_ = std::move(on_idle);
}

}  // namespace edge::rpc
