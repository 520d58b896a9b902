#include "bench/kv/policies.h"

#include <algorithm>
#include <array>
#include <list>
#include <unordered_map>

namespace edge::bench {
namespace {

// A list with its keys findable: front is the youngest.
class Queue {
 public:
  struct Node {
    uint32_t key;
    uint8_t mark = 0;
  };
  using Position = std::list<Node>::iterator;
  Node* Find(uint32_t key) {
    const auto it = where_.find(key);
    return it == where_.end() ? nullptr : &*it->second;
  }
  void Push(uint32_t key, uint8_t mark = 0) {
    nodes_.push_front({key, mark});
    where_[key] = nodes_.begin();
  }
  void ToFront(uint32_t key) { nodes_.splice(nodes_.begin(), nodes_, where_.find(key)->second); }
  Node PopBack() {
    const Node node = nodes_.back();
    where_.erase(node.key);
    nodes_.pop_back();
    return node;
  }
  bool Erase(uint32_t key) {
    const auto it = where_.find(key);
    if (it == where_.end()) return false;
    nodes_.erase(it->second);
    where_.erase(it);
    return true;
  }
  const Node& back() const { return nodes_.back(); }
  size_t size() const { return nodes_.size(); }
  std::list<Node>& nodes() { return nodes_; }
  Position At(uint32_t key) { return where_.find(key)->second; }

 private:
  std::list<Node> nodes_;
  std::unordered_map<uint32_t, Position> where_;
};

class Lru final : public Policy {
 public:
  explicit Lru(size_t entries) : entries_(entries) {}
  bool Access(uint32_t key) override {
    if (queue_.Find(key) != nullptr) {
      queue_.ToFront(key);
      return true;
    }
    if (queue_.size() == entries_) queue_.PopBack();
    queue_.Push(key);
    return false;
  }

 private:
  size_t entries_;
  Queue queue_;
};

class Clock final : public Policy {
 public:
  explicit Clock(size_t entries) : entries_(entries) {}
  bool Access(uint32_t key) override {
    if (Queue::Node* node = queue_.Find(key)) {
      node->mark = 1;
      return true;
    }
    while (queue_.size() == entries_) {
      const Queue::Node node = queue_.PopBack();
      if (node.mark != 0) queue_.Push(node.key);
    }
    queue_.Push(key);
    return false;
  }

 private:
  size_t entries_;
  Queue queue_;
};

// Zhang et al., NSDI 2024: the hand stays where it stopped, survivors stay where they are.
class Sieve final : public Policy {
 public:
  explicit Sieve(size_t entries) : entries_(entries) {}
  bool Access(uint32_t key) override {
    if (Queue::Node* node = queue_.Find(key)) {
      node->mark = 1;
      return true;
    }
    if (queue_.size() == entries_) {
      auto& nodes = queue_.nodes();
      auto hand = has_hand_ ? queue_.At(hand_) : std::prev(nodes.end());
      const auto older = [&](auto at) {
        return at == nodes.begin() ? std::prev(nodes.end()) : std::prev(at);
      };
      while (hand->mark != 0) {
        hand->mark = 0;
        hand = older(hand);
      }
      has_hand_ = hand != nodes.begin();
      if (has_hand_) hand_ = std::prev(hand)->key;
      queue_.Erase(hand->key);
    }
    queue_.Push(key);
    return false;
  }

 private:
  size_t entries_;
  Queue queue_;
  uint32_t hand_ = 0;
  bool has_hand_ = false;
};

// Johnson and Shasha, VLDB 1994: a quarter for the new, ghosts for half.
class TwoQ final : public Policy {
 public:
  explicit TwoQ(size_t entries)
      : in_max_(std::max<size_t>(entries / 4, 1)), out_max_(entries / 2), entries_(entries) {}
  bool Access(uint32_t key) override {
    if (main_.Find(key) != nullptr) {
      main_.ToFront(key);
      return true;
    }
    if (in_.Find(key) != nullptr) return true;
    const bool again = out_.Erase(key);
    if (in_.size() + main_.size() == entries_) {
      if (in_.size() >= in_max_ || main_.size() == 0) {
        out_.Push(in_.PopBack().key);
        if (out_.size() > out_max_) out_.PopBack();
      } else {
        main_.PopBack();
      }
    }
    (again ? main_ : in_).Push(key);
    return false;
  }

 private:
  size_t in_max_, out_max_, entries_;
  Queue in_, out_, main_;
};

// Megiddo and Modha, FAST 2003, figure 4.
class Arc final : public Policy {
 public:
  explicit Arc(size_t entries) : entries_(entries) {}
  bool Access(uint32_t key) override {
    if (t1_.Erase(key)) {
      t2_.Push(key);
      return true;
    }
    if (t2_.Find(key) != nullptr) {
      t2_.ToFront(key);
      return true;
    }
    if (b1_.Find(key) != nullptr) {
      target_ = std::min<double>(static_cast<double>(entries_),
                                 target_ + std::max(1.0, static_cast<double>(b2_.size()) /
                                                             static_cast<double>(b1_.size())));
      Replace(false);
      b1_.Erase(key);
      t2_.Push(key);
      return false;
    }
    if (b2_.Find(key) != nullptr) {
      target_ = std::max(0.0, target_ - std::max(1.0, static_cast<double>(b1_.size()) /
                                                          static_cast<double>(b2_.size())));
      Replace(true);
      b2_.Erase(key);
      t2_.Push(key);
      return false;
    }
    if (t1_.size() + b1_.size() == entries_) {
      if (t1_.size() < entries_) {
        b1_.PopBack();
        Replace(false);
      } else {
        t1_.PopBack();
      }
    } else if (const size_t all = t1_.size() + t2_.size() + b1_.size() + b2_.size();
               all >= entries_) {
      if (all == 2 * entries_) b2_.PopBack();
      Replace(false);
    }
    t1_.Push(key);
    return false;
  }

 private:
  void Replace(bool in_b2) {
    if (t1_.size() + t2_.size() < entries_) return;
    const auto t1 = static_cast<double>(t1_.size());
    if (t1_.size() > 0 && (t1 > target_ || (in_b2 && t1 == target_) || t2_.size() == 0)) {
      b1_.Push(t1_.PopBack().key);
    } else {
      b2_.Push(t2_.PopBack().key);
    }
  }
  size_t entries_;
  double target_ = 0;
  Queue t1_, t2_, b1_, b2_;
};

// Yang et al., SOSP 2023, algorithm 1: a tenth for the new, promotion at two hits.
class S3Fifo final : public Policy {
 public:
  explicit S3Fifo(size_t entries)
      : small_max_(std::max<size_t>(entries / 10, 1)), entries_(entries) {}
  bool Access(uint32_t key) override {
    for (Queue* queue : {&small_, &main_}) {
      if (Queue::Node* node = queue->Find(key)) {
        node->mark = std::min<uint8_t>(node->mark + 1, 3);
        return true;
      }
    }
    while (small_.size() + main_.size() >= entries_) Evict();
    (ghost_.Erase(key) ? main_ : small_).Push(key);
    return false;
  }

 private:
  void Evict() {
    if (small_.size() >= small_max_ || main_.size() == 0) {
      const Queue::Node node = small_.PopBack();
      if (node.mark > 1) {
        main_.Push(node.key);
      } else {
        ghost_.Push(node.key);
        if (ghost_.size() > entries_ - small_max_) ghost_.PopBack();
      }
      return;
    }
    const Queue::Node node = main_.PopBack();
    if (node.mark > 0) main_.Push(node.key, static_cast<uint8_t>(node.mark - 1));
  }
  size_t small_max_, entries_;
  Queue small_, main_, ghost_;
};

// Einziger, Friedman, Manes, ACM TOS 2017: a window of 1 %, a segmented LRU behind it (80 %
// protected), admission by a sketch of four-bit counters that are halved now and then.
class WTinyLfu final : public Policy {
 public:
  explicit WTinyLfu(size_t entries)
      : window_max_(std::max<size_t>(entries / 100, 1)),
        main_max_(entries - window_max_),
        protected_max_(main_max_ * 8 / 10),
        sketch_(std::max<size_t>(entries, 16) * 4),
        sample_max_(entries * 10) {}
  bool Access(uint32_t key) override {
    Count(key);
    if (window_.Find(key) != nullptr) {
      window_.ToFront(key);
      return true;
    }
    if (protected_.Find(key) != nullptr) {
      protected_.ToFront(key);
      return true;
    }
    if (probation_.Erase(key)) {
      protected_.Push(key);
      if (protected_.size() > protected_max_) probation_.Push(protected_.PopBack().key);
      return true;
    }
    window_.Push(key);
    if (window_.size() <= window_max_) return false;
    const uint32_t candidate = window_.PopBack().key;
    if (probation_.size() + protected_.size() < main_max_) {
      probation_.Push(candidate);
    } else if (probation_.size() > 0 && Estimate(candidate) > Estimate(probation_.back().key)) {
      probation_.PopBack();
      probation_.Push(candidate);
    }
    return false;
  }

 private:
  size_t Slot(uint32_t key, int row) const {
    uint64_t x =
        (key + 1) * (0x9E3779B97F4A7C15u + static_cast<uint64_t>(row) * 0xBF58476D1CE4E5B8u);
    x ^= x >> 29;
    x *= 0x94D049BB133111EBu;
    return (x ^ x >> 32) % sketch_.size();
  }
  void Count(uint32_t key) {
    for (int row = 0; row < 4; ++row) {
      uint8_t& counter = sketch_[Slot(key, row)];
      if (counter < 15) ++counter;
    }
    if (++sampled_ < sample_max_) return;
    sampled_ /= 2;
    for (uint8_t& counter : sketch_) counter /= 2;
  }
  int Estimate(uint32_t key) const {
    int least = 15;
    for (int row = 0; row < 4; ++row) least = std::min<int>(least, sketch_[Slot(key, row)]);
    return least;
  }
  size_t window_max_, main_max_, protected_max_;
  std::vector<uint8_t> sketch_;
  size_t sampled_ = 0, sample_max_;
  Queue window_, probation_, protected_;
};

}  // namespace

std::vector<NamedPolicy> AllPolicies(size_t entries) {
  std::vector<NamedPolicy> all;
  all.push_back({"LRU", std::make_unique<Lru>(entries)});
  all.push_back({"CLOCK", std::make_unique<Clock>(entries)});
  all.push_back({"SIEVE", std::make_unique<Sieve>(entries)});
  all.push_back({"2Q", std::make_unique<TwoQ>(entries)});
  all.push_back({"ARC", std::make_unique<Arc>(entries)});
  all.push_back({"S3-FIFO", std::make_unique<S3Fifo>(entries)});
  all.push_back({"W-TinyLFU", std::make_unique<WTinyLfu>(entries)});
  return all;
}

}  // namespace edge::bench
