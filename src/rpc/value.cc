#include "edge/rpc/value.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "absl/strings/cord.h"
#include "edge/base/errors.h"

namespace edge::rpc {

Object::Object() = default;
Object::Object(const Object&) = default;
Object::Object(Object&&) noexcept = default;
Object& Object::operator=(const Object&) = default;
Object& Object::operator=(Object&&) noexcept = default;
Object::~Object() = default;

Object::Object(std::initializer_list<Member> members) {
  for (const Member& member : members) Set(member.key, member.value);
}

const Value* Object::Find(std::string_view key) const {
  for (const Member& member : members_)
    if (member.key == key) return &member.value;
  return nullptr;
}

Value* Object::Find(std::string_view key) {
  return const_cast<Value*>(static_cast<const Object*>(this)->Find(key));
}

void Object::Set(std::string key, Value value) {
  if (Value* found = Find(key)) {
    *found = std::move(value);
  } else {
    members_.push_back({std::move(key), std::move(value)});
  }
}

size_t Object::size() const {
  return members_.size();
}

bool Object::operator==(const Object& other) const {
  if (size() != other.size()) return false;
  return std::ranges::all_of(members_, [&](const Member& member) {
    const Value* found = other.Find(member.key);
    return found != nullptr && *found == member.value;
  });
}

namespace internal {

template <typename T>
Box<T>::Box(T value) : value_(new T(std::move(value))) {}
template <typename T>
Box<T>::Box(const Box& other) : value_(other.value_ == nullptr ? nullptr : new T(*other.value_)) {}
template <typename T>
Box<T>::~Box() {
  delete value_;
}
template <typename T>
bool Box<T>::operator==(const Box& other) const {
  return value_ == other.value_ ||
         (value_ != nullptr && other.value_ != nullptr && *value_ == *other.value_);
}

template class Box<ErrorValue>;
template class Box<Blob>;
template class Box<Request>;
template class Box<Response>;

}  // namespace internal

namespace {

constexpr std::array<std::string_view, 13> kBytesKindNames = {
    "Uint8Array",     "ArrayBuffer",  "DataView",    "Int8Array",   "Uint8ClampedArray",
    "Int16Array",     "Uint16Array",  "Int32Array",  "Uint32Array", "BigInt64Array",
    "BigUint64Array", "Float32Array", "Float64Array"};

constexpr std::array<std::string_view, 21> kKindNames = {
    "undefined", "null",    "boolean", "integer", "number",          "bigint",
    "string",    "bytes",   "date",    "URL",     "headers",         "error",
    "array",     "object",  "stub",    "promise", "readable stream", "writable stream",
    "blob",      "request", "response"};

// Where a Status keeps the value that a promise was rejected with.
constexpr char kRejectionUrl[] = "edge.rpc/rejection";

constexpr std::array<std::string_view, 17> kCodeNames = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

std::string_view ErrorNameFor(StatusCode code) {
  if (code == StatusCode::kInvalidArgument) return "TypeError";
  if (code == StatusCode::kOutOfRange) return "RangeError";
  return "Error";
}

StatusCode CodeFor(const ErrorValue& error) {
  if (const Value* code = error.properties.Find("code"); code != nullptr && code->string()) {
    const auto* found = std::ranges::find(kCodeNames, *code->string());
    if (found != kCodeNames.end() && found != kCodeNames.begin())
      return static_cast<StatusCode>(found - kCodeNames.begin());
  }
  if (error.name == "TypeError") return StatusCode::kInvalidArgument;
  if (error.name == "RangeError") return StatusCode::kOutOfRange;
  return StatusCode::kUnknown;
}

// Would ErrorFromStatus make the same error again from code and message alone?
bool IsPlain(const ErrorValue& error, StatusCode code) {
  const Value* found = error.properties.Find("code");
  return error.name == ErrorNameFor(code) && !error.stack && error.properties.size() == 1 &&
         found != nullptr && found->string() && *found->string() == StatusCodeName(code);
}

std::string TextOf(const Value& thrown) {
  if (thrown.string() != nullptr) return *thrown.string();
  StatusOr<std::string> text = Encode(thrown);
  if (!text.ok()) return std::string(KindName(thrown.kind()));
  if (text->size() > 200) text->resize(200);
  return std::move(*text);
}

}  // namespace

std::string_view BytesKindName(BytesKind kind) {
  return kBytesKindNames[static_cast<size_t>(kind)];
}
std::string_view KindName(Value::Kind kind) {
  return kKindNames[static_cast<size_t>(kind)];
}

std::string_view StatusCodeName(StatusCode code) {
  const auto index = static_cast<size_t>(code);
  return index < kCodeNames.size() ? kCodeNames[index] : "UNKNOWN";
}

Value::Value(Bytes bytes) : rep_(BytesValue{std::move(bytes), BytesKind::kUint8Array}) {}
Value::Value(Array items) : rep_(std::move(items)) {}
Value::Value(ErrorValue value) : rep_(internal::Box<ErrorValue>(std::move(value))) {}
Value::Value(Blob value) : rep_(internal::Box<Blob>(std::move(value))) {}
Value::Value(Request value) : rep_(internal::Box<Request>(std::move(value))) {}
Value::Value(Response value) : rep_(internal::Box<Response>(std::move(value))) {}
Value::Value(const Value& other) = default;

Value& Value::operator=(const Value& other) {
  if (this != &other) *this = Value(other);
  return *this;
}

void Value::SetUnsigned(uint64_t value) {
  if (value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    rep_ = static_cast<int64_t>(value);
  } else {
    rep_ = BigInt{std::to_string(value)};
  }
}

double Value::number() const {
  if (const int64_t* integer = As<int64_t>()) return static_cast<double>(*integer);
  if (const double* real = As<double>()) return *real;
  return std::numeric_limits<double>::quiet_NaN();
}

const Value& Value::operator[](std::string_view key) const {
  static const Value kUndefined;
  if (const Object* members = object()) {
    const Value* found = members->Find(key);
    return found == nullptr ? kUndefined : *found;
  }
  if (const Array* items = array()) {
    size_t index = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), index);
    if (error == std::errc() && end == key.data() + key.size() && index < items->size())
      return (*items)[index];
  }
  return kUndefined;
}

bool Value::operator==(const Value& other) const {
  if (is_number() && other.is_number()) {
    if (kind() == Kind::kInt && other.kind() == Kind::kInt)
      return *As<int64_t>() == *other.As<int64_t>();
    const double a = number();
    const double b = other.number();
    return a == b || (std::isnan(a) && std::isnan(b));
  }
  if (kind() != other.kind()) return false;
  return rep_ == other.rep_;
}

size_t ApproximateBytes(const Value& value) {
  size_t bytes = sizeof(Value);
  const auto add_members = [&bytes](const Object& object) {
    for (const Member& member : object.members())
      bytes += sizeof(std::string) + member.key.size() + ApproximateBytes(member.value);
  };
  const auto add_headers = [&bytes](const Headers& headers) {
    for (const auto& [name, text] : headers.entries)
      bytes += sizeof name + sizeof text + name.size() + text.size();
  };
  if (const std::string* text = value.string()) {
    bytes += text->size();
  } else if (const BytesValue* data = value.As<BytesValue>()) {
    bytes += data->bytes.size();
  } else if (const Array* array = value.array()) {
    for (const Value& item : *array) bytes += ApproximateBytes(item);
  } else if (const Object* object = value.object()) {
    add_members(*object);
  } else if (const BigInt* big = value.As<BigInt>()) {
    bytes += big->decimal.size();
  } else if (const ErrorValue* error = value.As<ErrorValue>()) {
    bytes += sizeof *error + error->name.size() + error->message.size() +
             (error->stack ? error->stack->size() : 0);
    add_members(error->properties);
  } else if (const Blob* blob = value.As<Blob>()) {
    bytes += sizeof *blob + blob->type.size() + blob->bytes.size();
  } else if (const Headers* headers = value.As<Headers>()) {
    add_headers(*headers);
  } else if (const Request* request = value.As<Request>()) {
    bytes += sizeof *request + request->url.size() + ApproximateBytes(request->body);
    add_headers(request->headers);
    add_members(request->options);
  } else if (const Response* response = value.As<Response>()) {
    bytes += sizeof *response + ApproximateBytes(response->body);
    add_headers(response->headers);
    add_members(response->options);
  }
  return bytes;
}

Value ErrorFromStatus(const Status& status) {
  if (const auto payload = status.GetPayload(kRejectionUrl)) {
    StatusOr<Value> thrown = Decode(std::string(*payload));
    if (thrown.ok()) return std::move(*thrown);
  }
  ErrorValue error;
  error.name = ErrorNameFor(status.code());
  error.message = Message(status);
  error.properties.Set("code", StatusCodeName(status.code()));
  return error;
}

Status RejectWith(const Value& thrown) {
  const ErrorValue* error = thrown.As<ErrorValue>();
  Status status(error == nullptr ? StatusCode::kUnknown : CodeFor(*error),
                error == nullptr ? TextOf(thrown) : error->message);
  if (StatusOr<std::string> text = Encode(thrown); text.ok())
    status.SetPayload(kRejectionUrl, absl::Cord(*text));
  return status;
}

Status StatusFromError(const Value& error) {
  const ErrorValue* plain = error.As<ErrorValue>();
  if (plain != nullptr && IsPlain(*plain, CodeFor(*plain)))
    return Status(CodeFor(*plain), plain->message);
  return RejectWith(error);
}

}  // namespace edge::rpc
