#include "edge/rpc/map.h"

#include <algorithm>
#include <optional>

#include "edge/base/check.h"
#include "edge/base/errors.h"
#include "src/rpc/expression.h"
#include "src/rpc/hooks.h"
#include "src/rpc/json.h"
#include "src/rpc/message.h"

namespace edge::rpc {

// ---- running a program

namespace {

const SessionLimits kMapLimits;

// Ids as one run over one element sees them.
class MapFrame : public References {
 public:
  MapFrame(const MapProgram& program, Value element) : program_(program) {
    variables_.push_back(ValueHook(std::move(element)));
  }

  StatusOr<Value> Run() {
    const size_t count = program_.instructions.size();
    for (size_t i = 0; i < count; ++i) {
      EDGE_ASSIGN_OR_RETURN(Value result, Evaluate(program_.instructions[i], kMapLimits, *this));
      if (i + 1 == count) return result;
      variables_.push_back(ValueHook(std::move(result)));
    }
    return InvalidArgument("a map without instructions");
  }

  StatusOr<HookPtr> Resolve(int64_t id, const Path& path, std::optional<Array> args) override {
    EDGE_ASSIGN_OR_RETURN(const HookPtr hook, Find(id));
    const std::vector<std::string_view> names(path.begin(), path.end());
    return args ? hook->Call(names, std::move(*args)) : hook->Get(names);
  }
  StatusOr<HookPtr> Introduce(int64_t, bool) override {
    return InvalidArgument("an export inside of a map");
  }
  StatusOr<HookPtr> Map(int64_t id, const Path& path, MapProgram program) override {
    EDGE_ASSIGN_OR_RETURN(const HookPtr hook, Find(id));
    program.budget = program_.budget;
    const std::vector<std::string_view> names(path.begin(), path.end());
    return hook->Map(names, std::move(program));
  }

 private:
  StatusOr<HookPtr> Find(int64_t id) const {
    const auto& from = id < 0 ? program_.captures : variables_;
    const auto index = static_cast<uint64_t>(id < 0 ? -(id + 1) : id);
    if (index >= from.size()) return InvalidArgument("no variable {} in this map", id);
    return from[index];
  }

  const MapProgram& program_;
  std::vector<HookPtr> variables_;
};

StatusOr<Value> Apply(const MapProgram& program, size_t program_bytes, Value element) {
  MapBudget& budget = *program.budget;
  if (budget.steps < program.instructions.size())
    return ResourceExhausted("the map takes too many steps");
  if (budget.bytes < program_bytes) return ResourceExhausted("the map takes too much memory");
  budget.steps -= program.instructions.size();
  budget.bytes -= program_bytes;
  return MapFrame(program, std::move(element)).Run();
}

StatusOr<Value> ApplyToAll(const MapProgram& program, Value subject) {
  if (subject.is_nullish()) return subject;
  size_t bytes = 0;
  for (const Value& instruction : program.instructions) bytes += ApproximateBytes(instruction);
  Array* elements = subject.As<Array>();
  if (elements == nullptr) return Apply(program, bytes, std::move(subject));
  Array results;
  results.reserve(elements->size());
  for (Value& element : *elements) {
    EDGE_ASSIGN_OR_RETURN(Value result, Apply(program, bytes, std::move(element)));
    results.push_back(std::move(result));
  }
  return Value(std::move(results));
}

}  // namespace

HookPtr RunMap(HookPtr subject, MapProgram program) {
  if (program.budget == nullptr) program.budget = std::make_shared<MapBudget>();
  Pending pending = MakePromise();
  PullResolved(subject, [program = std::move(program),
                         resolver = std::move(pending.resolver)](StatusOr<Value> value) mutable {
    if (!value.ok()) return resolver.Settle(value.status());
    resolver.Settle(ApplyToAll(program, std::move(*value)));
  });
  return std::move(pending.promise);
}

// ---- recording one

namespace internal {

constexpr char kRecordedTag = 0;
thread_local MapRecording::Recorder* current_recorder = nullptr;

// A value that will exist where the program runs.
class RecordedHook : public Hook {
 public:
  RecordedHook(const void* recorder, int64_t index)
      : Hook(Loop::Current()), recorder_(recorder), index_(index) {}
  const void* kind_tag() const override { return &kRecordedTag; }
  static const RecordedHook* From(const HookPtr& hook) {
    return hook->kind_tag() == &kRecordedTag ? static_cast<RecordedHook*>(hook.get()) : nullptr;
  }
  const void* recorder() const { return recorder_; }
  int64_t index() const { return index_; }

 protected:
  HookPtr DoCall(PathView, Array) override { return FailedHook(Misused()); }
  HookPtr DoGet(PathView) override { return FailedHook(Misused()); }
  void DoPull(Settled done) override { done(Misused()); }

 private:
  static Status Misused() {
    return FailedPrecondition("a placeholder of map() has no value here: it cannot be awaited");
  }
  const void* const recorder_;
  const int64_t index_;
};

// Calls made inside find a context, and that leads them to RecordCall.
class RecordingContext : public CallContext {
  void BeforeSend(Callback<void(Status)> send) override { send(OkStatus()); }
  void Resume(Callback<void()> resume) override { resume(); }
};

class MapRecording::Recorder : public References {
 public:
  explicit Recorder(HookPtr over)
      : parent(current_recorder),
        subject_index(parent == nullptr ? 0 : parent->Capture(over)),
        subject(std::move(over)),
        scope(std::make_shared<RecordingContext>()) {
    current_recorder = this;
  }
  ~Recorder() override { current_recorder = parent; }

  Status Name(const HookPtr& hook, bool is_promise, MessageWriter& out) override {
    out.BeginArray(2);
    out.Put(is_promise ? Word::kPipeline : Word::kImport);
    out.Int(Capture(hook));
    out.EndArray();
    return OkStatus();
  }
  Status NameReadable(const HookPtr&, MessageWriter&) override {
    return InvalidArgument("a stream inside of map()");
  }
  Status NameWritable(const HookPtr&, MessageWriter&) override {
    return InvalidArgument("a stream inside of map()");
  }

  int64_t Capture(const HookPtr& hook) {
    const RecordedHook* own = RecordedHook::From(hook);
    if (own != nullptr && own->recorder() == this) return own->index();
    auto found = std::ranges::find(captures, hook);
    if (found == captures.end()) {
      if (parent != nullptr) parent_indices.push_back(parent->Capture(hook));
      captures.push_back(hook);
      found = captures.end() - 1;
    }
    return -(found - captures.begin()) - 1;
  }

  HookPtr Push(Value instruction) {
    instructions.push_back(std::move(instruction));
    return MakeHook<RecordedHook>(this, static_cast<int64_t>(instructions.size()));
  }

  HookPtr Call(const HookPtr& on, PathView path, const Array& args, bool is_get) {
    std::string text;
    MessageWriter out(&text);
    out.BeginArray(is_get ? 3 : 4);
    out.Put(Word::kPipeline);
    out.Int(Capture(on));
    WritePath(path, out);
    if (!is_get) {
      if (Status status = WriteArguments(args, kMapLimits, *this, out); !status.ok())
        return FailedHook(std::move(status));
    }
    out.EndArray();
    return Push(ParseJson(text, 2 * kMapLimits.depth_max + 16).value());
  }

  Recorder* const parent;
  const int64_t subject_index;
  const HookPtr subject;
  std::vector<HookPtr> captures;
  std::vector<int64_t> parent_indices;  // of the captures, in the parent
  Array instructions;
  CallContext::Scope scope;
};

MapRecording::MapRecording(HookPtr subject)
    : recorder_(std::make_shared<Recorder>(std::move(subject))) {}
MapRecording::~MapRecording() = default;

HookPtr MapRecording::element() const {
  return MakeHook<RecordedHook>(recorder_.get(), 0);
}

HookPtr MapRecording::Finish(const Value& result) {
  auto recorder = std::move(recorder_);
  std::string text;
  MessageWriter out(&text);
  if (Status status = WriteExpression(result, kMapLimits, *recorder, out); !status.ok())
    return FailedHook(std::move(status));
  recorder->instructions.push_back(ParseJson(text, 2 * kMapLimits.depth_max + 16).value());
  if (recorder->parent == nullptr) {
    MapProgram program{std::move(recorder->captures), std::move(recorder->instructions), nullptr};
    const HookPtr subject = recorder->subject;
    recorder.reset();  // with it the caller's own context is back, and its gate
    return subject->Map({}, std::move(program));
  }
  Array captures;
  for (const int64_t index : recorder->parent_indices) {
    Array capture;
    capture.emplace_back("import");
    capture.emplace_back(index);
    captures.emplace_back(std::move(capture));
  }
  Array form;
  form.emplace_back("remap");
  form.emplace_back(recorder->subject_index);
  form.emplace_back(Array());
  form.emplace_back(std::move(captures));
  form.emplace_back(std::move(recorder->instructions));
  return recorder->parent->Push(Value(std::move(form)));
}

HookPtr RecordCall(const HookPtr& on, PathView path, const Array& args, bool is_get) {
  return current_recorder == nullptr ? nullptr : current_recorder->Call(on, path, args, is_get);
}

}  // namespace internal
}  // namespace edge::rpc
