// inference/json_schema.cc - a JSON schema as grammar rules.
//
// A rule admits only values that the schema accepts, spelt in one way: members in order, one
// space after "," and ":". What cannot be enforced is refused, never ignored.
#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "edge/base/errors.h"
#include "inference/grammar_rules.h"
#include "inference/unicode.h"

namespace edge::inference {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint32_t kDepthMax = 64;
constexpr size_t kRulesMax = 20'000;

// Say nothing about which values are valid.
const std::set<std::string_view> kAnnotations = {
    "title",    "description",      "default",         "examples",  "$schema", "$id",
    "$comment", "deprecated",       "readOnly",        "writeOnly", "$defs",   "definitions",
    "$anchor",  "contentMediaType", "contentEncoding", "strict",    "name"};

Expression Literal(std::string_view text) {
  return Expression::Literal(text);
}
Expression Digit(char first, char last) {
  return Expression::Class({{static_cast<char32_t>(first), static_cast<char32_t>(last)}});
}
Expression Digits(uint32_t min, uint32_t max) {
  return Expression::Repeat(Digit('0', '9'), min, max);
}
Expression Optional(Expression e) {
  return Expression::Repeat(std::move(e), 0, 1);
}

// Text as JSON writes it, with our spaces.
std::string Dump(const Json& value) {
  std::string out;
  if (value.is_object() || value.is_array()) {
    out += value.is_object() ? '{' : '[';
    bool first = true;
    for (auto it = value.begin(); it != value.end(); ++it) {
      if (!first) out += ", ";
      first = false;
      if (value.is_object()) out += Json(it.key()).dump() + ": ";
      out += Dump(*it);
    }
    out += value.is_object() ? '}' : ']';
    return out;
  }
  return value.dump();
}

// Decimal numbers of equal length between `low` and `high`, from digit `i` on.
Expression DigitsBetween(const std::string& low, const std::string& high, size_t i, bool at_low,
                         bool at_high) {
  const auto left = static_cast<uint32_t>(low.size() - i);
  if (!at_low && !at_high) return Digits(left, left);
  if (left == 0) return Literal("");
  const char first = at_low ? low[i] : '0', last = at_high ? high[i] : '9';
  std::vector<Expression> choices;
  auto add = [&](char from, char to, bool low_edge, bool high_edge) {
    if (from > to) return;
    choices.push_back(Expression::Sequence(
        {Digit(from, to), DigitsBetween(low, high, i + 1, low_edge, high_edge)}));
  };
  if (first == last) {
    add(first, last, at_low, at_high);
  } else {
    const char from = at_low ? static_cast<char>(first + 1) : first;
    const char to = at_high ? static_cast<char>(last - 1) : last;
    if (at_low) add(first, first, true, false);
    add(from, to, false, false);
    if (at_high) add(last, last, false, true);
  }
  return Expression::Choice(std::move(choices));
}

// Integers in [low, high], 0 <= low.
Expression NaturalsBetween(uint64_t low, uint64_t high) {
  std::vector<Expression> choices;
  for (uint64_t start = low; start <= high;) {
    uint64_t power = 10;  // above all numbers with as many digits as `start`
    while (power <= start) power *= 10;
    const uint64_t end = std::min(high, power - 1);
    choices.push_back(DigitsBetween(std::to_string(start), std::to_string(end), 0, true, true));
    start = end + 1;
  }
  return Expression::Choice(std::move(choices));
}

class SchemaCompiler {
 public:
  StatusOr<RuleSet> Compile(const Json& root) {
    root_ = &root;
    const uint32_t start = Rule("root");
    EDGE_ASSIGN_OR_RETURN(rules_.bodies[start], Schema(root, "#", 0));
    return std::move(rules_);
  }

 private:
  static Status Bad(const std::string& path, std::string_view what) {
    return InvalidArgument("schema, {}: {}", path, what);
  }
  static Status Unknown(const std::string& path, std::string_view keyword) {
    return Unimplemented("schema, {}: \"{}\" cannot be enforced", path, keyword);
  }

  uint32_t Rule(std::string name) {
    rules_.names.push_back(std::move(name));
    rules_.bodies.emplace_back();
    return static_cast<uint32_t>(rules_.names.size() - 1);
  }
  // A rule of our own, made when it is first needed.
  template <typename Make>
  Expression Shared(const std::string& name, Make make) {
    const auto found = shared_.find(name);
    if (found != shared_.end()) return Expression::Rule(found->second);
    const uint32_t rule = Rule(name);
    shared_.emplace(name, rule);
    Expression body = make();
    rules_.bodies[rule] = std::move(body);
    return Expression::Rule(rule);
  }

  // ---- Values without constraints ----

  Expression Character() {
    return Shared("character", [] {
      const Expression hex = Expression::Class({{'0', '9'}, {'a', 'f'}, {'A', 'F'}});
      const Expression outside =
          Expression::Class({{'0', '9'}, {'a', 'c'}, {'e', 'f'}, {'A', 'C'}, {'E', 'F'}});
      const Expression d = Expression::Class({{'d', 'd'}, {'D', 'D'}});
      // Halves of surrogate pairs are not characters.
      const Expression unicode = Expression::Choice(
          {Expression::Sequence({outside, Expression::Repeat(hex, 3, 3)}),
           Expression::Sequence({d, Digit('0', '7'), Expression::Repeat(hex, 2, 2)})});
      return Expression::Choice(
          {Expression::Class(Complement({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}})),
           Expression::Sequence(
               {Literal("\\"),
                Expression::Choice({Expression::Class({{'"', '"'},
                                                       {'\\', '\\'},
                                                       {'/', '/'},
                                                       {'b', 'b'},
                                                       {'f', 'f'},
                                                       {'n', 'n'},
                                                       {'r', 'r'},
                                                       {'t', 't'}}),
                                    Expression::Sequence({Literal("u"), unicode})})})});
    });
  }
  Expression String(uint32_t min, uint32_t max) {
    return Expression::Sequence(
        {Literal("\""), Expression::Repeat(Character(), min, max), Literal("\"")});
  }
  Expression AnyString() {
    return Shared("string", [&] { return String(0, Expression::kUnbounded); });
  }
  // No more than 15 digits: a double holds them all.
  static Expression Natural() {
    return Expression::Choice(
        {Literal("0"), Expression::Sequence({Digit('1', '9'), Digits(0, 14)})});
  }
  Expression AnyInteger() {
    return Shared("integer", [] {
      return Expression::Sequence({Optional(Literal("-")), Natural()});
    });
  }
  static Expression Positive() {
    return Expression::Sequence(
        {Natural(), Optional(Expression::Sequence({Literal("."), Digits(1, 15)})),
         Optional(Expression::Sequence({Expression::Class({{'e', 'e'}, {'E', 'E'}}),
                                        Optional(Expression::Class({{'+', '+'}, {'-', '-'}})),
                                        Digit('1', '9'), Optional(Digit('0', '9'))}))});
  }
  Expression AnyNumber() {
    return Shared("number", [] {
      return Expression::Sequence({Optional(Literal("-")), Positive()});
    });
  }
  static Expression List(const Expression& item, uint32_t min, uint32_t max) {
    if (max == 0) return Literal("");
    const uint32_t more = max == Expression::kUnbounded ? max : max - 1;
    Expression list =
        Expression::Sequence({item, Expression::Repeat(Expression::Sequence({Literal(", "), item}),
                                                       min > 0 ? min - 1 : 0, more)});
    return min == 0 ? Optional(std::move(list)) : list;
  }
  Expression Any() {
    return Shared("value", [&] {
      return Expression::Choice({AnyObject(), AnyArray(), AnyString(), AnyNumber(), Literal("true"),
                                 Literal("false"), Literal("null")});
    });
  }
  Expression AnyObject() {
    return Shared("object", [&] {
      const Expression member = Expression::Sequence({AnyString(), Literal(": "), Any()});
      return Expression::Sequence(
          {Literal("{"), List(member, 0, Expression::kUnbounded), Literal("}")});
    });
  }
  Expression AnyArray() {
    return Shared("array", [&] {
      return Expression::Sequence(
          {Literal("["), List(Any(), 0, Expression::kUnbounded), Literal("]")});
    });
  }

  // ---- Schemas ----

  StatusOr<Expression> Schema(const Json& schema, const std::string& path, uint32_t depth) {
    if (depth > kDepthMax) return Bad(path, "schemas are nested too deeply");
    if (rules_.names.size() > kRulesMax) return ResourceExhausted("schema: too many parts");
    if (schema.is_boolean()) return schema.get<bool>() ? Any() : Expression::Choice({});
    if (!schema.is_object()) return Bad(path, "a schema is an object or a boolean");
    if (schema.contains("$ref")) return Reference(schema, path, depth);
    if (schema.contains("allOf")) return AllOf(schema, path, depth);
    for (const char* key : {"anyOf", "oneOf"}) {
      if (schema.contains(key)) return AnyOf(schema, key, path, depth);
    }
    if (schema.contains("enum") || schema.contains("const")) return Constants(schema, path);
    std::vector<std::string> types;
    EDGE_RETURN_IF_ERROR(Types(schema, path, &types));
    std::vector<Expression> choices;
    std::set<std::string> used = {"type"};
    for (const std::string& type : types) {
      EDGE_ASSIGN_OR_RETURN(Expression e, OfType(schema, type, path, depth, &used));
      choices.push_back(std::move(e));
    }
    EDGE_RETURN_IF_ERROR(RefuseOthers(schema, path, used));
    return choices.size() == 1 ? std::move(choices[0]) : Expression::Choice(std::move(choices));
  }

  static Status RefuseOthers(const Json& schema, const std::string& path,
                             const std::set<std::string>& used) {
    for (auto it = schema.begin(); it != schema.end(); ++it) {
      if (used.count(it.key()) == 0 && kAnnotations.count(it.key()) == 0) {
        return Unknown(path, it.key().substr(0, 80));
      }
    }
    return OkStatus();
  }

  // The types that a schema names, or that its other keywords are about.
  static Status Types(const Json& schema, const std::string& path,
                      std::vector<std::string>* types) {
    static const std::set<std::string> kKnown = {"object",  "array",   "string", "number",
                                                 "integer", "boolean", "null"};
    if (schema.contains("type")) {
      const Json& type = schema["type"];
      for (const Json& one : type.is_array() ? type : Json::array({type})) {
        if (!one.is_string() || kKnown.count(one.get<std::string>()) == 0) {
          return Bad(path, "an unknown type");
        }
        types->push_back(one.get<std::string>());
      }
      return OkStatus();
    }
    if (schema.contains("properties") || schema.contains("required") ||
        schema.contains("additionalProperties")) {
      *types = {"object"};
    } else if (schema.contains("items") || schema.contains("prefixItems")) {
      *types = {"array"};
    } else if (schema.contains("minLength") || schema.contains("maxLength") ||
               schema.contains("format")) {
      *types = {"string"};
    } else {
      *types = {"any"};
    }
    return OkStatus();
  }

  StatusOr<Expression> OfType(const Json& schema, const std::string& type, const std::string& path,
                              uint32_t depth, std::set<std::string>* used) {
    if (type == "any") return Any();
    if (type == "null") return Literal("null");
    if (type == "boolean") return Expression::Choice({Literal("true"), Literal("false")});
    if (type == "string") return StringOf(schema, path, used);
    if (type == "integer") return IntegerOf(schema, path, used);
    if (type == "number") return NumberOf(schema, used);
    if (type == "array") return ArrayOf(schema, path, depth, used);
    return ObjectOf(schema, path, depth, used);
  }

  static StatusOr<uint32_t> Bound(const Json& schema, const char* key, uint32_t fallback,
                                  const std::string& path, std::set<std::string>* used) {
    used->insert(key);
    if (!schema.contains(key)) return fallback;
    const Json& value = schema[key];
    if (!value.is_number_unsigned() && !(value.is_number_integer() && value.get<int64_t>() >= 0)) {
      return Bad(path, std::string(key) + " is not a whole number");
    }
    if (value.get<uint64_t>() > 100'000) return Bad(path, std::string(key) + " is above 100000");
    return value.get<uint32_t>();
  }

  StatusOr<Expression> StringOf(const Json& schema, const std::string& path,
                                std::set<std::string>* used) {
    EDGE_ASSIGN_OR_RETURN(const uint32_t min, Bound(schema, "minLength", 0, path, used));
    EDGE_ASSIGN_OR_RETURN(const uint32_t max,
                          Bound(schema, "maxLength", Expression::kUnbounded, path, used));
    used->insert("format");
    if (schema.contains("format")) {
      if (!schema["format"].is_string()) return Bad(path, "format is not a string");
      if (auto format = Format(schema["format"].get<std::string>())) {
        if (min > 0 || max != Expression::kUnbounded) return Unknown(path, "format and a length");
        return Expression::Sequence({Literal("\""), std::move(*format), Literal("\"")});
      }
    }
    if (max < min) return Expression::Choice({});
    if (min == 0 && max == Expression::kUnbounded) return AnyString();
    return String(min, max);
  }

  // Empty for a format that is only a hint.
  static std::optional<Expression> Format(const std::string& name) {
    auto two = [](uint64_t low, uint64_t high) {
      const std::string from = (low < 10 ? "0" : "") + std::to_string(low);
      return DigitsBetween(from, std::to_string(high), 0, true, true);
    };
    // February has 28 days here: a date that is always one.
    auto date = [&] {
      const auto month = [&](std::vector<std::string_view> names, uint64_t days) {
        std::vector<Expression> months;
        for (const auto text : names) months.push_back(Literal(text));
        return Expression::Sequence(
            {Expression::Choice(std::move(months)), Literal("-"), two(1, days)});
      };
      return Expression::Sequence(
          {Digits(4, 4), Literal("-"),
           Expression::Choice({month({"01", "03", "05", "07", "08", "10", "12"}, 31),
                               month({"04", "06", "09", "11"}, 30), month({"02"}, 28)})});
    };
    auto time = [&] {
      const Expression zone = Expression::Choice(
          {Literal("Z"), Expression::Sequence({Expression::Class({{'+', '+'}, {'-', '-'}}),
                                               two(0, 23), Literal(":"), two(0, 59)})});
      return Expression::Sequence({two(0, 23), Literal(":"), two(0, 59), Literal(":"), two(0, 59),
                                   Optional(Expression::Sequence({Literal("."), Digits(1, 9)})),
                                   zone});
    };
    if (name == "date") return date();
    if (name == "time") return time();
    if (name == "date-time") return Expression::Sequence({date(), Literal("T"), time()});
    if (name == "uuid") {
      const Expression hex = Expression::Class({{'0', '9'}, {'a', 'f'}});
      std::vector<Expression> parts;
      for (const uint32_t count : {8u, 4u, 4u, 4u, 12u}) {
        if (!parts.empty()) parts.push_back(Literal("-"));
        parts.push_back(Expression::Repeat(hex, count, count));
      }
      return Expression::Sequence(std::move(parts));
    }
    return std::nullopt;
  }

  StatusOr<Expression> IntegerOf(const Json& schema, const std::string& path,
                                 std::set<std::string>* used) {
    constexpr int64_t kMost = 999'999'999'999'999;
    int64_t low = -kMost, high = kMost;
    for (const char* key : {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"}) {
      used->insert(key);
      if (!schema.contains(key)) continue;
      if (!schema[key].is_number()) return Bad(path, std::string(key) + " is not a number");
      const bool minimum = key[1] == 'i' || std::string_view(key) == "exclusiveMinimum";
      const bool exclusive = key[0] == 'e';
      const double value = std::clamp(schema[key].get<double>(), -2e15, 2e15);
      const double whole = minimum ? std::ceil(value) : std::floor(value);
      auto bound = static_cast<int64_t>(whole);
      if (exclusive && whole == value) bound += minimum ? 1 : -1;
      minimum ? low = std::max(low, bound) : high = std::min(high, bound);
    }
    if (low == -kMost && high == kMost) return AnyInteger();
    std::vector<Expression> choices;
    if (low < 0 && low <= high) {
      const auto nearest = static_cast<uint64_t>(high < 0 ? -high : 1);
      choices.push_back(Expression::Sequence(
          {Literal("-"), NaturalsBetween(nearest, static_cast<uint64_t>(-low))}));
    }
    if (high >= 0 && low <= high) {
      choices.push_back(NaturalsBetween(static_cast<uint64_t>(std::max<int64_t>(low, 0)),
                                        static_cast<uint64_t>(high)));
    }
    return Expression::Choice(std::move(choices));
  }

  StatusOr<Expression> NumberOf(const Json& schema, std::set<std::string>* used) {
    // The one bound that digits can show.
    if (schema.contains("minimum") && schema["minimum"].is_number() &&
        schema["minimum"].get<double>() == 0) {
      used->insert("minimum");
      return Positive();
    }
    return AnyNumber();
  }

  StatusOr<Expression> ArrayOf(const Json& schema, const std::string& path, uint32_t depth,
                               std::set<std::string>* used) {
    EDGE_ASSIGN_OR_RETURN(const uint32_t min, Bound(schema, "minItems", 0, path, used));
    EDGE_ASSIGN_OR_RETURN(uint32_t max,
                          Bound(schema, "maxItems", Expression::kUnbounded, path, used));
    used->insert({"items", "prefixItems"});
    std::vector<Expression> prefix;
    if (schema.contains("prefixItems")) {
      if (!schema["prefixItems"].is_array()) return Bad(path, "prefixItems is not an array");
      for (const Json& item : schema["prefixItems"]) {
        EDGE_ASSIGN_OR_RETURN(
            Expression e,
            Schema(item, path + "/prefixItems/" + std::to_string(prefix.size()), depth + 1));
        prefix.push_back(std::move(e));
      }
    }
    Expression item = Any();
    if (schema.contains("items")) {
      EDGE_ASSIGN_OR_RETURN(item, Schema(schema["items"], path + "/items", depth + 1));
      if (schema["items"] == false) {
        max = std::min<uint32_t>(max, static_cast<uint32_t>(prefix.size()));
      }
    }
    if (max < min) return Expression::Choice({});
    if (prefix.empty()) {
      return Expression::Sequence({Literal("["), List(item, min, max), Literal("]")});
    }
    // All of the prefix is written, whatever `minItems` says, if there may be so many.
    if (max < prefix.size()) prefix.resize(max);
    std::vector<Expression> parts = {Literal("[")};
    for (size_t i = 0; i < prefix.size(); ++i) {
      if (i > 0) parts.push_back(Literal(", "));
      parts.push_back(std::move(prefix[i]));
    }
    const auto written = static_cast<uint32_t>(prefix.size());
    const uint32_t more = max == Expression::kUnbounded ? max : max - written;
    parts.push_back(Expression::Repeat(Expression::Sequence({Literal(", "), std::move(item)}),
                                       min > written ? min - written : 0, more));
    parts.push_back(Literal("]"));
    return Expression::Sequence(std::move(parts));
  }

  // A string that is none of `names`, in characters that need no escape.
  static Expression KeyBut(const std::vector<std::u32string>& names, size_t at) {
    std::map<char32_t, std::vector<std::u32string>> next;
    bool ends = false;
    for (const std::u32string& name : names) {
      if (name.size() == at) {
        ends = true;
      } else {
        next[name[at]].push_back(name);
      }
    }
    std::vector<CharacterRange> taken = {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}};
    const Expression plain = Expression::Class(Complement(taken));
    std::vector<Expression> choices;
    for (const auto& [c, rest] : next) {
      taken.emplace_back(c, c);
      choices.push_back(Expression::Sequence({Expression::Class({{c, c}}), KeyBut(rest, at + 1)}));
    }
    choices.push_back(Expression::Sequence({Expression::Class(Complement(taken)),
                                            Expression::Repeat(plain, 0, Expression::kUnbounded)}));
    if (!ends) choices.push_back(Literal(""));
    return Expression::Choice(std::move(choices));
  }

  struct Member {
    Expression text;  // "name": value
    bool required;
  };

  StatusOr<Expression> ObjectOf(const Json& schema, const std::string& path, uint32_t depth,
                                std::set<std::string>* used) {
    used->insert({"properties", "required", "additionalProperties"});
    std::set<std::string> required;
    if (schema.contains("required")) {
      if (!schema["required"].is_array()) return Bad(path, "required is not an array");
      for (const Json& name : schema["required"]) {
        if (!name.is_string()) return Bad(path, "a required name is not a string");
        required.insert(name.get<std::string>());
      }
    }
    const Json none = Json::object();
    const Json& properties = schema.contains("properties") ? schema["properties"] : none;
    if (!properties.is_object()) return Bad(path, "properties is not an object");
    const bool has_extra = schema.contains("additionalProperties");
    const bool closed = has_extra && schema["additionalProperties"] == false;
    if (properties.empty() && required.empty() && !has_extra) return AnyObject();
    const Json& extra_schema = has_extra ? schema["additionalProperties"] : none;
    Expression extra;
    if (has_extra && !closed) {
      EDGE_ASSIGN_OR_RETURN(extra, Schema(extra_schema, path + "/additionalProperties", depth + 1));
    }
    std::vector<Member> members;
    std::vector<std::u32string> names;
    auto add = [&](const std::string& name, Expression value, bool needed) {
      members.push_back(
          {Expression::Sequence({Literal(Json(name).dump() + ": "), std::move(value)}), needed});
      std::u32string characters;
      for (std::string_view rest = name; !rest.empty();) {
        const Decoded decoded = DecodeUtf8(rest);
        characters.push_back(decoded.character);
        rest.remove_prefix(decoded.bytes);
      }
      names.push_back(std::move(characters));
    };
    for (auto it = properties.begin(); it != properties.end(); ++it) {
      EDGE_ASSIGN_OR_RETURN(Expression value,
                            Schema(*it, path + "/properties/" + it.key(), depth + 1));
      add(it.key(), std::move(value), required.erase(it.key()) > 0);
    }
    for (const std::string& name : required) {  // named nowhere else
      if (closed) return Expression::Choice({});
      add(name, has_extra ? extra : Any(), true);
    }
    std::optional<Expression> others;
    if (has_extra && !closed) {
      Expression key = AnyString();
      if (!names.empty()) {
        if (std::any_of(names.begin(), names.end(), [](const auto& n) { return n.size() > 200; })) {
          return Bad(path, "a property's name is longer than 200 characters");
        }
        key = Expression::Sequence({Literal("\""), KeyBut(names, 0), Literal("\"")});
      }
      others = Expression::Sequence({std::move(key), Literal(": "), std::move(extra)});
    }
    return Members(members, others);
  }

  // rest[i][p]: what may follow when member i is next, and p says whether one was written.
  Expression Members(const std::vector<Member>& members, const std::optional<Expression>& others) {
    Expression rest[2] = {Literal(""), Literal("")};
    if (others) {
      rest[0] = List(*others, 0, Expression::kUnbounded);
      rest[1] = Expression::Repeat(Expression::Sequence({Literal(", "), *others}), 0,
                                   Expression::kUnbounded);
    }
    for (size_t i = members.size(); i-- > 0;) {
      const uint32_t after = Rule("members");
      rules_.bodies[after] = rest[1];
      for (const bool written : {false, true}) {
        Expression take = Expression::Sequence(
            {Literal(written ? ", " : ""), members[i].text, Expression::Rule(after)});
        if (members[i].required) {
          rest[written] = std::move(take);
          continue;
        }
        const uint32_t skip = Rule("members");
        rules_.bodies[skip] = std::move(rest[written]);
        rest[written] = Expression::Choice({std::move(take), Expression::Rule(skip)});
      }
    }
    return Expression::Sequence({Literal("{"), std::move(rest[0]), Literal("}")});
  }

  static bool IsType(const Json& value, const std::string& type) {
    if (type == "object") return value.is_object();
    if (type == "array") return value.is_array();
    if (type == "string") return value.is_string();
    if (type == "boolean") return value.is_boolean();
    if (type == "null") return value.is_null();
    if (type == "number") return value.is_number();
    if (type == "integer") {
      return value.is_number_integer() ||
             (value.is_number() && std::floor(value.get<double>()) == value.get<double>());
    }
    return true;
  }

  static StatusOr<Expression> Constants(const Json& schema, const std::string& path) {
    EDGE_RETURN_IF_ERROR(RefuseOthers(schema, path, {"type", "enum", "const"}));
    std::vector<std::string> types = {"any"};
    if (schema.contains("type")) {
      types.clear();
      EDGE_RETURN_IF_ERROR(Types(schema, path, &types));
    }
    Json values = schema.contains("enum") ? schema["enum"] : Json::array({schema["const"]});
    if (!values.is_array()) return Bad(path, "enum is not an array");
    std::vector<Expression> choices;
    for (const Json& value : values) {
      const bool typed = std::any_of(types.begin(), types.end(),
                                     [&](const std::string& t) { return IsType(value, t); });
      const bool same = !schema.contains("const") || value == schema["const"];
      if (typed && same) choices.push_back(Literal(Dump(value)));
    }
    return Expression::Choice(std::move(choices));
  }

  StatusOr<Expression> Reference(const Json& schema, const std::string& path, uint32_t depth) {
    EDGE_RETURN_IF_ERROR(RefuseOthers(schema, path, {"$ref"}));
    if (!schema["$ref"].is_string()) return Bad(path, "$ref is not a string");
    const auto target = schema["$ref"].get<std::string>();
    if (target.empty() || target[0] != '#') return Unknown(path, "$ref to another document");
    const auto found = references_.find(target);
    if (found != references_.end()) return Expression::Rule(found->second);
    const Json* at = nullptr;
    try {
      const Json::json_pointer pointer(target.substr(1));
      if (root_->contains(pointer)) at = &root_->at(pointer);
    } catch (const Json::exception&) {
      return Bad(path, "$ref is not a JSON pointer");
    }
    if (at == nullptr) return Bad(path, "$ref points to nothing");
    const uint32_t rule = Rule(target);
    references_.emplace(target, rule);
    EDGE_ASSIGN_OR_RETURN(Expression body, Schema(*at, target, depth + 1));
    rules_.bodies[rule] = std::move(body);
    return Expression::Rule(rule);
  }

  StatusOr<Expression> AnyOf(const Json& schema, const char* key, const std::string& path,
                             uint32_t depth) {
    if (!schema[key].is_array()) return Bad(path, std::string(key) + " is not an array");
    Json base = schema;
    base.erase(key);
    std::vector<Expression> choices;
    for (const Json& one : schema[key]) {
      Json both = one;
      if (one.is_object() && !one.contains("$ref")) {
        EDGE_RETURN_IF_ERROR(Merge(base, &both, path));
      } else {
        EDGE_RETURN_IF_ERROR(RefuseOthers(base, path, {}));
      }
      EDGE_ASSIGN_OR_RETURN(
          Expression e,
          Schema(both, path + "/" + key + "/" + std::to_string(choices.size()), depth + 1));
      choices.push_back(std::move(e));
    }
    return Expression::Choice(std::move(choices));
  }

  StatusOr<Expression> AllOf(const Json& schema, const std::string& path, uint32_t depth) {
    if (!schema["allOf"].is_array()) return Bad(path, "allOf is not an array");
    Json merged = schema;
    merged.erase("allOf");
    for (const Json& one : schema["allOf"]) {
      const Json* part = &one;
      // A reference is looked through, once.
      if (one.is_object() && one.contains("$ref") && one["$ref"].is_string()) {
        const auto target = one["$ref"].get<std::string>();
        try {
          part = &root_->at(Json::json_pointer(target.substr(target.starts_with('#') ? 1 : 0)));
        } catch (const Json::exception&) {
          return Bad(path, "$ref points to nothing");
        }
      }
      if (!part->is_object()) return Unknown(path, "allOf");
      EDGE_RETURN_IF_ERROR(Merge(*part, &merged, path));
    }
    return Schema(merged, path, depth + 1);
  }

  // Adds the constraints of `from` to `to`, where both can be said at once.
  static Status Merge(const Json& from, Json* to, const std::string& path) {
    for (auto it = from.begin(); it != from.end(); ++it) {
      const std::string& key = it.key();
      if (kAnnotations.count(key) != 0) continue;
      if (!to->contains(key)) {
        (*to)[key] = *it;
      } else if (key == "required" && it->is_array() && (*to)[key].is_array()) {
        for (const Json& name : *it) (*to)[key].push_back(name);
      } else if (key == "properties" && it->is_object() && (*to)[key].is_object()) {
        for (auto property = it->begin(); property != it->end(); ++property) {
          Json& all = (*to)[key];
          if (all.contains(property.key()) && all[property.key()] != *property) {
            return Unknown(path, "two schemas of one property");
          }
          all[property.key()] = *property;
        }
      } else if ((*to)[key] != *it) {
        return Unknown(path, key.substr(0, 80) + " in two schemas at once");
      }
    }
    return OkStatus();
  }

  const Json* root_ = nullptr;
  RuleSet rules_;
  std::map<std::string, uint32_t> shared_, references_;
};

// Nesting is limited before anything recurses over the value.
bool TooDeep(std::string_view text) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (quoted) {
      if (text[i] == '\\') {
        ++i;
      } else if (text[i] == '"') {
        quoted = false;
      }
    } else if (text[i] == '"') {
      quoted = true;
    } else if (text[i] == '{' || text[i] == '[') {
      if (++depth > 256) return true;
    } else if (text[i] == '}' || text[i] == ']') {
      --depth;
    }
  }
  return false;
}

}  // namespace

StatusOr<RuleSet> RulesOfJsonSchema(std::string_view schema) {
  if (TooDeep(schema)) return InvalidArgument("schema: nested deeper than 256");
  try {
    const Json root = Json::parse(schema, nullptr, false);
    if (root.is_discarded()) return InvalidArgument("schema: not JSON");
    return SchemaCompiler().Compile(root);
  } catch (const Json::exception& error) {
    return InvalidArgument("schema: {}", error.what());
  }
}

}  // namespace edge::inference
