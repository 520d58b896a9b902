// What an object's SQL may do. SQLite asks while it compiles a statement, once for each thing
// that the statement would touch; a refusal fails the compilation.
#include <sqlite3.h>

#include <algorithm>
#include <cctype>
#include <string>
#include <string_view>

#include "durable/sql_engine.h"

namespace edge::durable::internal {
namespace {

bool EqualIgnoringCase(std::string_view a, std::string_view b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](char x, char y) {
           return std::tolower(static_cast<unsigned char>(x)) ==
                  std::tolower(static_cast<unsigned char>(y));
         });
}

// Names that begin with "_cf_" are the runtime's own.
bool NameIsFree(const char* name) {
  return name == nullptr || !EqualIgnoringCase(std::string_view(name).substr(0, 4), "_cf_");
}

template <size_t N>
bool Contains(const std::string_view (&sorted)[N], std::string_view name) {
  return std::binary_search(std::begin(sorted), std::end(sorted), name);
}

std::string Lower(const char* text) {
  std::string lower(text == nullptr ? "" : text);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return lower;
}

// Sorted. Left out: what tells of the build or the connection (sqlite_version and its kin),
// and fts3_tokenizer, which takes pointers.
constexpr std::string_view kFunctions[] = {"->",
                                           "->>",
                                           "abs",
                                           "acos",
                                           "acosh",
                                           "asin",
                                           "asinh",
                                           "atan",
                                           "atan2",
                                           "atanh",
                                           "avg",
                                           "bm25",
                                           "ceil",
                                           "ceiling",
                                           "changes",
                                           "char",
                                           "coalesce",
                                           "concat",
                                           "concat_ws",
                                           "cos",
                                           "cosh",
                                           "count",
                                           "cume_dist",
                                           "current_date",
                                           "current_time",
                                           "current_timestamp",
                                           "date",
                                           "datetime",
                                           "degrees",
                                           "dense_rank",
                                           "exp",
                                           "first_value",
                                           "floor",
                                           "format",
                                           "glob",
                                           "group_concat",
                                           "hex",
                                           "highlight",
                                           "ifnull",
                                           "iif",
                                           "instr",
                                           "json",
                                           "json_array",
                                           "json_array_length",
                                           "json_each",
                                           "json_error_position",
                                           "json_extract",
                                           "json_group_array",
                                           "json_group_object",
                                           "json_insert",
                                           "json_object",
                                           "json_patch",
                                           "json_quote",
                                           "json_remove",
                                           "json_replace",
                                           "json_set",
                                           "json_tree",
                                           "json_type",
                                           "json_valid",
                                           "jsonb",
                                           "jsonb_array",
                                           "jsonb_extract",
                                           "jsonb_group_array",
                                           "jsonb_group_object",
                                           "jsonb_insert",
                                           "jsonb_object",
                                           "jsonb_patch",
                                           "jsonb_remove",
                                           "jsonb_replace",
                                           "jsonb_set",
                                           "julianday",
                                           "lag",
                                           "last_insert_rowid",
                                           "last_value",
                                           "lead",
                                           "length",
                                           "like",
                                           "likelihood",
                                           "likely",
                                           "ln",
                                           "load_extension",
                                           "log",
                                           "log10",
                                           "log2",
                                           "lower",
                                           "ltrim",
                                           "match",
                                           "max",
                                           "median",
                                           "min",
                                           "mod",
                                           "nth_value",
                                           "ntile",
                                           "nullif",
                                           "octet_length",
                                           "percent_rank",
                                           "percentile",
                                           "pi",
                                           "pow",
                                           "power",
                                           "printf",
                                           "quote",
                                           "radians",
                                           "random",
                                           "randomblob",
                                           "rank",
                                           "regexp",
                                           "replace",
                                           "round",
                                           "row_number",
                                           "rtreecheck",
                                           "rtreedepth",
                                           "rtreenode",
                                           "rtrim",
                                           "sign",
                                           "sin",
                                           "sinh",
                                           "snippet",
                                           "soundex",
                                           "sqlite_drop_column",
                                           "sqlite_rename_column",
                                           "sqlite_rename_quotefix",
                                           "sqlite_rename_table",
                                           "sqlite_rename_test",
                                           "sqrt",
                                           "strftime",
                                           "string_agg",
                                           "substr",
                                           "substring",
                                           "subtype",
                                           "sum",
                                           "tan",
                                           "tanh",
                                           "time",
                                           "timediff",
                                           "total",
                                           "total_changes",
                                           "trim",
                                           "trunc",
                                           "typeof",
                                           "unhex",
                                           "unicode",
                                           "unixepoch",
                                           "unlikely",
                                           "upper",
                                           "zeroblob"};
static_assert(std::is_sorted(std::begin(kFunctions), std::end(kFunctions)));

constexpr std::string_view kModules[] = {"fts5", "fts5vocab", "rtree", "rtree_i32"};

constexpr std::string_view kReadPragmas[] = {"data_version", "page_size"};
constexpr std::string_view kBooleanPragmas[] = {
    "case_sensitive_like",      "defer_foreign_keys", "foreign_keys",
    "ignore_check_constraints", "legacy_alter_table", "recursive_triggers",
    "reverse_unordered_selects"};
constexpr std::string_view kNamePragmas[] = {"foreign_key_check", "foreign_key_list", "index_info",
                                             "index_list",        "index_xinfo",      "table_info",
                                             "table_list",        "table_xinfo"};
constexpr std::string_view kNameIsOptional[] = {"foreign_key_check", "table_list"};
constexpr std::string_view kBooleans[] = {"0", "1", "false", "no", "off", "on", "true", "yes"};

bool IsNumber(std::string_view text) {
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) text.remove_prefix(1);
  return !text.empty() &&
         std::all_of(text.begin(), text.end(),
                     [](char c) {
                       return (c >= '0' && c <= '9') || c == 'x' || c == 'X' ||
                              (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
                     }) &&
         text[0] >= '0' && text[0] <= '9';
}

std::string_view Unquoted(std::string_view text) {
  if (text.size() >= 2 && (text.front() == '\'' || text.front() == '"') &&
      text.back() == text.front()) {
    return text.substr(1, text.size() - 2);
  }
  return text;
}

bool PragmaIsFree(const char* name, const char* argument) {
  const std::string pragma = Lower(name);
  if (Contains(kReadPragmas, pragma)) return argument == nullptr;
  if (Contains(kBooleanPragmas, pragma)) {
    return argument == nullptr || Contains(kBooleans, Unquoted(Lower(argument)));
  }
  if (Contains(kNamePragmas, pragma)) {
    if (argument == nullptr) return Contains(kNameIsOptional, pragma);
    return NameIsFree(argument);
  }
  if (pragma == "quick_check") return NameIsFree(argument);
  if (pragma == "optimize") return argument == nullptr || IsNumber(argument);
  return false;
}

}  // namespace

bool SqlEngine::IsBuiltInFunction(std::string_view lower_case_name) {
  return Contains(kFunctions, lower_case_name);
}

int SqlEngine::Judge(int action, const char* first, const char* second, const char* database) {
  if (trusted_) return SQLITE_OK;
  const auto allow_if = [](bool allowed) { return allowed ? SQLITE_OK : SQLITE_DENY; };

  if (action == SQLITE_ALTER_TABLE) {  // here the database comes first, then table and column
    saw_rename_ = true;                // the new name is not told: RunRename looks afterwards
    return allow_if(std::string_view(first) == "main" && NameIsFree(second));
  }
  if (database != nullptr && std::string_view(database) != "main") {
    // SQLite itself looks at the temporary schema when it alters a table.
    return allow_if(std::string_view(database) == "temp" &&
                    (action == SQLITE_READ || action == SQLITE_UPDATE || action == SQLITE_SELECT));
  }
  switch (action) {
    case SQLITE_SELECT:
    case SQLITE_RECURSIVE:
    case SQLITE_ANALYZE:
      return SQLITE_OK;
    case SQLITE_CREATE_INDEX:
    case SQLITE_CREATE_TABLE:
    case SQLITE_CREATE_TRIGGER:
    case SQLITE_CREATE_VIEW:
    case SQLITE_DROP_INDEX:
    case SQLITE_DROP_TABLE:
    case SQLITE_DROP_TRIGGER:
    case SQLITE_DROP_VIEW:
      return allow_if(NameIsFree(first) && NameIsFree(second));
    case SQLITE_DELETE:
    case SQLITE_INSERT:
    case SQLITE_READ:
    case SQLITE_UPDATE:
    case SQLITE_REINDEX:
      return allow_if(NameIsFree(first));
    case SQLITE_CREATE_VTABLE:
    case SQLITE_DROP_VTABLE:
      return allow_if(NameIsFree(first) && Contains(kModules, Lower(second)));
    case SQLITE_FUNCTION:
      return allow_if(IsBuiltInFunction(Lower(second)) || functions_.contains(Lower(second)));
    case SQLITE_PRAGMA:
      return allow_if(PragmaIsFree(first, second));
    case SQLITE_TRANSACTION:
    case SQLITE_SAVEPOINT:
      saw_transaction_ = true;
      return SQLITE_DENY;
    default:
      return SQLITE_DENY;  // ATTACH, DETACH, temporary objects, what is yet to come
  }
}

}  // namespace edge::durable::internal
