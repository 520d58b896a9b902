// The server of the flights app.
#pragma once
#include <string>

struct ServerOptions {
  std::string data;    // databases, journal, and the folder that is the object store
  std::string model;   // a GGUF file; empty: no assistant
  std::string page;    // folder of the web page
  std::string client;  // the stock capnweb client; empty: the page cannot connect
  int port = 8787;     // on 127.0.0.1; 0 takes a free one
};

// Serves until SIGINT or SIGTERM, then stops cleanly. Prints "LISTENING <address>" on stdout
// once it does. The capability of an operator is guarded by the text in the environment
// variable EDGE_OPERATOR_TOKEN; without one nobody is. Returns the exit status.
int RunServer(const ServerOptions& options);
