// flights: an airline's seat maps on edge. See README.md beside this file.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>

#include "demo.h"
#include "server.h"

namespace {

constexpr char kUsage[] =
    "usage: flights demo  [--data DIR] [--model GGUF] [--page DIR] [--client JS] [--port N]\n"
    "                     [--passengers N] [--kills N] [--serve]\n"
    "       flights serve [--data DIR] [--model GGUF] [--page DIR] [--client JS] [--port N]\n"
    "\n"
    "demo   books seats while the server is killed, loses and restores a database, undoes a\n"
    "       buggy UPDATE, asks the assistant, and prints a table. Exit status 0 only if\n"
    "       nothing was lost. --serve leaves the server running with its web page.\n"
    "serve  the server alone, on 127.0.0.1, until SIGINT or SIGTERM.\n"
    "\n"
    "--data DIR      databases, journal and object store (demo empties it; default build/demo)\n"
    "--model GGUF    the assistant's model; without it the assistant is switched off\n"
    "--page DIR      index.html, app.js, style.css (default examples/flights/page)\n"
    "--client JS     the stock capnweb client for the page\n"
    "--port N        default: a free one; 8787 with --serve and for serve\n"
    "--passengers N  how many bookings the demo confirms (default 34000)\n"
    "--kills N       how often the server is killed meanwhile (default 1)\n";

int Usage(const std::string& complaint) {
  std::fprintf(stderr, "%s\n\n%s", complaint.c_str(), kUsage);
  return 2;
}

// Reads a whole number in [min, max]; false if it is none.
bool ReadNumber(const std::string& text, long min, long max, long* out) {
  char* end = nullptr;
  *out = std::strtol(text.c_str(), &end, 10);
  return !text.empty() && *end == '\0' && *out >= min && *out <= max;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "--help" || command == "-h") {
    std::printf("%s", kUsage);
    return 0;
  }
  if (command != "demo" && command != "serve") return Usage("say demo or serve");
  DemoOptions options;
  long port = -1, passengers = 34'000, kills = 1;
  const std::map<std::string, std::string*> texts = {{"--data", &options.data},
                                                     {"--model", &options.model},
                                                     {"--page", &options.page},
                                                     {"--client", &options.client}};
  for (int i = 2; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--help") {
      std::printf("%s", kUsage);
      return 0;
    }
    if (name == "--serve" && command == "demo") {
      options.serve = true;
      continue;
    }
    if (i + 1 == argc) return Usage(name + " needs a value, or is unknown");
    const std::string value = argv[++i];
    if (const auto text = texts.find(name); text != texts.end()) {
      *text->second = value;
    } else if (name == "--port") {
      if (!ReadNumber(value, 0, 65535, &port)) return Usage("--port takes 0 to 65535");
    } else if (name == "--passengers" && command == "demo") {
      if (!ReadNumber(value, 1, 40'000, &passengers)) return Usage("--passengers takes 1 to 40000");
    } else if (name == "--kills" && command == "demo") {
      if (!ReadNumber(value, 0, 100, &kills)) return Usage("--kills takes 0 to 100");
    } else {
      return Usage("unknown argument " + name);
    }
  }
  if (port < 0) port = options.serve || command == "serve" ? 8787 : 0;
  if (command == "serve") {
    return RunServer({.data = options.data,
                      .model = options.model,
                      .page = options.page,
                      .client = options.client,
                      .port = static_cast<int>(port)});
  }
  options.port = static_cast<int>(port);
  options.bookings = static_cast<size_t>(passengers);
  options.kills = static_cast<size_t>(kills);
  return RunDemo(options);
}
