// inference/grammar.cc - from rules to an automaton, and its sets of configurations.
//
// A configuration is a state and a stack of states to return to. Stacks are kept once each,
// as numbers of (top, rest); a set of configurations is a sorted list of (state, stack), kept
// once each too. A set holds only configurations that wait for a byte or have matched all.
#include "edge/inference/grammar.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "edge/base/errors.h"
#include "edge/base/mutex.h"
#include "inference/grammar_rules.h"
#include "inference/unicode.h"

namespace edge::inference {
namespace {

constexpr uint32_t kNone = UINT32_MAX;
constexpr size_t kForcedBytesMax = 4096;

bool IsPlain(uint8_t byte) {
  return byte >= 0x20 && byte < 0x7F && byte != '"' && byte != '\\';
}

struct ByteEdge {
  uint8_t first, last;
  uint32_t target;
};
struct CallEdge {
  uint32_t rule, target;
};
struct State {
  std::vector<ByteEdge> bytes;
  std::vector<CallEdge> calls;
  std::vector<uint32_t> empties;
  uint32_t ends = kNone;  // the rule that is complete here
};

// The states of all rules (Thompson's construction).
class Builder {
 public:
  Builder(const RuleSet& rules, const GrammarLimits& limits) : rules_(rules), limits_(limits) {}

  StatusOr<std::vector<State>> Build(std::vector<uint32_t>* starts) {
    for (size_t i = 0; i < rules_.bodies.size(); ++i) {
      starts_.push_back(New());
      const uint32_t end = Compile(rules_.bodies[i], starts_.back());
      const uint32_t last = New();
      states_[end].empties.push_back(last);
      states_[last].ends = static_cast<uint32_t>(i);
      if (full_) {
        return ResourceExhausted("the grammar needs more than {} states",
                                 limits_.automaton_states_max);
      }
    }
    EDGE_RETURN_IF_ERROR(Prune());
    EDGE_RETURN_IF_ERROR(RefuseLeftRecursion());
    *starts = starts_;
    return std::move(states_);
  }

 private:
  uint32_t New() {
    if (states_.size() >= limits_.automaton_states_max) {
      full_ = true;
      return static_cast<uint32_t>(states_.size() - 1);
    }
    states_.emplace_back();
    return static_cast<uint32_t>(states_.size() - 1);
  }

  void AddBytes(uint32_t from, uint32_t to, std::span<const std::pair<uint8_t, uint8_t>> bytes) {
    for (size_t i = 0; i < bytes.size(); ++i) {
      const uint32_t next = i + 1 == bytes.size() ? to : New();
      states_[from].bytes.push_back({bytes[i].first, bytes[i].second, next});
      from = next;
    }
  }

  // The UTF-8 forms of [first, last], cut into runs in which every byte has a range of its
  // own.
  void AddRange(uint32_t from, uint32_t to, char32_t first, char32_t last) {
    constexpr char32_t kLengthEnds[] = {0x7F, 0x7FF, 0xFFFF};
    for (const char32_t end : kLengthEnds) {
      if (first <= end && last > end) {
        AddRange(from, to, first, end);
        return AddRange(from, to, end + 1, last);
      }
    }
    for (int shift = 6; shift <= 18 && last > 0x7F; shift += 6) {
      const char32_t mask = (char32_t{1} << shift) - 1;
      if ((first & ~mask) == (last & ~mask)) break;
      if ((first & mask) != 0) {
        AddRange(from, to, first, first | mask);
        return AddRange(from, to, (first | mask) + 1, last);
      }
      if ((last & mask) != mask) {
        AddRange(from, to, first, (last & ~mask) - 1);
        return AddRange(from, to, last & ~mask, last);
      }
    }
    std::string low, high;
    AppendUtf8(first, &low);
    AppendUtf8(last, &high);
    std::vector<std::pair<uint8_t, uint8_t>> bytes;
    for (size_t i = 0; i < low.size(); ++i) {
      bytes.emplace_back(static_cast<uint8_t>(low[i]), static_cast<uint8_t>(high[i]));
    }
    AddBytes(from, to, bytes);
  }

  // Adds `e` after state `from`; returns the state after it.
  uint32_t Compile(const Expression& e, uint32_t from) {
    if (full_) return from;
    switch (e.kind) {
      case Expression::Kind::kLiteral:
        for (const char c : e.text) {
          const uint32_t next = New();
          states_[from].bytes.push_back({static_cast<uint8_t>(c), static_cast<uint8_t>(c), next});
          from = next;
        }
        return from;
      case Expression::Kind::kClass: {
        const uint32_t to = New();
        for (const auto& [first, last] : e.ranges) {
          // Surrogates have no UTF-8 form.
          if (first < 0xD800) AddRange(from, to, first, std::min<char32_t>(last, 0xD7FF));
          if (last > 0xDFFF) AddRange(from, to, std::max<char32_t>(first, 0xE000), last);
        }
        return to;
      }
      case Expression::Kind::kSequence:
        for (const Expression& part : e.parts) from = Compile(part, from);
        return from;
      case Expression::Kind::kChoice: {
        const uint32_t to = New();
        for (const Expression& part : e.parts) {
          const uint32_t end = Compile(part, from);
          states_[end].empties.push_back(to);
        }
        return to;
      }
      case Expression::Kind::kRepeat:
        return CompileRepeat(e, from);
      case Expression::Kind::kRule: {
        const uint32_t to = New();
        states_[from].calls.push_back({e.rule, to});
        return to;
      }
    }
    return from;
  }

  uint32_t CompileRepeat(const Expression& e, uint32_t from) {
    for (uint32_t i = 0; i < e.min && !full_; ++i) from = Compile(e.parts[0], from);
    if (e.max == Expression::kUnbounded) {
      const uint32_t loop = New();
      states_[from].empties.push_back(loop);
      const uint32_t end = Compile(e.parts[0], loop);
      states_[end].empties.push_back(loop);
      const uint32_t to = New();
      states_[loop].empties.push_back(to);
      return to;
    }
    const uint32_t to = New();
    for (uint32_t i = e.min; i < e.max && !full_; ++i) {
      states_[from].empties.push_back(to);
      const uint32_t fresh = New();
      states_[from].empties.push_back(fresh);
      from = Compile(e.parts[0], fresh);
    }
    states_[from].empties.push_back(to);
    return to;
  }

  // Removes what cannot be completed, so that no text runs into a dead end.
  Status Prune() {
    std::vector<std::vector<uint32_t>> into(states_.size());  // edges, backwards
    for (uint32_t s = 0; s < states_.size(); ++s) {
      for (const ByteEdge& edge : states_[s].bytes) into[edge.target].push_back(s);
      for (const uint32_t target : states_[s].empties) into[target].push_back(s);
    }
    std::vector<bool> rule_ends(starts_.size()), live(states_.size());
    std::vector<std::vector<CallEdge>> callers(starts_.size());  // target, and where from
    std::vector<std::vector<CallEdge>> calls_into(states_.size());
    for (uint32_t s = 0; s < states_.size(); ++s) {
      for (const CallEdge& call : states_[s].calls) {
        callers[call.rule].push_back({s, call.target});
        calls_into[call.target].push_back({call.rule, s});
      }
    }
    std::vector<uint32_t> open;
    auto mark = [&](uint32_t s) {
      if (!live[s]) {
        live[s] = true;
        open.push_back(s);
      }
    };
    std::vector<uint32_t> rule_of_start(states_.size(), kNone);
    for (uint32_t r = 0; r < starts_.size(); ++r) rule_of_start[starts_[r]] = r;
    for (uint32_t s = 0; s < states_.size(); ++s) {
      if (states_[s].ends != kNone) mark(s);
    }
    while (!open.empty()) {
      const uint32_t s = open.back();
      open.pop_back();
      for (const uint32_t before : into[s]) mark(before);
      for (const CallEdge& call : calls_into[s]) {
        if (rule_ends[call.rule]) mark(call.target);
      }
      if (const uint32_t rule = rule_of_start[s]; rule != kNone) {
        rule_ends[rule] = true;
        for (const CallEdge& caller : callers[rule]) {
          if (live[caller.target]) mark(caller.rule);
        }
      }
    }
    if (!live[starts_[0]]) return InvalidArgument("no text meets the grammar or schema");
    for (State& state : states_) {
      std::erase_if(state.bytes, [&](const ByteEdge& e) { return !live[e.target]; });
      std::erase_if(state.empties, [&](uint32_t target) { return !live[target]; });
      std::erase_if(state.calls,
                    [&](const CallEdge& e) { return !live[e.target] || !rule_ends[e.rule]; });
    }
    return OkStatus();
  }

  // A rule that can come back to itself before any byte would grow the stack for ever.
  Status RefuseLeftRecursion() {
    const size_t count = starts_.size();
    std::vector<bool> nullable(count);
    std::vector<std::vector<uint32_t>> leftmost(count);
    for (bool changed = true; changed;) {
      changed = false;
      for (uint32_t r = 0; r < count; ++r) {
        std::vector<uint32_t> open = {starts_[r]};
        std::map<uint32_t, bool> seen = {{starts_[r], true}};
        auto add = [&](uint32_t s) {
          if (seen.emplace(s, true).second) open.push_back(s);
        };
        leftmost[r].clear();
        while (!open.empty()) {
          const State& state = states_[open.back()];
          open.pop_back();
          if (state.ends == r && !nullable[r]) nullable[r] = changed = true;
          for (const uint32_t target : state.empties) add(target);
          for (const CallEdge& call : state.calls) {
            leftmost[r].push_back(call.rule);
            if (nullable[call.rule]) add(call.target);
          }
        }
      }
    }
    std::vector<uint8_t> color(count);  // 1: on the path, 2: done
    for (uint32_t root = 0; root < count; ++root) {
      if (color[root] != 0) continue;
      std::vector<std::pair<uint32_t, size_t>> path = {{root, 0}};
      color[root] = 1;
      while (!path.empty()) {
        auto& [rule, next] = path.back();
        if (next == leftmost[rule].size()) {
          color[rule] = 2;
          path.pop_back();
          continue;
        }
        const uint32_t callee = leftmost[rule][next++];
        if (color[callee] == 1) {
          return InvalidArgument("rule {} begins with itself (left recursion)",
                                 rules_.names[callee]);
        }
        if (color[callee] == 0) {
          color[callee] = 1;
          path.emplace_back(callee, 0);
        }
      }
    }
    return OkStatus();
  }

  const RuleSet& rules_;
  const GrammarLimits& limits_;
  std::vector<State> states_;
  std::vector<uint32_t> starts_;
  bool full_ = false;
};

struct Configuration {
  uint32_t state;
  std::vector<uint32_t> stack;  // states to return to, the innermost last
};

}  // namespace

class GrammarAutomaton {
 public:
  GrammarAutomaton(std::vector<State> states, std::vector<uint32_t> starts,
                   const GrammarLimits& limits, std::shared_ptr<const TokenTrie> tokens)
      : states_(std::move(states)),
        starts_(std::move(starts)),
        limits_(limits),
        trie_(std::move(tokens)),
        generation_(std::make_shared<Generation>()) {}

  // Set 0 is dead; no bytes lead out of it.
  struct Set {
    std::vector<uint64_t> configurations;  // state << 32 | stack
    std::array<uint32_t, 256> next;        // kNone: not known yet
    bool complete = false;
    std::optional<bool> loops;  // all plain bytes lead back here
    std::shared_ptr<const std::vector<uint64_t>> mask;
  };
  // What has been numbered so far. Replaced when it is full; states that use an old one keep it.
  struct Generation {
    Mutex mu;
    std::vector<std::unique_ptr<Set>> sets ABSL_GUARDED_BY(mu);
    absl::flat_hash_map<std::vector<uint64_t>, uint32_t> set_ids ABSL_GUARDED_BY(mu);
    struct Stack {
      uint32_t top, rest, depth;
    };
    std::vector<Stack> stacks ABSL_GUARDED_BY(mu);  // 0 is empty
    absl::flat_hash_map<uint64_t, uint32_t> stack_ids ABSL_GUARDED_BY(mu);
    size_t mask_bytes ABSL_GUARDED_BY(mu) = 0;
    bool ambiguous ABSL_GUARDED_BY(mu) = false;
  };
  using GenerationPtr = std::shared_ptr<Generation>;

  uint32_t Start(GenerationPtr* generation) {
    *generation = Current();
    return Import(generation->get(), {{starts_[0], {}}});
  }

  // Moves a state to a generation with room, if its own has none.
  void MakeRoom(GenerationPtr* generation, uint32_t* set) {
    std::vector<Configuration> configurations;
    {
      MutexLock lock(&(*generation)->mu);
      if (!Full(**generation)) return;
      configurations = Export(**generation, *set);
    }
    *generation = Current();
    *set = Import(generation->get(), configurations);
  }

  // The set after `text`; 0 if it does not fit.
  uint32_t Walk(Generation* g, uint32_t set, std::string_view text) {
    MutexLock lock(&g->mu);
    for (const char c : text) {
      set = Next(g, set, static_cast<uint8_t>(c));
      if (set == 0) break;
    }
    return set;
  }

  bool Complete(Generation* g, uint32_t set) {
    MutexLock lock(&g->mu);
    return g->sets[set]->complete;
  }
  bool Finished(Generation* g, uint32_t set) {
    MutexLock lock(&g->mu);
    int byte = 0;
    return g->sets[set]->complete && !AnyByte(*g->sets[set], &byte);
  }
  bool Ambiguous(Generation* g) {
    MutexLock lock(&g->mu);
    return g->ambiguous;
  }

  std::string Forced(Generation* g, uint32_t set) {
    MutexLock lock(&g->mu);
    std::string text;
    size_t whole = 0;  // bytes of whole characters
    while (text.size() < kForcedBytesMax && set != 0 && !g->sets[set]->complete) {
      int byte = -1;
      if (!AnyByte(*g->sets[set], &byte) || byte < 0) break;
      text.push_back(static_cast<char>(byte));
      set = Next(g, set, static_cast<uint8_t>(byte));
      while (whole < text.size() && MissingUtf8Bytes(std::string_view(text).substr(whole)) == 0) {
        whole += DecodeUtf8(std::string_view(text).substr(whole)).bytes;
      }
    }
    text.resize(whole);
    return text;
  }

  std::shared_ptr<const std::vector<uint64_t>> Mask(Generation* g, uint32_t set) {
    MutexLock lock(&g->mu);
    if (g->sets[set]->mask != nullptr) return g->sets[set]->mask;
    auto mask = std::make_shared<std::vector<uint64_t>>((trie_->tokenizer().size() + 63) / 64);
    bool any = false;
    auto allow = [&](TokenId id) {
      (*mask)[static_cast<size_t>(id) / 64] |= uint64_t{1} << (id % 64);
      any = true;
    };
    std::vector<uint32_t> path(trie_->depth_max_ + 1);
    path[0] = set;
    const auto& nodes = trie_->nodes_;
    for (uint32_t i = 0; i + 1 < nodes.size();) {
      const TokenTrie::Node& node = nodes[i];
      const uint32_t from = path[node.depth - 1u];
      if (node.plain && Loops(g, from)) {
        const uint32_t last = nodes[node.after].tokens_from;
        for (uint32_t t = node.tokens_from; t < last; ++t) allow(trie_->tokens_[t]);
        i = node.after;
        continue;
      }
      const uint32_t next = Next(g, from, node.byte);
      if (next == 0) {
        i = node.after;
        continue;
      }
      path[node.depth] = next;
      for (uint32_t t = node.tokens_from; t < nodes[i + 1].tokens_from; ++t) {
        allow(trie_->tokens_[t]);
      }
      ++i;
    }
    if (g->sets[set]->complete || !any) {
      for (const TokenId id : trie_->ends()) allow(id);
    }
    g->mask_bytes += mask->size() * 8;
    g->sets[set]->mask = mask;
    return mask;
  }

 private:
  bool Full(const Generation& g) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(g.mu) {
    return g.sets.size() > limits_.cached_sets_max || g.mask_bytes > limits_.cached_mask_bytes_max;
  }

  GenerationPtr Current() {
    MutexLock lock(&mu_);
    {
      MutexLock inner(&generation_->mu);  // always after mu_
      if (!Full(*generation_)) return generation_;
    }
    generation_ = std::make_shared<Generation>();
    return generation_;
  }

  // Whether any byte can come; `*only` becomes it if there is just one, else -1.
  bool AnyByte(const Set& set, int* only) const {
    bool any = false;
    *only = -1;
    for (const uint64_t configuration : set.configurations) {
      for (const ByteEdge& edge : states_[configuration >> 32].bytes) {
        const int byte = edge.first == edge.last ? edge.first : -1;
        *only = any && *only != byte ? -1 : byte;
        if (any && *only < 0) return true;
        any = true;
        if (*only < 0) return true;
      }
    }
    return any;
  }

  uint32_t Push(Generation* g, uint32_t top, uint32_t rest) ABSL_EXCLUSIVE_LOCKS_REQUIRED(g->mu) {
    if (g->stacks.empty()) g->stacks.push_back({kNone, 0, 0});
    const uint32_t depth = g->stacks[rest].depth + 1;
    if (depth > limits_.depth_max) return kNone;
    const uint64_t key = uint64_t{top} << 32 | rest;
    const auto [found, added] =
        g->stack_ids.try_emplace(key, static_cast<uint32_t>(g->stacks.size()));
    if (added) g->stacks.push_back({top, rest, depth});
    return found->second;
  }

  std::vector<Configuration> Export(const Generation& g, uint32_t set) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(g.mu) {
    std::vector<Configuration> out;
    for (const uint64_t packed : g.sets[set]->configurations) {
      Configuration c{static_cast<uint32_t>(packed >> 32), {}};
      for (auto at = static_cast<uint32_t>(packed); at != 0; at = g.stacks[at].rest) {
        c.stack.push_back(g.stacks[at].top);
      }
      std::reverse(c.stack.begin(), c.stack.end());
      out.push_back(std::move(c));
    }
    return out;
  }

  uint32_t Import(Generation* g, const std::vector<Configuration>& configurations) {
    MutexLock lock(&g->mu);
    std::vector<uint64_t> packed;
    for (const Configuration& c : configurations) {
      uint32_t stack = 0;
      for (const uint32_t state : c.stack) stack = Push(g, state, stack);
      packed.push_back(uint64_t{c.state} << 32 | stack);
    }
    return Intern(g, Close(g, std::move(packed)));
  }

  // Follows calls, returns and empty edges.
  std::vector<uint64_t> Close(Generation* g, std::vector<uint64_t> open)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(g->mu) {
    if (g->stacks.empty()) g->stacks.push_back({kNone, 0, 0});
    std::vector<uint64_t> out;
    absl::flat_hash_map<uint64_t, bool> seen;
    for (const uint64_t configuration : open) seen.emplace(configuration, true);
    auto add = [&](uint32_t state, uint32_t stack) {
      const uint64_t configuration = uint64_t{state} << 32 | stack;
      if (seen.emplace(configuration, true).second) open.push_back(configuration);
    };
    while (!open.empty()) {
      const uint64_t configuration = open.back();
      open.pop_back();
      const State& state = states_[configuration >> 32];
      const auto stack = static_cast<uint32_t>(configuration);
      if (!state.bytes.empty() || (state.ends != kNone && stack == 0)) out.push_back(configuration);
      if (seen.size() > limits_.configurations_max) {
        g->ambiguous = true;
        return {};
      }
      for (const uint32_t target : state.empties) add(target, stack);
      for (const CallEdge& call : state.calls) {
        // Nothing but the end of the rule follows: the caller need not be remembered.
        const bool last = OnlyEnds(call.target);
        const uint32_t inner = last ? stack : Push(g, call.target, stack);
        if (inner != kNone) add(starts_[call.rule], inner);
      }
      if (state.ends != kNone && stack != 0) add(g->stacks[stack].top, g->stacks[stack].rest);
    }
    std::sort(out.begin(), out.end());
    return out;
  }
  // Whether nothing but the end of its rule can follow a state.
  bool OnlyEnds(uint32_t s) const {
    for (int steps = 0; steps < 16; ++steps) {
      const State& state = states_[s];
      if (!state.bytes.empty() || !state.calls.empty()) return false;
      if (state.ends != kNone) return state.empties.empty();
      if (state.empties.size() != 1) return false;
      s = state.empties[0];
    }
    return false;
  }

  uint32_t Intern(Generation* g, std::vector<uint64_t> configurations)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(g->mu) {
    if (g->sets.empty()) AddSet(g, {});
    if (configurations.empty()) return 0;
    const auto found = g->set_ids.find(configurations);
    if (found != g->set_ids.end()) return found->second;
    return AddSet(g, std::move(configurations));
  }
  uint32_t AddSet(Generation* g, std::vector<uint64_t> configurations)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(g->mu) {
    auto set = std::make_unique<Set>();
    set->next.fill(configurations.empty() ? 0 : kNone);
    for (const uint64_t c : configurations) {
      if (states_[c >> 32].ends != kNone && static_cast<uint32_t>(c) == 0) set->complete = true;
    }
    const auto id = static_cast<uint32_t>(g->sets.size());
    g->set_ids.emplace(configurations, id);
    set->configurations = std::move(configurations);
    g->sets.push_back(std::move(set));
    return id;
  }

  // Inside a string most of the vocabulary fits and changes nothing: no need to walk it.
  bool Loops(Generation* g, uint32_t set) ABSL_EXCLUSIVE_LOCKS_REQUIRED(g->mu) {
    if (!g->sets[set]->loops) {
      bool all = true;
      for (int byte = 0; byte < 256 && all; ++byte) {
        if (!IsPlain(static_cast<uint8_t>(byte))) continue;
        all = Next(g, set, static_cast<uint8_t>(byte)) == set;
      }
      g->sets[set]->loops = all;
    }
    return *g->sets[set]->loops;
  }

  uint32_t Next(Generation* g, uint32_t set, uint8_t byte) ABSL_EXCLUSIVE_LOCKS_REQUIRED(g->mu) {
    const uint32_t known = g->sets[set]->next[byte];
    if (known != kNone) return known;
    std::vector<uint64_t> reached;
    for (const uint64_t configuration : g->sets[set]->configurations) {
      for (const ByteEdge& edge : states_[configuration >> 32].bytes) {
        if (byte < edge.first || byte > edge.last) continue;
        reached.push_back(uint64_t{edge.target} << 32 | static_cast<uint32_t>(configuration));
      }
    }
    const uint32_t next = reached.empty() ? 0 : Intern(g, Close(g, std::move(reached)));
    g->sets[set]->next[byte] = next;
    return next;
  }

  const std::vector<State> states_;
  const std::vector<uint32_t> starts_;
  const GrammarLimits limits_;
  const std::shared_ptr<const TokenTrie> trie_;
  Mutex mu_;
  GenerationPtr generation_ ABSL_GUARDED_BY(mu_);
};

std::shared_ptr<const TokenTrie> TokenTrie::Create(const Tokenizer& tokenizer) {
  std::shared_ptr<TokenTrie> trie(new TokenTrie(tokenizer));
  std::vector<std::pair<std::string_view, TokenId>> pieces;
  for (TokenId id = 0; id < static_cast<TokenId>(tokenizer.size()); ++id) {
    if (tokenizer.IsEnd(id)) {
      trie->ends_.push_back(id);
    } else if (const auto piece = tokenizer.Piece(id); !piece.empty() && piece.size() < 60'000) {
      pieces.emplace_back(piece, id);
    }
  }
  std::sort(pieces.begin(), pieces.end());
  std::vector<uint32_t> path;  // nodes from the root to the piece before
  std::string_view before;
  auto close = [&](size_t depth) {
    for (; path.size() > depth; path.pop_back()) {
      Node& node = trie->nodes_[path.back()];
      node.after = static_cast<uint32_t>(trie->nodes_.size());
      if (!node.plain && path.size() > 1) trie->nodes_[path[path.size() - 2]].plain = false;
    }
  };
  for (const auto& [piece, id] : pieces) {
    size_t same = 0;
    while (same < piece.size() && same < before.size() && piece[same] == before[same]) ++same;
    close(same);
    for (size_t i = same; i < piece.size(); ++i) {
      path.push_back(static_cast<uint32_t>(trie->nodes_.size()));
      const auto byte = static_cast<uint8_t>(piece[i]);
      trie->nodes_.push_back({0, static_cast<uint32_t>(trie->tokens_.size()),
                              static_cast<uint16_t>(i + 1), byte, IsPlain(byte)});
    }
    trie->depth_max_ = std::max(trie->depth_max_, static_cast<uint32_t>(piece.size()));
    trie->tokens_.push_back(id);
    before = piece;
  }
  close(0);
  trie->nodes_.push_back({0, static_cast<uint32_t>(trie->tokens_.size()), 1, 0, false});
  return trie;
}

Grammar::Grammar(std::shared_ptr<const TokenTrie> tokens,
                 std::shared_ptr<GrammarAutomaton> automaton)
    : tokens_(std::move(tokens)), automaton_(std::move(automaton)) {}
Grammar::~Grammar() = default;

StatusOr<std::shared_ptr<const Grammar>> Grammar::Make(const RuleSet& rules,
                                                       std::shared_ptr<const TokenTrie> tokens,
                                                       const GrammarLimits& limits) {
  std::vector<uint32_t> starts;
  EDGE_ASSIGN_OR_RETURN(auto states, Builder(rules, limits).Build(&starts));
  auto automaton =
      std::make_shared<GrammarAutomaton>(std::move(states), std::move(starts), limits, tokens);
  return std::shared_ptr<const Grammar>(new Grammar(std::move(tokens), std::move(automaton)));
}

StatusOr<std::shared_ptr<const Grammar>> Grammar::FromGbnf(std::string_view text,
                                                           std::shared_ptr<const TokenTrie> tokens,
                                                           const GrammarLimits& limits) {
  if (text.size() > limits.text_bytes_max) {
    return ResourceExhausted("a grammar of {} bytes, at most {}", text.size(),
                             limits.text_bytes_max);
  }
  EDGE_ASSIGN_OR_RETURN(const RuleSet rules, ParseGbnf(text));
  return Make(rules, std::move(tokens), limits);
}

StatusOr<std::shared_ptr<const Grammar>> Grammar::FromJsonSchema(
    std::string_view schema, std::shared_ptr<const TokenTrie> tokens, const GrammarLimits& limits) {
  if (schema.size() > limits.text_bytes_max) {
    return ResourceExhausted("a schema of {} bytes, at most {}", schema.size(),
                             limits.text_bytes_max);
  }
  EDGE_ASSIGN_OR_RETURN(const RuleSet rules, RulesOfJsonSchema(schema));
  return Make(rules, std::move(tokens), limits);
}

namespace {
GrammarAutomaton::Generation* Of(const std::shared_ptr<void>& generation) {
  return static_cast<GrammarAutomaton::Generation*>(generation.get());
}
}  // namespace

GrammarState::GrammarState(std::shared_ptr<const Grammar> grammar) : grammar_(std::move(grammar)) {
  GrammarAutomaton::GenerationPtr generation;
  set_ = grammar_->automaton_->Start(&generation);
  generation_ = std::move(generation);
}

TokenMask GrammarState::Mask() {
  if (mask_ == nullptr) {
    auto generation = std::static_pointer_cast<GrammarAutomaton::Generation>(generation_);
    grammar_->automaton_->MakeRoom(&generation, &set_);
    mask_ = grammar_->automaton_->Mask(generation.get(), set_);
    generation_ = std::move(generation);
  }
  return *mask_;
}

bool GrammarState::AcceptText(std::string_view text) {
  if (text.empty()) return true;
  auto generation = std::static_pointer_cast<GrammarAutomaton::Generation>(generation_);
  grammar_->automaton_->MakeRoom(&generation, &set_);
  generation_ = generation;
  const uint32_t next = grammar_->automaton_->Walk(generation.get(), set_, text);
  if (next == 0) return false;
  set_ = next;
  mask_ = nullptr;
  return true;
}

bool GrammarState::Accept(TokenId id) {
  const Tokenizer& tokenizer = grammar_->tokens().tokenizer();
  if (tokenizer.IsEnd(id)) return complete();
  const std::string_view piece = tokenizer.Piece(id);
  return !piece.empty() && AcceptText(piece);
}

bool GrammarState::complete() const {
  return grammar_->automaton_->Complete(Of(generation_), set_);
}
bool GrammarState::finished() const {
  return grammar_->automaton_->Finished(Of(generation_), set_);
}
std::string GrammarState::ForcedText() const {
  return grammar_->automaton_->Forced(Of(generation_), set_);
}

std::vector<TokenId> GrammarState::ForcedTokens() const {
  const std::string text = ForcedText();
  if (text.empty()) return {};
  const Tokenizer& tokenizer = grammar_->tokens().tokenizer();
  std::vector<TokenId> ids = tokenizer.Encode(text);
  std::string spelt;
  for (const TokenId id : ids) spelt += tokenizer.Piece(id);
  if (spelt != text) return {};  // a tokenizer that puts a space in front
  GrammarState after = *this;
  after.AcceptText(text);
  if (!after.finished()) ids.pop_back();
  return ids;
}

Status GrammarState::status() const {
  if (!grammar_->automaton_->Ambiguous(Of(generation_))) return OkStatus();
  return ResourceExhausted("the grammar is too ambiguous");
}

namespace {

class GrammarConstraint final : public Constraint {
 public:
  explicit GrammarConstraint(std::shared_ptr<const Grammar> grammar) : state_(std::move(grammar)) {}
  TokenMask Allowed() override { return state_.Mask(); }
  void Accept(TokenId token) override { state_.Accept(token); }
  void TakeForced(std::vector<TokenId>* tokens) override {
    for (const TokenId id : state_.ForcedTokens()) {
      if (!state_.Accept(id)) return;
      tokens->push_back(id);
    }
  }
  bool complete() const override { return state_.finished(); }

 private:
  GrammarState state_;
};

class GrammarFactory final : public ConstraintFactory {
 public:
  explicit GrammarFactory(std::shared_ptr<const Grammar> grammar) : grammar_(std::move(grammar)) {}
  StatusOr<std::unique_ptr<Constraint>> Begin(const Tokenizer& tokenizer) const override {
    if (&tokenizer != &grammar_->tokens().tokenizer()) {
      return InvalidArgument("the grammar was made for another tokenizer");
    }
    return std::unique_ptr<Constraint>(std::make_unique<GrammarConstraint>(grammar_));
  }

 private:
  const std::shared_ptr<const Grammar> grammar_;
};

}  // namespace

std::shared_ptr<const ConstraintFactory> Constrain(std::shared_ptr<const Grammar> grammar) {
  return std::make_shared<GrammarFactory>(std::move(grammar));
}

}  // namespace edge::inference
