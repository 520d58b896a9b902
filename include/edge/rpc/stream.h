// edge/rpc/stream.h - streams of bytes or values, in either direction of a call.
//
//   Task<int> Sum(ReadableStream<int> in) {                  // an argument
//     int sum = 0;
//     while (auto chunk = co_await in.Read()) sum += *chunk;
//     co_return sum;
//   }
//   ReadableStream<Bytes> Download() {                       // a result, made on demand
//     return Generate<Bytes>([file = Open()]() mutable { return file.NextBlock(); });
//   }
//   auto [readable, writable] = MakePipe<Bytes>();           // both ends in one's own hands
//
// Whoever reads slowly stops whoever writes: Read() is answered when there is a chunk, Write()
// when there is room. Between processes the room is a window that follows bandwidth x delay
// (src/rpc/flow_window.h). Dropping the last reference to a readable end cancels the stream;
// dropping that of a writable end without Close() breaks it off.
#pragma once
#include <concepts>
#include <cstddef>
#include <optional>
#include <string_view>
#include <type_traits>
#include <utility>

#include "edge/base/callback.h"
#include "edge/base/status.h"
#include "edge/base/task.h"
#include "edge/rpc/convert.h"
#include "edge/rpc/hook.h"
#include "edge/rpc/promise.h"
#include "edge/rpc/stub.h"
#include "edge/rpc/target.h"
#include "edge/rpc/value.h"

namespace edge::rpc {

// The next chunk, or nothing at the end.
template <typename T>
struct Chunk : std::optional<T> {
  Chunk() = default;
  Chunk(std::optional<T> chunk)  // NOLINT(google-explicit-constructor)
      : std::optional<T>(std::move(chunk)) {}
};
// A Readable hook answers read() with an array of one chunk, or with an empty one at the end.
template <typename T>
struct Convert<Chunk<T>> {
  static Value Write(Chunk<T> chunk) {
    Array array;
    if (chunk) array.push_back(Convert<T>::Write(std::move(*chunk)));
    return Value(std::move(array));
  }
  static Status Read(Value& from, Chunk<T>& to) {
    Array* array = from.As<Array>();
    if (array == nullptr || array->size() > 1) return internal::Mismatch("a chunk", from);
    to.reset();
    if (array->empty()) return OkStatus();
    T item{};
    EDGE_RETURN_IF_ERROR(Convert<T>::Read((*array)[0], item));
    to.emplace(std::move(item));
    return OkStatus();
  }
};

// The end that gives chunks. T is Bytes or anything that crosses; Value takes them all.
// Copies share the stream: a chunk goes to one reader. Thread-safe.
template <typename T = Value>
class ReadableStream {
 public:
  ReadableStream() = default;  // empty: Read fails with FailedPrecondition
  explicit ReadableStream(HookPtr hook) : hook_(std::move(hook)) {}

  // The next chunk, or nothing at the end; fails with what broke the stream. A chunk of
  // another type is InvalidArgument.
  Promise<Chunk<T>> Read() const {
    constexpr std::string_view kRead = "read";
    return Promise<Chunk<T>>(hook()->Call({&kRead, 1}, {}));
  }
  // No more of it: the writer is told why.
  void Cancel(const Status& reason) const {
    constexpr std::string_view kCancel = "cancel";
    Array args;
    args.push_back(ErrorFromStatus(reason));
    hook()->Call({&kCancel, 1}, std::move(args));
  }
  const HookPtr& hook() const { return hook_ ? hook_ : internal::EmptyStubHook(); }
  explicit operator bool() const { return static_cast<bool>(hook_); }

 private:
  HookPtr hook_;
};

// The end that takes chunks. Copies share the stream. Thread-safe.
template <typename T = Value>
class WritableStream {
 public:
  WritableStream() = default;
  explicit WritableStream(HookPtr hook) : hook_(std::move(hook)) {}

  // Settles when there is room for another chunk; a writer that does not wait for that fills
  // memory of its own. Fails once the stream is broken: the reader cancelled, or the
  // connection was lost. What an OK write sent may still be lost: only Close() tells.
  Promise<void> Write(T chunk) const {
    constexpr std::string_view kWrite = "write";
    Array args;
    args.push_back(Convert<T>::Write(std::move(chunk)));
    return Promise<void>(hook()->Call({&kWrite, 1}, std::move(args)));
  }
  // The end, after all chunks. OK: everything has arrived.
  Promise<void> Close() const {
    constexpr std::string_view kClose = "close";
    return Promise<void>(hook()->Call({&kClose, 1}, {}));
  }
  // Breaks the stream off: its reader fails with `reason`, and what waits is dropped.
  void Abort(const Status& reason) const {
    constexpr std::string_view kAbort = "abort";
    Array args;
    args.push_back(ErrorFromStatus(reason));
    hook()->Call({&kAbort, 1}, std::move(args));
  }
  const HookPtr& hook() const { return hook_ ? hook_ : internal::EmptyStubHook(); }
  explicit operator bool() const { return static_cast<bool>(hook_); }

 private:
  HookPtr hook_;
};

template <typename T>
struct Convert<ReadableStream<T>> {
  static Value Write(const ReadableStream<T>& stream) {
    return stream ? Value(ReadableRef{stream.hook()}) : Value(nullptr);
  }
  static Status Read(Value& from, ReadableStream<T>& to) {
    ReadableRef* found = from.As<ReadableRef>();
    if (found == nullptr) return internal::Mismatch("a readable stream", from);
    to = ReadableStream<T>(std::move(found->hook));
    return OkStatus();
  }
};
template <typename T>
struct Convert<WritableStream<T>> {
  static Value Write(const WritableStream<T>& stream) {
    return stream ? Value(WritableRef{stream.hook()}) : Value(nullptr);
  }
  static Status Read(Value& from, WritableStream<T>& to) {
    WritableRef* found = from.As<WritableRef>();
    if (found == nullptr) return internal::Mismatch("a writable stream", from);
    to = WritableStream<T>(std::move(found->hook));
    return OkStatus();
  }
};

struct PipeOptions {
  size_t bytes_max = 256 << 10;  // chunks that wait to be read before Write() has to; 0: none
};
struct PipeEnds {
  HookPtr readable;
  HookPtr writable;
};
// The ends live on the caller's loop.
PipeEnds MakePipeHooks(const PipeOptions& options = {});

template <typename T>
struct Pipe {
  ReadableStream<T> readable;
  WritableStream<T> writable;
};
template <typename T = Value>
Pipe<T> MakePipe(const PipeOptions& options = {}) {
  PipeEnds ends = MakePipeHooks(options);
  return {ReadableStream<T>(std::move(ends.readable)), WritableStream<T>(std::move(ends.writable))};
}

namespace internal {

// Runs `next` for each read, one at a time; its answers are Convert<Chunk>'s form.
HookPtr MakeGenerator(Callback<Answer()> next);
// Runs `write` for each chunk, one at a time, and `end` once: OK for close, else why not.
HookPtr MakeSink(Callback<Answer(Value)> write, Callback<Answer(Status)> end);

template <typename T>
Task<StatusOr<Value>> ChunkOf(Task<T> task) {
  auto chunk = co_await task;
  if constexpr (kIsStatusOr<T>) {
    if (!chunk.ok()) co_return chunk.status();
    using Inner = std::remove_cvref_t<decltype(**chunk)>;
    Chunk<Inner> converted(std::move(*chunk));
    co_return ToValue(std::move(converted));
  } else {
    Chunk<std::remove_cvref_t<decltype(*chunk)>> converted(std::move(chunk));
    co_return ToValue(std::move(converted));
  }
}

template <typename F, typename... A>
Answer AnswerOf(F& function, A&&... args) {
  using R = std::invoke_result_t<F&, A...>;
  if constexpr (std::is_void_v<R>) {
    function(std::forward<A>(args)...);
    return StatusOr<Value>(Value());
  } else if constexpr (kIsTask<R>) {
    // Keeps the arguments: tasks start late.
    return [](F& call, std::decay_t<A>... stored) -> Task<StatusOr<Value>> {
      if constexpr (std::is_void_v<typename R::value_type>) {
        co_await call(std::move(stored)...);
        co_return Value();
      } else {
        co_return OutcomeOf(co_await call(std::move(stored)...));
      }
    }(function, std::forward<A>(args)...);
  } else {
    return OutcomeOf(function(std::forward<A>(args)...));
  }
}

}  // namespace internal

// A stream made on demand: `next` gives std::optional<T>, a StatusOr of that, or a Task of
// either; nothing ends the stream. It runs once per read that a reader (or, far away, the
// window) asks for, and is dropped when the stream has ended or is cancelled. An exception or
// a failure breaks the stream. Home: the caller's loop.
template <typename T, typename F>
ReadableStream<T> Generate(F next) {
  return ReadableStream<T>(internal::MakeGenerator([next = std::move(next)]() mutable -> Answer {
    using R = std::invoke_result_t<F&>;
    if constexpr (internal::kIsTask<R>) {
      return internal::ChunkOf(next());
    } else if constexpr (internal::kIsStatusOr<R>) {
      R chunk = next();
      if (!chunk.ok()) return StatusOr<Value>(chunk.status());
      return StatusOr<Value>(ToValue(Chunk<T>(std::move(*chunk))));
    } else {
      return StatusOr<Value>(ToValue(Chunk<T>(next())));
    }
  }));
}

// A stream into functions: `on_chunk(T)` and `on_end(Status)`, OK when it was closed. Each may
// return void, Status or a Task of these; a chunk is acknowledged when on_chunk is done, and a
// failure breaks the stream. Home: the caller's loop.
template <typename T, typename OnChunk, typename OnEnd>
WritableStream<T> MakeSink(OnChunk on_chunk, OnEnd on_end) {
  return WritableStream<T>(internal::MakeSink(
      [on_chunk = std::move(on_chunk)](Value value) mutable -> Answer {
        T chunk{};
        if (Status status = Convert<T>::Read(value, chunk); !status.ok())
          return StatusOr<Value>(status);
        return internal::AnswerOf(on_chunk, std::move(chunk));
      },
      [on_end = std::move(on_end)](Status status) mutable -> Answer {
        return internal::AnswerOf(on_end, std::move(status));
      }));
}

// Reads `readable` to its end: `on_chunk` for each chunk, the next one only when its `next` was
// run with OK; a failure there cancels the stream and is the outcome. Flat, however many
// chunks are there already. Home loop of the caller.
void ForEachChunk(HookPtr readable, Callback<void(Value, Callback<void(Status)> next)> on_chunk,
                  Callback<void(Status)> done);

}  // namespace edge::rpc
