// edge/rpc/map.h - map over a remote list in one round trip.
//
//   Promise<Value> names = rpc::Map(api.Call("listIds"),
//                                   [&](const Promise<Value>& id) { return api.Call("getName", id);
//                                   });
//
// The function runs once, here, with a placeholder for the element: what it calls is written
// down instead of made, and sent as a program that the peer runs for each element. So it may
// call stubs and read properties, pass results on and put them into its own result, but it can
// neither look at a value nor await one. An array gives an array, null and undefined give
// themselves, anything else is mapped once.
#pragma once
#include <memory>
#include <utility>
#include <vector>

#include "edge/rpc/hook.h"
#include "edge/rpc/promise.h"
#include "edge/rpc/value.h"

namespace edge::rpc {

// What a program, with those inside it, may still do; shared by them.
struct MapBudget {
  size_t steps = 1'000'000;  // instructions x elements
  size_t bytes = 64 << 20;   // of instructions, copied for each element
};

// A recorded function: instructions as the JSON of Cap'n Web, in which id 0 is the element,
// -1, -2 ... the captures, 1, 2 ... earlier results; the last one is the result.
struct MapProgram {
  std::vector<HookPtr> captures;
  Array instructions;
  std::shared_ptr<MapBudget> budget;  // null: a fresh one
};

// Runs `program` over what `subject` becomes, here. The failure of one element is the
// outcome; ResourceExhausted past the budget.
HookPtr RunMap(HookPtr subject, MapProgram program);

namespace internal {

// While it lives, calls of this thread are written down.
class MapRecording {
 public:
  explicit MapRecording(HookPtr subject);
  ~MapRecording();
  MapRecording(const MapRecording&) = delete;
  HookPtr element() const;
  // Ends the recording: the promise of the mapped value.
  HookPtr Finish(const Value& result);

  class Recorder;  // private to edge::rpc

 private:
  std::shared_ptr<Recorder> recorder_;
};

// Null when this thread records nothing.
HookPtr RecordCall(const HookPtr& on, PathView path, const Array& args, bool is_get);

}  // namespace internal

// `function` takes a const Promise<Value>& and returns anything that crosses.
template <typename R = Value, typename T, typename F>
Promise<R> Map(const Promise<T>& list, F&& function) {
  internal::MapRecording recording(list.hook());
  const Promise<Value> element(recording.element());
  return Promise<R>(recording.Finish(ToValue(function(element))));
}

}  // namespace edge::rpc
