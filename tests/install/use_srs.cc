#include <stdlib.h>

#include <cstdio>
#include <filesystem>
#include <string>

#include "edge/srs/relay.h"

int main() {
  std::string folder = (std::filesystem::temp_directory_path() / "edge-use-XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) return 1;
  uint64_t lsn = 1;
  {
    edge::srs::RelayOptions options;
    options.directory = folder + "/data";
    auto relay = edge::srs::Relay::Open(options);
    if (relay.ok()) {
      auto database = (*relay)->OpenDatabase("orders");
      if (database.ok()) lsn = (*database)->lsn();
    } else {
      std::puts(relay.status().ToString().c_str());
    }
  }
  std::filesystem::remove_all(folder);
  std::printf("a new database stands at commit %llu\n", static_cast<unsigned long long>(lsn));
  return lsn == 0 ? 0 : 1;
}
