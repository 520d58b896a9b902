// edge/rpc/names.h - the name of a member, taken from the pointer to it at compile time.
#pragma once
#include <algorithm>
#include <cstddef>
#include <string_view>
#include <type_traits>

namespace edge::rpc {

// Text as a template argument.
template <size_t N>
struct FixedString {
  char text[N]{};
  constexpr FixedString() = default;
  constexpr FixedString(const char (&from)[N]) {  // NOLINT(google-explicit-constructor)
    std::copy_n(from, N, text);
  }
  constexpr std::string_view view() const { return {text, N - 1}; }
};

// Named<"userId", &User::user_id>: a member under a name of your choice, in Methods<> and
// Fields<>. Needed for overloaded methods (cast the pointer to the one that is meant).
template <FixedString kName, auto kMember>
struct NamedMember {
  static constexpr auto member = kMember;
  static constexpr std::string_view name = kName.view();
  static constexpr bool is_property = false;
};
template <FixedString kName, auto kMember>
inline constexpr NamedMember<kName, kMember> Named{};

// Property<"value", &Counter::value>: a method without arguments that callers see as a
// property, read with Get and not callable.
template <FixedString kName, auto kMember>
struct PropertyMember {
  static constexpr auto member = kMember;
  static constexpr std::string_view name = kName.view();
  static constexpr bool is_property = true;
};
template <FixedString kName, auto kMember>
inline constexpr PropertyMember<kName, kMember> Property{};

namespace internal {

// "... [with auto kPointer = &Counter::Increment; ...]" of g++, "[kPointer = &Counter::...]"
// of clang: the last component of what follows the '='.
template <auto kPointer>
consteval std::string_view PointerName() {
  std::string_view text = __PRETTY_FUNCTION__;
  text.remove_prefix(text.find("kPointer = ") + 11);
  text = text.substr(0, text.find_first_of(";]"));
  if (text.starts_with('(')) text = text.substr(1, text.find(')') - 1);
  text = text.substr(text.rfind("::") + 2);
  return text.substr(0, text.find_first_of("()<> "));
}

// A method's wire name: its own with the first letter in lower case.
template <auto kPointer>
struct MethodNameOf {
  static constexpr size_t kSize = PointerName<kPointer>().size();
  static constexpr auto kText = [] {
    FixedString<kSize + 1> name;
    std::copy_n(PointerName<kPointer>().data(), kSize, name.text);
    if (name.text[0] >= 'A' && name.text[0] <= 'Z')
      name.text[0] = static_cast<char>(name.text[0] - 'A' + 'a');
    return name;
  }();
};

template <auto kEntry>
inline constexpr bool kIsPointer = std::is_member_pointer_v<decltype(kEntry)>;

template <auto kEntry>
constexpr auto MemberOf() {
  if constexpr (kIsPointer<kEntry>) {
    return kEntry;
  } else {
    return decltype(kEntry)::member;
  }
}
template <auto kEntry>
constexpr std::string_view FieldName() {
  if constexpr (kIsPointer<kEntry>) {
    return PointerName<kEntry>();
  } else {
    return decltype(kEntry)::name;
  }
}
template <auto kEntry>
constexpr std::string_view MethodName() {
  if constexpr (kIsPointer<kEntry>) {
    return MethodNameOf<kEntry>::kText.view();
  } else {
    return decltype(kEntry)::name;
  }
}
template <auto kEntry>
constexpr bool IsProperty() {
  if constexpr (kIsPointer<kEntry>) {
    return false;
  } else {
    return decltype(kEntry)::is_property;
  }
}

// Not kA == kB: under -fsanitize=undefined g++ 12 does not take that for a constant.
template <auto kMember>
struct MemberTag {};
template <auto kA, auto kB>
constexpr bool SameMember() {
  return std::is_same_v<MemberTag<kA>, MemberTag<kB>>;
}

}  // namespace internal
}  // namespace edge::rpc
