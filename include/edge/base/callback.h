// edge/base/callback.h - a function object that moves but need not copy.
//
// std::function wants copyable captures, std::move_only_function is C++23. Callback holds
// captures of up to 48 bytes in place, larger ones on the heap, and costs an indirect call.
#pragma once
#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

namespace edge {

template <typename Signature>
class Callback;

// Thread-compatible. Calling an empty one is undefined; test it with `if (callback)`.
template <typename R, typename... Args>
class Callback<R(Args...)> {
 public:
  Callback() = default;
  Callback(std::nullptr_t) {}  // NOLINT(google-explicit-constructor)
  template <typename F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, Callback> &&
             std::is_invocable_r_v<R, std::remove_cvref_t<F>&, Args...>)
  Callback(F&& f) {  // NOLINT(google-explicit-constructor)
    using Fn = std::remove_cvref_t<F>;
    if constexpr (kFits<Fn>) {
      ::new (static_cast<void*>(buffer_)) Fn(std::forward<F>(f));
      ops_ = &kInPlace<Fn>;
    } else {
      ::new (static_cast<void*>(buffer_)) Fn*(new Fn(std::forward<F>(f)));
      ops_ = &kOnHeap<Fn>;
    }
  }
  Callback(Callback&& other) noexcept { Take(other); }
  Callback& operator=(Callback&& other) noexcept {
    if (this != &other) {
      Reset();
      Take(other);
    }
    return *this;
  }
  Callback(const Callback&) = delete;
  Callback& operator=(const Callback&) = delete;
  ~Callback() { Reset(); }

  explicit operator bool() const { return ops_ != nullptr; }
  R operator()(Args... args) { return ops_->call(buffer_, std::forward<Args>(args)...); }

 private:
  static constexpr size_t kInPlaceBytes = 48;
  struct Ops {
    R (*call)(void*, Args&&...);
    void (*move)(void* from, void* to) noexcept;  // leaves `from` destroyed
    void (*destroy)(void*) noexcept;
  };
  template <typename Fn>
  static constexpr bool kFits =
      sizeof(Fn) <= kInPlaceBytes && alignof(Fn) <= alignof(std::max_align_t) &&
      std::is_nothrow_move_constructible_v<Fn>;
  template <typename Fn>
  static R Invoke(Fn& f, Args&&... args) {
    if constexpr (std::is_void_v<R>) {
      f(std::forward<Args>(args)...);
    } else {
      return f(std::forward<Args>(args)...);
    }
  }
  template <typename Fn>
  static constexpr Ops kInPlace = {[](void* at, Args&&... args) -> R {
                                     return Invoke(*static_cast<Fn*>(at),
                                                   std::forward<Args>(args)...);
                                   },
                                   [](void* from, void* to) noexcept {
                                     ::new (to) Fn(std::move(*static_cast<Fn*>(from)));
                                     static_cast<Fn*>(from)->~Fn();
                                   },
                                   [](void* at) noexcept { static_cast<Fn*>(at)->~Fn(); }};
  template <typename Fn>
  static constexpr Ops kOnHeap = {
      [](void* at, Args&&... args) -> R {
        return Invoke(**static_cast<Fn**>(at), std::forward<Args>(args)...);
      },
      [](void* from, void* to) noexcept { ::new (to) Fn*(*static_cast<Fn**>(from)); },
      [](void* at) noexcept { delete *static_cast<Fn**>(at); }};

  void Take(Callback& other) noexcept {
    ops_ = std::exchange(other.ops_, nullptr);
    if (ops_ != nullptr) ops_->move(other.buffer_, buffer_);
  }
  void Reset() noexcept {
    if (const Ops* ops = std::exchange(ops_, nullptr)) ops->destroy(buffer_);
  }

  const Ops* ops_ = nullptr;
  alignas(std::max_align_t) std::byte buffer_[kInPlaceBytes];
};

}  // namespace edge
