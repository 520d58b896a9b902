// edge/rpc/convert.h - C++ types to Values and back, chosen at compile time.
//
// Known: bool, integers and floats (range-checked), text, Bytes, std::vector, maps keyed by
// text, std::optional (nothing is null), std::pair and std::tuple (arrays), Value itself and
// its parts (Date, BigInt ...), stubs (stub.h), and structs that list their fields:
//
//   struct Passenger {
//     std::string name;
//     std::optional<int> age;
//     using Fields = edge::rpc::Fields<&Passenger::name, &Passenger::age>;
//   };                                 // {"name": "ada", "age": null}
//
// For a type of your own, specialise Convert<T>.
#pragma once
#include <concepts>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "edge/base/status.h"
#include "edge/rpc/names.h"
#include "edge/rpc/value.h"

namespace edge::rpc {

// `static Value Write(T)`, which cannot fail, and `static Status Read(Value& from, T& to)`:
// InvalidArgument when `from` is something else. Read may move out of `from`, and what it
// makes may borrow from it (string_view does).
template <typename T>
struct Convert;

template <typename T>
concept Readable = requires(Value& value, T& out) {
  { Convert<T>::Read(value, out) } -> std::same_as<Status>;
};

// The members that cross, in this order: pointers to data members, or Named<"other", &T::x>.
// A name from a pointer is the member's own. A missing member reads as undefined.
template <auto... kMembers>
struct Fields {};

template <typename T>
Value ToValue(T&& value) {
  return Convert<std::decay_t<T>>::Write(std::forward<T>(value));
}
template <typename T>
StatusOr<T> FromValue(Value value) {
  static_assert(!std::is_same_v<T, std::string_view>, "would dangle: ask for a std::string");
  T out{};
  if (Status status = Convert<T>::Read(value, out); !status.ok()) return status;
  return out;
}

// An object literal for calls by name: ObjectOf("seat", "1A", "row", 3).
inline void SetMembers(Object&) {}
template <typename T, typename... Rest>
void SetMembers(Object& object, std::string key, T&& value, Rest&&... rest) {
  object.Set(std::move(key), ToValue(std::forward<T>(value)));
  SetMembers(object, std::forward<Rest>(rest)...);
}
template <typename... KeysAndValues>
Object ObjectOf(KeysAndValues&&... items) {
  Object object;
  SetMembers(object, std::forward<KeysAndValues>(items)...);
  return object;
}
template <typename... Items>
Array ArrayOf(Items&&... items) {
  Array array;
  array.reserve(sizeof...(Items));
  (array.push_back(ToValue(std::forward<Items>(items))), ...);
  return array;
}

namespace internal {
Status Mismatch(std::string_view expected, const Value& got);
Status AtElement(const Status& status, size_t index);
Status AtMember(const Status& status, std::string_view key);
Status ReadInteger(const Value& from, int64_t min, int64_t max, int64_t& to);
Status ReadUnsigned(const Value& from, uint64_t& to);
Status ReadDouble(const Value& from, double& to);
}  // namespace internal

template <>
struct Convert<Value> {
  static Value Write(Value value) { return value; }
  static Status Read(Value& from, Value& to) {
    to = std::move(from);
    return OkStatus();
  }
};
template <>
struct Convert<bool> {
  static Value Write(bool value) { return value; }
  static Status Read(Value& from, bool& to) {
    const bool* found = from.As<bool>();
    if (found == nullptr) return internal::Mismatch("a boolean", from);
    to = *found;
    return OkStatus();
  }
};
template <std::integral T>
struct Convert<T> {
  static Value Write(T value) { return value; }
  static Status Read(Value& from, T& to) {
    if constexpr (std::is_unsigned_v<T> && sizeof(T) == 8) {
      uint64_t wide = 0;
      EDGE_RETURN_IF_ERROR(internal::ReadUnsigned(from, wide));
      to = wide;
    } else {
      int64_t wide = 0;
      EDGE_RETURN_IF_ERROR(internal::ReadInteger(from, std::numeric_limits<T>::min(),
                                                 std::numeric_limits<T>::max(), wide));
      to = static_cast<T>(wide);
    }
    return OkStatus();
  }
};
template <std::floating_point T>
struct Convert<T> {
  static Value Write(T value) { return static_cast<double>(value); }
  static Status Read(Value& from, T& to) {
    double wide = 0;
    EDGE_RETURN_IF_ERROR(internal::ReadDouble(from, wide));
    to = static_cast<T>(wide);
    return OkStatus();
  }
};
template <typename T>
  requires std::is_enum_v<T>
struct Convert<T> {
  using Number = std::underlying_type_t<T>;
  static Value Write(T value) { return static_cast<Number>(value); }
  static Status Read(Value& from, T& to) {
    Number number{};
    EDGE_RETURN_IF_ERROR(Convert<Number>::Read(from, number));
    to = static_cast<T>(number);
    return OkStatus();
  }
};
template <>
struct Convert<std::string> {
  static Value Write(std::string value) { return Value(std::move(value)); }
  static Status Read(Value& from, std::string& to) {
    std::string* found = from.As<std::string>();
    if (found == nullptr) return internal::Mismatch("a string", from);
    to = std::move(*found);
    return OkStatus();
  }
};
template <>
struct Convert<std::string_view> {  // borrows from the Value
  static Value Write(std::string_view value) { return Value(value); }
  static Status Read(Value& from, std::string_view& to) {
    const std::string* found = from.As<std::string>();
    if (found == nullptr) return internal::Mismatch("a string", from);
    to = *found;
    return OkStatus();
  }
};
template <>
struct Convert<const char*> {
  static Value Write(const char* value) { return Value(value); }
};
template <>
struct Convert<std::nullptr_t> {
  static Value Write(std::nullptr_t) { return Value(nullptr); }
};
template <>
struct Convert<Bytes> {
  static Value Write(Bytes value) { return Value(std::move(value)); }
  static Status Read(Value& from, Bytes& to) {
    BytesValue* found = from.As<BytesValue>();
    if (found == nullptr) return internal::Mismatch("bytes", from);
    to = std::move(found->bytes);
    return OkStatus();
  }
};
template <>
struct Convert<ByteView> {  // borrows from the Value
  static Value Write(ByteView value) { return Value(Bytes(value.begin(), value.end())); }
  static Status Read(Value& from, ByteView& to) {
    const BytesValue* found = from.As<BytesValue>();
    if (found == nullptr) return internal::Mismatch("bytes", from);
    to = found->bytes;
    return OkStatus();
  }
};
// The parts of a Value as themselves.
template <typename T>
  requires(std::same_as<T, Object> || std::same_as<T, BigInt> || std::same_as<T, BytesValue> ||
           std::same_as<T, Date> || std::same_as<T, Url> || std::same_as<T, Headers> ||
           std::same_as<T, ErrorValue> || std::same_as<T, Null> || std::same_as<T, Undefined> ||
           std::same_as<T, Blob> || std::same_as<T, Request> || std::same_as<T, Response>)
struct Convert<T> {
  static Value Write(T value) { return Value(std::move(value)); }
  static Status Read(Value& from, T& to) {
    T* found = from.As<T>();
    if (found == nullptr) return internal::Mismatch(KindName(Value(T{}).kind()), from);
    to = std::move(*found);
    return OkStatus();
  }
};

template <typename T, typename A>
  requires(!std::same_as<T, std::byte>)
struct Convert<std::vector<T, A>> {
  static Value Write(std::vector<T, A> items) {
    if constexpr (std::same_as<T, Value>) {
      return Value(std::move(items));
    } else {
      Array array;
      array.reserve(items.size());
      for (auto&& item : items) array.push_back(Convert<T>::Write(std::move(item)));
      return Value(std::move(array));
    }
  }
  static Status Read(Value& from, std::vector<T, A>& to) {
    Array* array = from.As<Array>();
    if (array == nullptr) return internal::Mismatch("an array", from);
    to.clear();
    to.reserve(array->size());
    for (size_t i = 0; i < array->size(); ++i) {
      T item{};
      if (Status status = Convert<T>::Read((*array)[i], item); !status.ok())
        return internal::AtElement(status, i);
      to.push_back(std::move(item));
    }
    return OkStatus();
  }
};

// std::map, std::unordered_map and absl's, keyed by std::string.
template <typename M>
  requires(std::same_as<typename M::key_type, std::string> && requires { typename M::mapped_type; })
struct Convert<M> {
  static Value Write(M map) {
    Object object;
    object.members().reserve(map.size());
    for (auto& [key, item] : map)
      object.members().push_back({key, Convert<typename M::mapped_type>::Write(std::move(item))});
    return Value(std::move(object));
  }
  static Status Read(Value& from, M& to) {
    Object* object = from.As<Object>();
    if (object == nullptr) return internal::Mismatch("an object", from);
    to.clear();
    for (Member& member : object->members()) {
      typename M::mapped_type item{};
      if (Status status = Convert<typename M::mapped_type>::Read(member.value, item); !status.ok())
        return internal::AtMember(status, member.key);
      to.emplace(member.key, std::move(item));
    }
    return OkStatus();
  }
};

template <typename T>
struct Convert<std::optional<T>> {
  static Value Write(std::optional<T> value) {
    return value ? Convert<T>::Write(std::move(*value)) : Value(nullptr);
  }
  static Status Read(Value& from, std::optional<T>& to) {
    to.reset();
    if (from.is_nullish()) return OkStatus();
    return Convert<T>::Read(from, to.emplace());
  }
};

// Tuples are arrays of exactly that length; a pair is a tuple of two.
template <typename Tuple, typename... T>
struct ConvertTuple {
  static Value Write(Tuple tuple) {
    return std::apply(
        [](auto&&... items) { return Value(ArrayOf(std::forward<decltype(items)>(items)...)); },
        std::move(tuple));
  }
  static Status Read(Value& from, Tuple& to) {
    Array* array = from.As<Array>();
    if (array == nullptr || array->size() != sizeof...(T))
      return internal::Mismatch("an array of fixed length", from);
    return [&]<size_t... I>(std::index_sequence<I...>) {
      Status status;
      (void)((status = Convert<T>::Read((*array)[I], std::get<I>(to)), status.ok()) && ...);
      return status;
    }(std::index_sequence_for<T...>{});
  }
};
template <typename... T>
struct Convert<std::tuple<T...>> : ConvertTuple<std::tuple<T...>, T...> {};
template <typename A, typename B>
struct Convert<std::pair<A, B>> : ConvertTuple<std::pair<A, B>, A, B> {};

template <typename T>
  requires requires { typename T::Fields; }
struct Convert<T> {
  static Value Write(T value) { return WriteFields(value, typename T::Fields{}); }
  static Status Read(Value& from, T& to) {
    Object* object = from.As<Object>();
    if (object == nullptr) return internal::Mismatch("an object", from);
    return ReadFields(*object, to, typename T::Fields{});
  }

 private:
  template <auto... kMembers>
  static Value WriteFields(T& value, Fields<kMembers...>) {
    Object object;
    object.members().reserve(sizeof...(kMembers));
    (object.members().push_back({std::string(internal::FieldName<kMembers>()),
                                 ToValue(std::move(value.*internal::MemberOf<kMembers>()))}),
     ...);
    return Value(std::move(object));
  }
  template <auto... kMembers>
  static Status ReadFields(Object& from, T& to, Fields<kMembers...>) {
    Status status;
    (void)((status = ReadField<kMembers>(from, to), status.ok()) && ...);
    return status;
  }
  template <auto kMember>
  static Status ReadField(Object& from, T& to) {
    auto& field = to.*internal::MemberOf<kMember>();
    Value missing;
    Value* found = from.Find(internal::FieldName<kMember>());
    Status status = Convert<std::remove_cvref_t<decltype(field)>>::Read(
        found == nullptr ? missing : *found, field);
    return status.ok() ? status : internal::AtMember(status, internal::FieldName<kMember>());
  }
};

}  // namespace edge::rpc
