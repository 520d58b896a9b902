// edge/config.h - the one JSON file that says what an application is made of.
//
//   { "threads": 2, "data": "data",
//     "kv":      { "CONFIG":  { "hot_bytes_max": "64MiB", "origin": "sqlite" } },
//     "durable": { "FLIGHTS": { "durability": "local" } },
//     "srs":     { "store": "folder:backup", "batch_interval_ms": 10000 },
//     "ai":      { "model": "model.gguf", "kv_bytes_max": "256MiB", "threads": 2 },
//     "services": { "AUTH": { "url": "ws://10.0.0.7:8787/auth", "deadline_ms": 2000 } },
//     "listen":  { "http": "127.0.0.1:8787" } }
//
// Every key is optional. A key that is not known, or a value of the wrong kind or out of its
// range, is InvalidArgument with the path: `kv.CONFIG.hot_bytes_mx: unknown; did you mean
// hot_bytes_max?`. Sizes are numbers of bytes or text such as "64MiB", "1.5GiB", "10MB".
// Relative paths are relative to the file's own folder.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "edge/base/file_system.h"
#include "edge/base/status.h"

namespace edge {

struct KvConfig {
  uint64_t hot_bytes_max = 64 << 20;  // [1 MiB, 1 TiB]
  std::string origin = "sqlite";      // "sqlite" (kept through the relay) or "memory"
};

struct DurableConfig {
  std::string durability = "local";  // when an answer may leave: "local" (journal synced)
};

struct SrsConfig {
  std::string store;  // "folder:PATH" or "s3://..." (srs::OpenStore); empty: journal only
  int64_t batch_interval_ms = 10'000;   // [10, 3 600 000]
  uint64_t batch_bytes_max = 16 << 20;  // [64 KiB, 1 GiB]
};

struct AiConfig {
  std::string model;                  // path of a GGUF file
  uint64_t kv_bytes_max = 256 << 20;  // [1 MiB, 1 TiB]
  int threads = 2;                    // [1, 256]
};

// A service binding: where App::Service finds the object. Without `url` it is in this process
// (App::Provide).
struct ServiceConfig {
  std::string url;               // "ws://10.0.0.7:8787/auth", wss, ws+unix
  std::string expose;            // a path at which listen.http serves the local one
  std::string token;             // to send, or with `expose` to ask for; empty: none
  std::string ca;                // for wss: PEM or its path; empty: the system's
  int64_t deadline_ms = 10'000;  // of each call, [0, 3 600 000]; 0: none
  int retries_max = 3;           // of idempotent calls, [0, 20]
};

struct ListenConfig {
  std::string http;  // "127.0.0.1:8787"; port 0 takes a free one; empty: do not listen
};

// Thread-compatible value.
struct AppConfig {
  int threads = 2;                                            // event loops, [1, 256]
  std::string data = "data";                                  // journal and database files
  std::map<std::string, KvConfig, std::less<>> kv;            // by binding name
  std::map<std::string, DurableConfig, std::less<>> durable;  // by binding name
  SrsConfig srs;
  std::optional<AiConfig> ai;
  std::map<std::string, ServiceConfig, std::less<>> services;  // by binding name
  ListenConfig listen;

  // `folder` is put before relative paths; empty leaves them as they are.
  static StatusOr<AppConfig> Parse(std::string_view json, const std::string& folder = "");
  // NotFound, PermissionDenied and so on if the file cannot be read.
  static StatusOr<AppConfig> Load(const std::string& path, FileSystem& files = PosixFileSystem());
};

}  // namespace edge
