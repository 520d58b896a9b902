// srs/link.h - who may talk: TLS 1.3 under a pre-shared key over any Network.
#pragma once
#include <memory>
#include <string>

#include "edge/base/network.h"
#include "edge/base/status.h"

namespace edge::srs {

inline constexpr size_t kSecretBytesMin = 16;

// Whether `address` can be reached from this machine only: 127.*, [::1], unix:.
bool IsLoopback(const std::string& address);

// A network whose connections are those of `base`, which must outlive it, inside TLS 1.3
// (TLS_AES_128_GCM_SHA256, psk_dhe_ke). A peer with another secret is refused: on_close gets
// Unauthenticated. An empty `secret`: plain connections, and FailedPrecondition from Listen
// and Connect where PosixNetwork would leave the machine. InvalidArgument: a short secret.
StatusOr<std::unique_ptr<Network>> SecureNetwork(Network& base, const std::string& secret);

}  // namespace edge::srs
