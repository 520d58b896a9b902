// tests/srs/s3_server.h - a real S3 server on loopback, for the tests that need one.
#pragma once
#include <fcntl.h>
#include <sys/wait.h>

#include <cstdio>
#include <vector>

#include "edge/srs/s3_store.h"
#include "tests/srs/srs_test_util.h"

namespace edge::srs {

enum class Signatures : uint8_t { kIgnored, kChecked };

// moto, with the bucket "bucket".
class S3Server {
 public:
  explicit S3Server(Signatures signatures = Signatures::kIgnored) {
    std::string packages = EDGE_SOURCE_DIR "/build/python";
    INFO("the Python package moto is missing in " << packages << ": run scripts/setup");
    REQUIRE(std::filesystem::exists(packages + "/moto/server.py"));
    std::string python = "python3";
    std::string script = EDGE_SOURCE_DIR "/tests/srs/s3_server.py";
    std::string check = signatures == Signatures::kChecked ? "check" : "";
    char* arguments[] = {python.data(), script.data(), packages.data(), check.data(), nullptr};
    int in[2];
    int out[2];
    REQUIRE(pipe2(in, O_CLOEXEC) == 0);
    REQUIRE(pipe2(out, O_CLOEXEC) == 0);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(in[0], 0);
      dup2(out[1], 1);
      execvp(arguments[0], arguments);
      _exit(127);
    }
    close(in[0]);
    close(out[1]);
    stdin_ = in[1];
    FILE* const lines = fdopen(out[0], "r");
    char key[64] = "";
    char secret[64] = "";
    const int fields = std::fscanf(lines, "%d %63s %63s", &port_, key, secret);
    std::fclose(lines);
    REQUIRE(fields == 3);
    key_ = key;
    secret_ = secret;
  }
  ~S3Server() {
    close(stdin_);  // which ends it
    waitpid(pid_, nullptr, 0);
  }
  S3Server(const S3Server&) = delete;

  S3Options options() const {
    S3Options options;
    options.bucket = "bucket";
    options.prefix = "some/prefix";
    options.endpoint = "http://127.0.0.1:" + std::to_string(port_);
    options.access_key = key_;
    options.secret_key = secret_;
    options.part_bytes = 5 << 20;
    return options;
  }

 private:
  pid_t pid_ = -1;
  int stdin_ = -1;
  int port_ = 0;
  std::string key_;
  std::string secret_;
};

}  // namespace edge::srs
