// A cart that is bought whole or not at all: an exception in the middle undoes the turn, and
// TransactionSync undoes a part of it.
#include <cstdio>
#include <filesystem>
#include <string>

#include "edge/base/errors.h"
#include "edge/durable/host.h"

namespace {

class Shop : public edge::durable::Object {
 public:
  explicit Shop(edge::durable::Context& ctx) : Object(ctx) {
    sql().Exec("CREATE TABLE IF NOT EXISTS stock (item TEXT PRIMARY KEY, count INTEGER)");
    sql().Exec("CREATE TABLE IF NOT EXISTS cart (item TEXT, count INTEGER)");
    sql().Exec("INSERT OR IGNORE INTO stock VALUES ('tea', 5), ('cup', 1), ('gift wrap', 0)");
  }
  void Add(std::string_view item, int64_t count) {
    sql().Exec("INSERT INTO cart VALUES (?, ?)", item, count);
  }
  // Gives whether the gifts could be wrapped.
  bool Buy() {
    for (auto& [item, count] :
         sql().Exec<std::string, int64_t>("SELECT item, count FROM cart").ToArray()) {
      Take(item, count);
    }
    sql().Exec("DELETE FROM cart");
    // Nice to have: if it fails, the rest stands.
    return storage()
        .TryTransactionSync([&]() -> edge::Status {
          sql().Exec("INSERT INTO cart VALUES ('gift wrap', 1)");
          return TryTake("gift wrap", 1);
        })
        .ok();
  }
  int64_t Left(std::string_view item) {
    return sql().Exec<int64_t>("SELECT count FROM stock WHERE item = ?", item).Value();
  }
  int64_t InCart() { return sql().Exec<int64_t>("SELECT count(*) FROM cart").Value(); }
  using Rpc = edge::rpc::Methods<&Shop::Add, &Shop::Buy, &Shop::Left, &Shop::InCart>;

 private:
  edge::Status TryTake(std::string_view item, int64_t count) {
    auto changed = sql().Exec("UPDATE stock SET count = count - ?2 WHERE item = ?1 AND count >= ?2",
                              item, count);
    if (changed.rows_written() == 1) return edge::OkStatus();
    return edge::FailedPrecondition("Not enough of {}", item);
  }
  void Take(std::string_view item, int64_t count) {
    if (edge::Status status = TryTake(item, count); !status.ok()) throw edge::Error(status);
  }
};

edge::Status Run(const std::string& directory) {
  EDGE_ASSIGN_OR_RETURN(auto executor, edge::Executor::Create({.threads = 1}));
  EDGE_ASSIGN_OR_RETURN(auto relay, edge::srs::Relay::Open({.directory = directory}));
  EDGE_ASSIGN_OR_RETURN(auto host, edge::durable::Host::Create(*executor, *relay));
  EDGE_ASSIGN_OR_RETURN(auto shops, host->AddNamespace<Shop>("SHOPS"));
  auto shop = shops.Get("corner");
  EDGE_RETURN_IF_ERROR(shop.Call<&Shop::Add>("tea", 2).Wait());
  EDGE_RETURN_IF_ERROR(shop.Call<&Shop::Add>("cup", 2).Wait());
  const auto refused = shop.Call<&Shop::Buy>().Wait();  // only one cup: the tea is put back
  EDGE_ASSIGN_OR_RETURN(const int64_t tea, shop.Call<&Shop::Left>("tea").Wait());
  std::printf("%s; %lld packets of tea are still there\n", refused.status().ToString().c_str(),
              static_cast<long long>(tea));
  if (refused.ok() || tea != 5) return edge::Internal("the purchase was not undone");

  auto other = shops.Get("market");
  EDGE_RETURN_IF_ERROR(other.Call<&Shop::Add>("cup", 1).Wait());
  EDGE_ASSIGN_OR_RETURN(const bool wrapped, other.Call<&Shop::Buy>().Wait());
  EDGE_ASSIGN_OR_RETURN(const int64_t cups, other.Call<&Shop::Left>("cup").Wait());
  EDGE_ASSIGN_OR_RETURN(const int64_t in_cart, other.Call<&Shop::InCart>().Wait());
  std::printf("bought; cups left: %lld; wrapped: %s\n", static_cast<long long>(cups),
              wrapped ? "yes" : "no");
  return !wrapped && cups == 0 && in_cart == 0 ? edge::OkStatus() : edge::Internal("wrong");
}

}  // namespace

int main() {
  std::string directory = std::filesystem::temp_directory_path() / "edge-shop-XXXXXX";
  if (mkdtemp(directory.data()) == nullptr) return 1;
  const edge::Status status = Run(directory);
  std::filesystem::remove_all(directory);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
