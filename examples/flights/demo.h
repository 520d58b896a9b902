// The demo's options and entry; main.cc reads the command line.
#pragma once
#include <cstddef>
#include <string>

struct DemoOptions {
  std::string data = "build/demo";  // emptied first
  std::string model;                // a GGUF file
  std::string page = "examples/flights/page";
  std::string client;  // the stock capnweb client, a JavaScript module
  int port = 0;        // 0: a free one
  size_t bookings = 34'000;
  size_t kills = 1;  // SIGKILLs during the load
  double load_seconds_max = 60;
  bool serve = false;  // leave the server running afterwards
};

// Returns the exit status: 0 only if nothing was lost.
int RunDemo(const DemoOptions& options);
