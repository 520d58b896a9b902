// Values to Cap'n Web expressions and back (docs/formats/capnweb.md).
//
// Data is done here; what names an entry of a session's tables is left to a References.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "edge/base/status.h"
#include "edge/rpc/hook.h"
#include "edge/rpc/map.h"
#include "edge/rpc/session.h"
#include "edge/rpc/value.h"
#include "src/rpc/message.h"

namespace edge::rpc {

// A failure of either side; the default knows no entries at all.
class References {
 public:
  virtual ~References() = default;
  // ["import", id ...] and ["pipeline", id ...]: one of our exports, `path` in it, or the
  // result of calling that with `args`.
  virtual StatusOr<HookPtr> Resolve(int64_t id, const Path& path, std::optional<Array> args);
  // ["export", id] and ["promise", id]: something new that the peer offers.
  virtual StatusOr<HookPtr> Introduce(int64_t id, bool is_promise);
  // ["writable", id]: a stream of the peer's to write to.
  virtual StatusOr<HookPtr> IntroduceWritable(int64_t id);
  // ["readable", id]: the readable end of a pipe that the peer made; once per pipe.
  virtual StatusOr<HookPtr> TakeReadable(int64_t id);
  // ["remap", id ...]: the program run over what `path` in one of our exports leads to.
  virtual StatusOr<HookPtr> Map(int64_t id, const Path& path, MapProgram program);
  // Writes the expression that names `hook`.
  virtual Status Name(const HookPtr& hook, bool is_promise, MessageWriter& out);
  virtual Status NameReadable(const HookPtr& stream, MessageWriter& out);
  virtual Status NameWritable(const HookPtr& stream, MessageWriter& out);
};

// Evaluates an expression that came as a tree, of ParseJson or ParseBinary. InvalidArgument: not of
// the protocol; Unimplemented: a form that is not supported yet.
StatusOr<Value> Evaluate(Value json, const SessionLimits& limits, References& references);
// The same for the plain array of expressions that arguments are.
StatusOr<Array> EvaluateArguments(Array items, const SessionLimits& limits, References& references);

// Writes the expression of `value`. On failure what was written is undefined and names that
// were made are the caller's to take back.
Status WriteExpression(const Value& value, const SessionLimits& limits, References& references,
                       MessageWriter& out);
// Writes the plain array of expressions that arguments are.
Status WriteArguments(const Array& args, const SessionLimits& limits, References& references,
                      MessageWriter& out);
// Writes a tree that ParseJson or ParseBinary made, as it was; false, and undefined, for others.
bool WriteTree(const Value& tree, MessageWriter& out);
// Writes ["a","b",0]: decimal names become numbers, as arrays of the peer want them.
void WritePath(PathView path, MessageWriter& out);

}  // namespace edge::rpc
