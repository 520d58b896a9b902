#include <cstdio>
#include <string>

#include "edge/base/executor.h"
#include "edge/rpc/stub.h"
#include "edge/rpc/target.h"

namespace {

class Greeter : public edge::rpc::Target {
 public:
  std::string Greet(const std::string& name) { return "Hello, " + name + "!"; }
  using Rpc = edge::rpc::Methods<&Greeter::Greet>;
};

}  // namespace

int main() {
  auto executor = edge::Executor::Create({.threads = 1});
  if (!executor.ok()) return 1;
  std::string answer;
  edge::RunOn((*executor)->loop(0), [&answer] {
    auto greeter = edge::rpc::MakeStub<Greeter>();
    greeter.Call<&Greeter::Greet>("edge").Then([&answer](edge::StatusOr<std::string> text) {
      if (text.ok()) answer = *std::move(text);
    });
  });
  edge::RunOn((*executor)->loop(0), [] {});  // whatever the call has posted is done
  std::puts(answer.c_str());
  return answer == "Hello, edge!" ? 0 : 1;
}
