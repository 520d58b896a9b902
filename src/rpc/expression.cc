#include "src/rpc/expression.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "edge/base/errors.h"
#include "src/rpc/hooks.h"
#include "src/rpc/json.h"

namespace edge::rpc {

StatusOr<HookPtr> References::Resolve(int64_t, const Path&, std::optional<Array>) {
  return InvalidArgument("a stub outside of a session");
}
StatusOr<HookPtr> References::Introduce(int64_t, bool) {
  return InvalidArgument("a stub outside of a session");
}
StatusOr<HookPtr> References::IntroduceWritable(int64_t) {
  return InvalidArgument("a stream outside of a session");
}
StatusOr<HookPtr> References::TakeReadable(int64_t) {
  return InvalidArgument("a stream outside of a session");
}
StatusOr<HookPtr> References::Map(int64_t, const Path&, MapProgram) {
  return InvalidArgument("a map outside of a session");
}
Status References::Name(const HookPtr&, bool, MessageWriter&) {
  return InvalidArgument("a stub outside of a session");
}
Status References::NameReadable(const HookPtr&, MessageWriter&) {
  return InvalidArgument("a stream outside of a session");
}
Status References::NameWritable(const HookPtr&, MessageWriter&) {
  return InvalidArgument("a stream outside of a session");
}

namespace {

// Names on JavaScript's Object.prototype: never visible in objects that a peer sends.
bool IsHiddenKey(std::string_view key) {
  static constexpr std::array<std::string_view, 13> kHidden = {
      "__defineGetter__", "__defineSetter__", "__lookupGetter__",
      "__lookupSetter__", "__proto__",        "constructor",
      "hasOwnProperty",   "isPrototypeOf",    "propertyIsEnumerable",
      "toJSON",           "toLocaleString",   "toString",
      "valueOf"};
  return std::ranges::binary_search(kHidden, key);
}

size_t ElementBytes(BytesKind kind) {
  switch (kind) {
    case BytesKind::kInt16Array:
    case BytesKind::kUint16Array:
      return 2;
    case BytesKind::kInt32Array:
    case BytesKind::kUint32Array:
    case BytesKind::kFloat32Array:
      return 4;
    case BytesKind::kBigInt64Array:
    case BytesKind::kBigUint64Array:
    case BytesKind::kFloat64Array:
      return 8;
    default:
      return 1;
  }
}

bool IsDecimal(std::string_view text) {
  if (text.starts_with('-')) text.remove_prefix(1);
  return !text.empty() && std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

std::string CanonicalDecimal(std::string_view text) {
  const bool negative = text.starts_with('-');
  if (negative) text.remove_prefix(1);
  text.remove_prefix(std::min(text.find_first_not_of('0'), text.size() - 1));
  return (negative && text != "0" ? "-" : "") + std::string(text);
}

class Evaluator {
 public:
  Evaluator(const SessionLimits& limits, References& references)
      : limits_(limits), references_(references) {}

  StatusOr<Value> Run(Value json, size_t depth) {
    if (depth > limits_.depth_max)
      return InvalidArgument("the message is nested deeper than {}", limits_.depth_max);
    if (Object* object = json.As<Object>()) return RunObject(*object, depth);
    Array* array = json.As<Array>();
    if (array == nullptr) return json;
    if (array->size() == 1 && (*array)[0].array() != nullptr)
      return RunItems(*(*array)[0].As<Array>(), depth);
    if (array->empty() || (*array)[0].string() == nullptr)
      return InvalidArgument("an array must start with a tag or be wrapped in another one");
    return RunTag(*(*array)[0].string(), *array, depth);
  }

  Status RunEach(Array& items, size_t depth) {
    for (Value& item : items) {
      if (item.array() == nullptr && item.object() == nullptr && depth < limits_.depth_max)
        continue;  // is itself
      EDGE_ASSIGN_OR_RETURN(item, Run(std::move(item), depth + 1));
    }
    return OkStatus();
  }

 private:
  StatusOr<Value> RunObject(Object& object, size_t depth) {
    for (Member& member : object.members()) {
      EDGE_ASSIGN_OR_RETURN(member.value, Run(std::move(member.value), depth + 1));
    }
    std::erase_if(object.members(), [](const Member& member) { return IsHiddenKey(member.key); });
    return Value(std::move(object));
  }

  StatusOr<Value> RunItems(Array& items, size_t depth) {
    EDGE_RETURN_IF_ERROR(RunEach(items, depth));
    return Value(std::move(items));
  }

  StatusOr<Value> RunTag(const std::string& tag, Array& form, size_t depth) {
    using Limits = std::numeric_limits<double>;
    if (tag == "import" || tag == "pipeline") return RunReference(form, tag == "pipeline", depth);
    if (tag == "export" || tag == "promise") return RunIntroduction(form, tag == "promise");
    if (tag == "bytes") return RunBytes(form);
    if (tag == "date") return RunDate(form);
    if (tag == "bigint") return RunBigInt(form);
    if (tag == "error") return RunError(form, depth);
    if (tag == "headers") return RunHeaders(form);
    if (tag == "url") {
      if (form.size() != 2 || form[1].string() == nullptr) return Malformed(tag);
      return Value(Url{std::move(*form[1].As<std::string>())});
    }
    if (tag == "undefined" || tag == "inf" || tag == "-inf" || tag == "nan") {
      if (form.size() != 1) return Malformed(tag);
      if (tag == "undefined") return Value();
      if (tag == "nan") return Value(Limits::quiet_NaN());
      return Value(tag == "inf" ? Limits::infinity() : -Limits::infinity());
    }
    if (tag == "readable") return RunReadable(form);
    if (tag == "writable") return RunWritable(form);
    if (tag == "blob") return RunBlob(form);
    if (tag == "request") return RunRequest(form, depth);
    if (tag == "response") return RunResponse(form, depth);
    if (tag == "remap") return RunMap(form, depth);
    return InvalidArgument("unknown tag \"{}\"", tag.substr(0, 40));
  }

  static Status Malformed(std::string_view tag) {
    return InvalidArgument("malformed \"{}\" expression", tag);
  }

  StatusOr<Value> RunReference(Array& form, bool is_promise, size_t depth) {
    const std::string_view tag = is_promise ? "pipeline" : "import";
    const int64_t* id = form.size() >= 2 ? form[1].As<int64_t>() : nullptr;
    if (id == nullptr || form.size() > 4) return Malformed(tag);
    Path path;
    std::optional<Array> args;
    if (form.size() >= 3) {
      if (form[2].array() == nullptr) return Malformed(tag);
      EDGE_ASSIGN_OR_RETURN(path, ReadPath(*form[2].array()));
    }
    if (form.size() == 4) {
      if (form[3].array() == nullptr) return Malformed(tag);
      EDGE_ASSIGN_OR_RETURN(Value items, RunItems(*form[3].As<Array>(), depth + 1));
      args = std::move(*items.As<Array>());
    }
    EDGE_ASSIGN_OR_RETURN(HookPtr hook, references_.Resolve(*id, path, std::move(args)));
    if (is_promise) return Value(PromiseRef{std::move(hook)});
    return Value(StubRef{std::move(hook)});
  }

  StatusOr<Path> ReadPath(const Array& names) {
    if (names.size() > limits_.path_max)
      return ResourceExhausted("a path of {} names; {} are allowed", names.size(),
                               limits_.path_max);
    Path path;
    for (const Value& name : names) {
      if (name.string() != nullptr) {
        path.push_back(*name.string());
      } else if (const int64_t* index = name.As<int64_t>()) {
        path.push_back(std::to_string(*index));
      } else {
        return InvalidArgument("a path holds names and numbers, not a {}", KindName(name.kind()));
      }
    }
    return path;
  }

  StatusOr<Value> RunIntroduction(Array& form, bool is_promise) {
    const int64_t* id = form.size() == 2 ? form[1].As<int64_t>() : nullptr;
    if (id == nullptr || *id >= 0) return Malformed(is_promise ? "promise" : "export");
    EDGE_ASSIGN_OR_RETURN(HookPtr hook, references_.Introduce(*id, is_promise));
    if (is_promise) return Value(PromiseRef{std::move(hook)});
    return Value(StubRef{std::move(hook)});
  }

  StatusOr<Value> RunBytes(Array& form) {
    BytesValue bytes;
    if (form.size() < 2 || form.size() > 3) return Malformed("bytes");
    if (BytesValue* raw = form[1].As<BytesValue>()) {  // of the binary form
      bytes.bytes = std::move(raw->bytes);
    } else if (form[1].string() == nullptr || !ParseBase64(*form[1].string(), &bytes.bytes)) {
      return Malformed("bytes");
    }
    if (form.size() == 3) {
      if (form[2].string() == nullptr) return Malformed("bytes");
      bool found = false;
      for (size_t i = 0; i <= static_cast<size_t>(BytesKind::kFloat64Array); ++i) {
        if (BytesKindName(static_cast<BytesKind>(i)) != *form[2].string()) continue;
        bytes.kind = static_cast<BytesKind>(i);
        found = true;
      }
      if (!found) return InvalidArgument("unknown kind of bytes");
      if (bytes.bytes.size() % ElementBytes(bytes.kind) != 0)
        return InvalidArgument("{} bytes do not make a whole {}", bytes.bytes.size(),
                               BytesKindName(bytes.kind));
    }
    return Value(std::move(bytes));
  }

  static StatusOr<Value> RunDate(Array& form) {
    if (form.size() != 2) return Malformed("date");
    if (form[1].kind() == Value::Kind::kNull)
      return Value(Date{std::numeric_limits<double>::quiet_NaN()});
    if (!form[1].is_number()) return Malformed("date");
    return Value(Date{form[1].number()});
  }

  StatusOr<Value> RunBigInt(Array& form) {
    const std::string* digits = form.size() == 2 ? form[1].string() : nullptr;
    if (digits == nullptr || !IsDecimal(*digits)) return Malformed("bigint");
    if (digits->size() > limits_.bigint_digits_max)
      return ResourceExhausted("a bigint of {} digits; {} are allowed", digits->size(),
                               limits_.bigint_digits_max);
    return Value(BigInt{CanonicalDecimal(*digits)});
  }

  StatusOr<Value> RunError(Array& form, size_t depth) {
    if (form.size() < 3 || form.size() > 5 || form[1].string() == nullptr ||
        form[2].string() == nullptr)
      return Malformed("error");
    ErrorValue error;
    error.name = *form[1].string();
    error.message = *form[2].string();
    if (form.size() >= 4) {
      if (form[3].string() != nullptr) {
        error.stack = *form[3].string();
      } else if (form[3].kind() != Value::Kind::kNull) {
        return Malformed("error");
      }
    }
    if (form.size() == 5) {
      Object* properties = form[4].As<Object>();
      if (properties == nullptr) return Malformed("error");
      EDGE_ASSIGN_OR_RETURN(Value value, RunObject(*properties, depth + 1));
      error.properties = std::move(*value.As<Object>());
    }
    return Value(std::move(error));
  }

  static StatusOr<Headers> ReadHeaders(const Value& pairs) {
    if (pairs.array() == nullptr) return Malformed("headers");
    Headers headers;
    for (const Value& pair : *pairs.array()) {
      const Array* parts = pair.array();
      if (parts == nullptr || parts->size() != 2 || (*parts)[0].string() == nullptr ||
          (*parts)[1].string() == nullptr)
        return Malformed("headers");
      headers.entries.emplace_back(*(*parts)[0].string(), *(*parts)[1].string());
    }
    return headers;
  }

  static StatusOr<Value> RunHeaders(Array& form) {
    if (form.size() != 2) return Malformed("headers");
    EDGE_ASSIGN_OR_RETURN(Headers headers, ReadHeaders(form[1]));
    return Value(std::move(headers));
  }

  StatusOr<Value> RunReadable(Array& form) {
    const int64_t* id = form.size() == 2 ? form[1].As<int64_t>() : nullptr;
    if (id == nullptr) return Malformed("readable");
    EDGE_ASSIGN_OR_RETURN(HookPtr hook, references_.TakeReadable(*id));
    return Value(ReadableRef{std::move(hook)});
  }

  StatusOr<Value> RunWritable(Array& form) {
    const int64_t* id = form.size() == 2 ? form[1].As<int64_t>() : nullptr;
    if (id == nullptr || *id >= 0) return Malformed("writable");
    EDGE_ASSIGN_OR_RETURN(HookPtr hook, references_.IntroduceWritable(*id));
    return Value(WritableRef{std::move(hook)});
  }

  // A promise of the whole blob: it is in its place before a method sees it.
  StatusOr<Value> RunBlob(Array& form) {
    Array* content = form.size() == 3 ? form[2].As<Array>() : nullptr;
    if (content == nullptr || form[1].string() == nullptr || content->size() != 2 ||
        (*content)[0].string() == nullptr || *(*content)[0].string() != "readable")
      return Malformed("blob");
    EDGE_ASSIGN_OR_RETURN(Value stream, RunReadable(*content));
    return Value(
        PromiseRef{CollectBlob(std::move(*form[1].As<std::string>()),
                               std::move(stream.As<ReadableRef>()->hook), limits_.blob_bytes_max)});
  }

  StatusOr<Value> RunBody(Value json, std::string_view tag, size_t depth) {
    EDGE_ASSIGN_OR_RETURN(Value body, Run(std::move(json), depth + 1));
    if (body.kind() != Value::Kind::kNull && body.string() == nullptr &&
        body.As<BytesValue>() == nullptr && body.As<ReadableRef>() == nullptr)
      return InvalidArgument("the body of a {} cannot be a {}", tag, KindName(body.kind()));
    return body;
  }

  StatusOr<Value> RunRequest(Array& form, size_t depth) {
    Object* init = form.size() == 3 ? form[2].As<Object>() : nullptr;
    if (init == nullptr || form[1].string() == nullptr) return Malformed("request");
    Request request;
    request.url = std::move(*form[1].As<std::string>());
    for (Member& member : init->members()) {
      if (IsHiddenKey(member.key)) continue;
      if (member.key == "method") {
        if (member.value.string() == nullptr) return Malformed("request");
        request.method = std::move(*member.value.As<std::string>());
      } else if (member.key == "headers") {
        EDGE_ASSIGN_OR_RETURN(request.headers, ReadHeaders(member.value));
      } else if (member.key == "body") {
        EDGE_ASSIGN_OR_RETURN(request.body, RunBody(std::move(member.value), "request", depth));
      } else if (member.key == "signal") {
        return InvalidArgument("a request with a signal");
      } else {
        request.options.members().push_back(std::move(member));
      }
    }
    return Value(std::move(request));
  }

  StatusOr<Value> RunResponse(Array& form, size_t depth) {
    Object* init = form.size() == 3 ? form[2].As<Object>() : nullptr;
    if (init == nullptr) return Malformed("response");
    Response response;
    EDGE_ASSIGN_OR_RETURN(response.body, RunBody(std::move(form[1]), "response", depth));
    for (Member& member : init->members()) {
      if (IsHiddenKey(member.key)) continue;
      if (member.key == "status") {
        const int64_t* status = member.value.As<int64_t>();
        if (status == nullptr || *status < 200 || *status > 599) return Malformed("response");
        response.status = static_cast<int>(*status);
      } else if (member.key == "statusText") {
        if (member.value.string() == nullptr) return Malformed("response");
        response.status_text = std::move(*member.value.As<std::string>());
      } else if (member.key == "headers") {
        EDGE_ASSIGN_OR_RETURN(response.headers, ReadHeaders(member.value));
      } else if (member.key == "webSocket") {
        return InvalidArgument("a response with a web socket");
      } else {
        response.options.members().push_back(std::move(member));
      }
    }
    return Value(std::move(response));
  }

  StatusOr<Value> RunMap(Array& form, size_t) {
    const int64_t* id = form.size() == 5 ? form[1].As<int64_t>() : nullptr;
    if (id == nullptr || form[2].array() == nullptr || form[3].array() == nullptr ||
        form[4].array() == nullptr)
      return Malformed("remap");
    EDGE_ASSIGN_OR_RETURN(const Path path, ReadPath(*form[2].array()));
    MapProgram program;
    for (const Value& capture : *form[3].array()) {
      const Array* parts = capture.array();
      const int64_t* captured =
          parts != nullptr && parts->size() == 2 ? (*parts)[1].As<int64_t>() : nullptr;
      const std::string* tag = captured == nullptr ? nullptr : (*parts)[0].string();
      if (tag == nullptr) return Malformed("remap");
      HookPtr hook;
      if (*tag == "import") {
        EDGE_ASSIGN_OR_RETURN(hook, references_.Resolve(*captured, {}, std::nullopt));
      } else if (*tag == "export" && *captured < 0) {
        EDGE_ASSIGN_OR_RETURN(hook, references_.Introduce(*captured, false));
      } else {
        return Malformed("remap");
      }
      program.captures.push_back(std::move(hook));
    }
    program.instructions = std::move(*form[4].As<Array>());
    if (program.instructions.empty()) return InvalidArgument("a map without instructions");
    EDGE_ASSIGN_OR_RETURN(HookPtr result, references_.Map(*id, path, std::move(program)));
    return Value(PromiseRef{std::move(result)});
  }

  const SessionLimits& limits_;
  References& references_;
};

class Writer {
 public:
  Writer(const SessionLimits& limits, References& references, MessageWriter& out)
      : limits_(limits), references_(references), out_(out) {}

  Status Write(const Value& value, size_t depth) {
    if (depth > limits_.depth_max)
      return InvalidArgument("the value is nested deeper than {}", limits_.depth_max);
    switch (value.kind()) {
      case Value::Kind::kUndefined:
        Lone(Word::kUndefined);
        break;
      case Value::Kind::kNull:
        out_.Null();
        break;
      case Value::Kind::kBool:
        out_.Bool(*value.As<bool>());
        break;
      case Value::Kind::kInt:
        WriteInteger(*value.As<int64_t>());
        break;
      case Value::Kind::kDouble:
        WriteDouble(*value.As<double>());
        break;
      case Value::Kind::kBigInt:
        if (!IsDecimal(value.As<BigInt>()->decimal))
          return InvalidArgument("a BigInt that is not a decimal number");
        Tagged(Word::kBigInt, value.As<BigInt>()->decimal);
        break;
      case Value::Kind::kString:
        out_.String(*value.string());
        break;
      case Value::Kind::kBytes:
        WriteBytes(*value.As<BytesValue>());
        break;
      case Value::Kind::kDate:
        WriteDate(value.As<Date>()->ms);
        break;
      case Value::Kind::kUrl:
        Tagged(Word::kUrl, value.As<Url>()->href);
        break;
      case Value::Kind::kHeaders:
        WriteHeaders(*value.As<Headers>());
        break;
      case Value::Kind::kError:
        WriteError(*value.As<ErrorValue>(), depth);
        break;
      case Value::Kind::kArray:
        out_.BeginArray(1);
        EDGE_RETURN_IF_ERROR(WriteItems(*value.array(), depth));
        out_.EndArray();
        break;
      case Value::Kind::kObject:
        return WriteObject(*value.object(), depth);
      case Value::Kind::kStub:
        return references_.Name(value.As<StubRef>()->hook, false, out_);
      case Value::Kind::kPromise:
        // One that is kept goes as what it became: one entry and two messages fewer.
        if (const Value* kept = KeptValue(value.As<PromiseRef>()->hook))
          return Write(*kept, depth + 1);
        return references_.Name(value.As<PromiseRef>()->hook, true, out_);
      case Value::Kind::kReadable:
        return references_.NameReadable(value.As<ReadableRef>()->hook, out_);
      case Value::Kind::kWritable:
        return references_.NameWritable(value.As<WritableRef>()->hook, out_);
      case Value::Kind::kBlob:
        return WriteBlob(*value.As<Blob>());
      case Value::Kind::kRequest:
        return WriteRequest(*value.As<Request>(), depth);
      case Value::Kind::kResponse:
        return WriteResponse(*value.As<Response>(), depth);
    }
    return OkStatus();
  }

  Status WriteItems(const Array& items, size_t depth) {
    out_.BeginArray(items.size());
    for (const Value& item : items) EDGE_RETURN_IF_ERROR(Write(item, depth + 1));
    out_.EndArray();
    return OkStatus();
  }

 private:
  void Lone(Word tag) {
    out_.BeginArray(1);
    out_.Put(tag);
    out_.EndArray();
  }

  void Tagged(Word tag, std::string_view text) {
    out_.BeginArray(2);
    out_.Put(tag);
    out_.String(text);
    out_.EndArray();
  }

  void WriteInteger(int64_t value) {
    constexpr int64_t kExactMax = int64_t{1} << 53;
    if (value >= -kExactMax && value <= kExactMax) {
      out_.Int(value);
    } else {
      Tagged(Word::kBigInt, std::to_string(value));
    }
  }

  void WriteDouble(double value) {
    if (std::isfinite(value)) {
      out_.Double(value);
    } else {
      Lone(std::isnan(value) ? Word::kNan : value > 0 ? Word::kInf : Word::kMinusInf);
    }
  }

  void WriteDate(double ms) {
    out_.BeginArray(2);
    out_.Put(Word::kDate);
    if (std::isfinite(ms)) {
      out_.Double(ms);
    } else {
      out_.Null();
    }
    out_.EndArray();
  }

  void WriteBytes(const BytesValue& bytes) {
    const bool plain = bytes.kind == BytesKind::kUint8Array;
    out_.BeginArray(plain ? 2 : 3);
    out_.Put(Word::kBytes);
    out_.Bytes(bytes.bytes);
    if (!plain) out_.String(BytesKindName(bytes.kind));
    out_.EndArray();
  }

  void WriteHeaders(const Headers& headers) {
    out_.BeginArray(2);
    out_.Put(Word::kHeaders);
    WritePairs(headers);
    out_.EndArray();
  }

  void WritePairs(const Headers& headers) {
    out_.BeginArray(headers.entries.size());
    for (const auto& [name, value] : headers.entries) {
      out_.BeginArray(2);
      out_.String(name);
      out_.String(value);
      out_.EndArray();
    }
    out_.EndArray();
  }

  Status WriteBlob(const Blob& blob) {
    out_.BeginArray(3);
    out_.Put(Word::kBlob);
    out_.String(blob.type);
    EDGE_RETURN_IF_ERROR(references_.NameReadable(StreamOfBytes(blob.bytes), out_));
    out_.EndArray();
    return OkStatus();
  }

  Status WriteBody(const Value& body, std::string_view tag, size_t depth) {
    if (body.kind() != Value::Kind::kNull && body.string() == nullptr &&
        body.As<BytesValue>() == nullptr && body.As<ReadableRef>() == nullptr)
      return InvalidArgument("the body of a {} cannot be a {}", tag, KindName(body.kind()));
    return Write(body, depth + 1);
  }

  // The members of an init object that both have: `own` more were or will be written.
  void BeginInit(const Headers& headers, const Object& options, size_t own) {
    out_.BeginObject(own + options.size() + (headers.entries.empty() ? 0 : 1));
    if (headers.entries.empty()) return;
    out_.Key("headers");
    WritePairs(headers);
  }
  Status EndInit(const Object& options) {
    for (const Member& member : options.members()) {
      out_.Key(member.key);
      if (!WriteTree(member.value, out_))
        return InvalidArgument("the option '{}' is not plain JSON", member.key);
    }
    out_.EndObject();
    out_.EndArray();
    return OkStatus();
  }

  Status WriteRequest(const Request& request, size_t depth) {
    const bool has_body = request.body.kind() != Value::Kind::kNull;
    const bool adds_duplex = has_body && request.options.Find("duplex") == nullptr;
    out_.BeginArray(3);
    out_.Put(Word::kRequest);
    out_.String(request.url);
    BeginInit(request.headers, request.options,
              size_t{1} + (has_body ? 1 : 0) + (adds_duplex ? 1 : 0));
    out_.Key("method");
    out_.String(request.method);
    if (has_body) {
      out_.Key("body");
      EDGE_RETURN_IF_ERROR(WriteBody(request.body, "request", depth));
    }
    if (adds_duplex) {
      out_.Key("duplex");
      out_.String("half");
    }
    return EndInit(request.options);
  }

  Status WriteResponse(const Response& response, size_t depth) {
    out_.BeginArray(3);
    out_.Put(Word::kResponse);
    EDGE_RETURN_IF_ERROR(WriteBody(response.body, "response", depth));
    BeginInit(response.headers, response.options, response.status_text.empty() ? 1 : 2);
    out_.Key("status");
    out_.Int(response.status);
    if (!response.status_text.empty()) {
      out_.Key("statusText");
      out_.String(response.status_text);
    }
    return EndInit(response.options);
  }

  // Properties of errors are a courtesy: those that cannot be sent are left out.
  void WriteError(const ErrorValue& error, size_t depth) {
    std::vector<std::pair<std::string_view, std::string>> properties;
    for (const Member& member : error.properties.members()) {
      References none;
      std::string written;
      MessageWriter writer(&written, out_.codec());
      if (Writer(limits_, none, writer).Write(member.value, depth + 2).ok())
        properties.emplace_back(member.key, std::move(written));
    }
    const bool has_stack = error.stack && limits_.reveals_internals;
    out_.BeginArray(!properties.empty() ? 5 : has_stack ? 4 : 3);
    out_.Put(Word::kError);
    out_.String(error.name);
    out_.String(error.message);
    if (has_stack) {
      out_.String(*error.stack);
    } else if (!properties.empty()) {
      out_.Null();
    }
    if (!properties.empty()) {
      out_.BeginObject(properties.size());
      for (const auto& [key, written] : properties) {
        out_.Key(key);
        out_.Raw(written);
      }
      out_.EndObject();
    }
    out_.EndArray();
  }

  Status WriteObject(const Object& object, size_t depth) {
    out_.BeginObject(object.size());
    for (const Member& member : object.members()) {
      out_.Key(member.key);
      EDGE_RETURN_IF_ERROR(Write(member.value, depth + 1));
    }
    out_.EndObject();
    return OkStatus();
  }

  const SessionLimits& limits_;
  References& references_;
  MessageWriter& out_;
};

}  // namespace

StatusOr<Value> Evaluate(Value json, const SessionLimits& limits, References& references) {
  return Evaluator(limits, references).Run(std::move(json), 0);
}

StatusOr<Array> EvaluateArguments(Array items, const SessionLimits& limits,
                                  References& references) {
  EDGE_RETURN_IF_ERROR(Evaluator(limits, references).RunEach(items, 1));
  return items;
}

Status WriteExpression(const Value& value, const SessionLimits& limits, References& references,
                       MessageWriter& out) {
  return Writer(limits, references, out).Write(value, 0);
}

Status WriteArguments(const Array& args, const SessionLimits& limits, References& references,
                      MessageWriter& out) {
  return Writer(limits, references, out).WriteItems(args, 0);
}

void WritePath(PathView path, MessageWriter& out) {
  out.BeginArray(path.size());
  for (const std::string_view name : path) {
    int64_t index = 0;
    const bool is_index = !name.empty() && name.size() <= 15 && (name[0] != '0' || name == "0") &&
                          std::ranges::all_of(name, [](char c) { return c >= '0' && c <= '9'; });
    if (is_index) {
      std::from_chars(name.data(), name.data() + name.size(), index);
      out.Int(index);
    } else {
      out.String(name);
    }
  }
  out.EndArray();
}

bool WriteTree(const Value& tree, MessageWriter& out) {
  switch (tree.kind()) {
    case Value::Kind::kNull:
      out.Null();
      return true;
    case Value::Kind::kBool:
      out.Bool(*tree.As<bool>());
      return true;
    case Value::Kind::kInt:
      out.Int(*tree.As<int64_t>());
      return true;
    case Value::Kind::kDouble:
      if (!std::isfinite(tree.number())) return false;
      out.Double(tree.number());
      return true;
    case Value::Kind::kString:
      out.String(*tree.string());
      return true;
    case Value::Kind::kBytes:  // of a binary message
      out.Bytes(tree.As<BytesValue>()->bytes);
      return true;
    case Value::Kind::kArray:
      out.BeginArray(tree.array()->size());
      for (const Value& item : *tree.array())
        if (!WriteTree(item, out)) return false;
      out.EndArray();
      return true;
    case Value::Kind::kObject:
      out.BeginObject(tree.object()->size());
      for (const Member& member : tree.object()->members()) {
        out.Key(member.key);
        if (!WriteTree(member.value, out)) return false;
      }
      out.EndObject();
      return true;
    default:
      return false;
  }
}

StatusOr<std::string> Encode(const Value& value) {
  References none;
  std::string text;
  SessionLimits limits;
  limits.reveals_internals = true;  // it goes to nobody
  MessageWriter writer(&text);
  EDGE_RETURN_IF_ERROR(WriteExpression(value, limits, none, writer));
  return text;
}

StatusOr<Value> Decode(std::string_view text) {
  References none;
  const SessionLimits limits;
  EDGE_ASSIGN_OR_RETURN(Value json, ParseJson(text, 2 * limits.depth_max + 16));
  return Evaluate(std::move(json), limits, none);
}

}  // namespace edge::rpc
