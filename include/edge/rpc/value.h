// edge/rpc/value.h - what can be said in a call: data by value, stubs by reference.
//
// A Value is one of the structured-clone types that Cap'n Web can carry, plus stubs and
// promises. Integers of C++ stay exact: one beyond 2^53 goes out as a bigint. Strings are
// UTF-8; a lone surrogate from JavaScript is kept as its three-byte WTF-8 form. Copying
// copies the whole tree, and a stub in it becomes one more reference to the same object.
#pragma once
#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "edge/base/bytes.h"
#include "edge/base/status.h"

namespace edge::rpc {

class Hook;
class Value;

namespace internal {
void AddRef(const Hook* hook);
void Release(const Hook* hook);  // the last one destroys it on the hook's own loop
}  // namespace internal

// Shared ownership of a Hook (edge/rpc/hook.h); owners are stubs, promises, Values and
// session tables. A copy is what others call dup, the destructor what they call dispose.
// Thread-compatible; copies may live on different threads.
class HookPtr {
 public:
  HookPtr() = default;
  HookPtr(std::nullptr_t) {}  // NOLINT(google-explicit-constructor)
  explicit HookPtr(Hook* hook) : hook_(hook) {
    if (hook_ != nullptr) internal::AddRef(hook_);
  }
  HookPtr(const HookPtr& other) : HookPtr(other.hook_) {}
  HookPtr(HookPtr&& other) noexcept : hook_(std::exchange(other.hook_, nullptr)) {}
  HookPtr& operator=(HookPtr other) noexcept {
    std::swap(hook_, other.hook_);
    return *this;
  }
  ~HookPtr() {
    if (hook_ != nullptr) internal::Release(hook_);
  }
  Hook* get() const { return hook_; }
  Hook* operator->() const { return hook_; }
  Hook& operator*() const { return *hook_; }
  explicit operator bool() const { return hook_ != nullptr; }
  bool operator==(const HookPtr& other) const = default;

 private:
  friend class Hook;
  Hook* hook_ = nullptr;
};

using Array = std::vector<Value>;

// A plain object: members in the order they were set, each key once.
struct Member;
class Object {
 public:
  Object();
  Object(std::initializer_list<Member> members);  // a key given twice: the last one counts
  Object(const Object&);
  Object(Object&&) noexcept;
  Object& operator=(const Object&);
  Object& operator=(Object&&) noexcept;
  ~Object();

  const Value* Find(std::string_view key) const;  // O(size); null if absent
  Value* Find(std::string_view key);
  void Set(std::string key, Value value);
  const std::vector<Member>& members() const { return members_; }
  std::vector<Member>& members() { return members_; }
  size_t size() const;
  bool operator==(const Object& other) const;

 private:
  std::vector<Member> members_;
};

struct Undefined {
  bool operator==(const Undefined&) const = default;
};
struct Null {
  bool operator==(const Null&) const = default;
};
// Any number of digits, with '-' for negative ones; "0" is zero.
struct BigInt {
  std::string decimal;
  bool operator==(const BigInt&) const = default;
};
// Milliseconds since 1970-01-01 UTC, may be fractional; NaN is JavaScript's invalid date.
struct Date {
  double ms = 0;
  bool operator==(const Date& other) const {
    return ms == other.ms || (ms != ms && other.ms != other.ms);
  }
};
struct Url {
  std::string href;
  bool operator==(const Url&) const = default;
};
// HTTP headers of the fetch API, names in lower case, in order.
struct Headers {
  std::vector<std::pair<std::string, std::string>> entries;
  bool operator==(const Headers&) const = default;
};
// Which JavaScript view the bytes had; the numbers inside are little-endian.
enum class BytesKind : uint8_t {
  kUint8Array,
  kArrayBuffer,
  kDataView,
  kInt8Array,
  kUint8ClampedArray,
  kInt16Array,
  kUint16Array,
  kInt32Array,
  kUint32Array,
  kBigInt64Array,
  kBigUint64Array,
  kFloat32Array,
  kFloat64Array,
};
std::string_view BytesKindName(BytesKind kind);  // "Uint8Array" ...
struct BytesValue {
  Bytes bytes;
  BytesKind kind = BytesKind::kUint8Array;
  bool operator==(const BytesValue&) const = default;
};
// A JavaScript error as data. `name` is its class: "Error", "TypeError" ...
struct ErrorValue {
  std::string name = "Error";
  std::string message;
  std::optional<std::string> stack;
  Object properties;
  bool operator==(const ErrorValue&) const = default;
};
// Bytes with a media type, whole: a peer's Blob is collected before a method sees it.
struct Blob {
  std::string type;
  Bytes bytes;
  bool operator==(const Blob&) const = default;
};
struct Request;  // of the fetch API, below
struct Response;
struct StubRef {
  HookPtr hook;
  bool operator==(const StubRef&) const = default;
};
// The ends of streams (edge/rpc/stream.h), as references.
struct ReadableRef {
  HookPtr hook;
  bool operator==(const ReadableRef&) const = default;
};
struct WritableRef {
  HookPtr hook;
  bool operator==(const WritableRef&) const = default;
};
// Stands for a value that is still to come; replaced by it before a method sees it.
struct PromiseRef {
  HookPtr hook;
  bool operator==(const PromiseRef&) const = default;
};

namespace internal {

// A large or still incomplete type inside a Value: held by pointer, copied deep.
template <typename T>
class Box {
 public:
  explicit Box(T value);
  Box(const Box& other);
  Box(Box&& other) noexcept : value_(std::exchange(other.value_, nullptr)) {}
  Box& operator=(Box other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  ~Box();
  T* get() { return value_; }
  bool operator==(const Box& other) const;

 private:
  T* value_;  // null when moved from
};

template <typename T>
inline constexpr bool kIsBoxed = std::is_same_v<T, ErrorValue> || std::is_same_v<T, Blob> ||
                                 std::is_same_v<T, Request> || std::is_same_v<T, Response>;

}  // namespace internal

// Thread-compatible.
class Value {
 public:
  enum class Kind : uint8_t {
    kUndefined,
    kNull,
    kBool,
    kInt,
    kDouble,
    kBigInt,
    kString,
    kBytes,
    kDate,
    kUrl,
    kHeaders,
    kError,
    kArray,
    kObject,
    kStub,
    kPromise,
    kReadable,
    kWritable,
    kBlob,
    kRequest,
    kResponse,
  };

  Value() = default;                       // undefined
  Value(std::nullptr_t) : rep_(Null{}) {}  // NOLINT(google-explicit-constructor)
  template <std::same_as<bool> B>
  Value(B value) : rep_(value) {}  // NOLINT(google-explicit-constructor)
  template <std::integral I>
    requires(!std::same_as<I, bool>)
  Value(I value) {  // NOLINT(google-explicit-constructor)
    if constexpr (std::is_unsigned_v<I> && sizeof(I) == 8) {
      SetUnsigned(value);
    } else {
      rep_ = static_cast<int64_t>(value);
    }
  }
  Value(double value) : rep_(value) {}                       // NOLINT(google-explicit-constructor)
  Value(const char* text) : rep_(std::string(text)) {}       // NOLINT(google-explicit-constructor)
  Value(std::string_view text) : rep_(std::string(text)) {}  // NOLINT(google-explicit-constructor)
  Value(std::string text) : rep_(std::move(text)) {}         // NOLINT(google-explicit-constructor)
  Value(Bytes bytes);                                        // NOLINT(google-explicit-constructor)
  Value(Array items);                                        // NOLINT(google-explicit-constructor)
  Value(Object object) : rep_(std::move(object)) {}          // NOLINT(google-explicit-constructor)
  Value(BigInt value) : rep_(std::move(value)) {}            // NOLINT(google-explicit-constructor)
  Value(BytesValue value) : rep_(std::move(value)) {}        // NOLINT(google-explicit-constructor)
  Value(Date value) : rep_(value) {}                         // NOLINT(google-explicit-constructor)
  Value(Url value) : rep_(std::move(value)) {}               // NOLINT(google-explicit-constructor)
  Value(Headers value) : rep_(std::move(value)) {}           // NOLINT(google-explicit-constructor)
  Value(ErrorValue value);                                   // NOLINT(google-explicit-constructor)
  Value(Null value) : rep_(value) {}                         // NOLINT(google-explicit-constructor)
  Value(Undefined) {}                                        // NOLINT(google-explicit-constructor)
  Value(StubRef stub) : rep_(std::move(stub)) {}             // NOLINT(google-explicit-constructor)
  Value(PromiseRef promise) : rep_(std::move(promise)) {}    // NOLINT(google-explicit-constructor)
  Value(ReadableRef stream) : rep_(std::move(stream)) {}     // NOLINT(google-explicit-constructor)
  Value(WritableRef stream) : rep_(std::move(stream)) {}     // NOLINT(google-explicit-constructor)
  Value(Blob value);                                         // NOLINT(google-explicit-constructor)
  Value(Request value);                                      // NOLINT(google-explicit-constructor)
  Value(Response value);                                     // NOLINT(google-explicit-constructor)

  Value(const Value& other);
  Value(Value&& other) noexcept = default;
  Value& operator=(const Value& other);
  Value& operator=(Value&& other) noexcept = default;
  ~Value() = default;

  Kind kind() const { return static_cast<Kind>(rep_.index()); }
  bool is_nullish() const { return rep_.index() <= 1; }
  bool is_number() const { return kind() == Kind::kInt || kind() == Kind::kDouble; }

  // Null unless the Value is of that kind.
  template <typename T>
  const T* As() const {
    return const_cast<Value*>(this)->As<T>();
  }
  template <typename T>
  T* As() {
    if constexpr (internal::kIsBoxed<T>) {
      auto* box = std::get_if<internal::Box<T>>(&rep_);
      return box == nullptr ? nullptr : box->get();
    } else {
      return std::get_if<T>(&rep_);
    }
  }
  const std::string* string() const { return As<std::string>(); }
  const Array* array() const { return As<Array>(); }
  const Object* object() const { return As<Object>(); }
  double number() const;  // of kInt and kDouble, else NaN

  // The member of an object or, by a decimal index, the element of an array; undefined when
  // there is none, as in JavaScript.
  const Value& operator[](std::string_view key) const;

  // Deep; 3 equals 3.0, NaN equals NaN, stubs are equal when they are the same hook.
  bool operator==(const Value& other) const;

 private:
  void SetUnsigned(uint64_t value);
  using Rep = std::variant<Undefined, Null, bool, int64_t, double, BigInt, std::string, BytesValue,
                           Date, Url, Headers, internal::Box<ErrorValue>, Array, Object, StubRef,
                           PromiseRef, ReadableRef, WritableRef, internal::Box<Blob>,
                           internal::Box<Request>, internal::Box<Response>>;
  Rep rep_;
};

struct Member {
  std::string key;
  Value value;
  bool operator==(const Member&) const = default;
};

// A body is null, a string, bytes (Bytes) or a stream of bytes (ReadableRef); `options` holds
// what else the fetch API knows ("cache", "redirect" ...), as it came.
struct Request {
  std::string url;
  std::string method = "GET";
  Headers headers = {};
  Value body = nullptr;
  Object options = {};
  bool operator==(const Request&) const = default;
};
struct Response {
  int status = 200;
  std::string status_text = {};
  Headers headers = {};
  Value body = nullptr;
  Object options = {};
  bool operator==(const Response&) const = default;
};

// What a value is, for error texts: "string", "array" ...
std::string_view KindName(Value::Kind kind);
// About how much memory the value holds. O(size of the tree).
size_t ApproximateBytes(const Value& value);

// Errors: a Status crosses as an Error with a `code` property ("NOT_FOUND"); InvalidArgument
// is a TypeError and OutOfRange a RangeError. Any other rejection, of any value, becomes a
// Status that keeps the value as a payload: sent on, it is what it was.
Value ErrorFromStatus(const Status& status);
Status StatusFromError(const Value& error);  // never OK
// A Status that makes the caller's promise reject with exactly `thrown`.
Status RejectWith(const Value& thrown);
std::string_view StatusCodeName(StatusCode code);  // "NOT_FOUND"

// The text form that Cap'n Web gives a value, without stubs: InvalidArgument if there are
// any (or depth is above 256), and for text that is not such a form.
StatusOr<std::string> Encode(const Value& value);
StatusOr<Value> Decode(std::string_view text);

}  // namespace edge::rpc
