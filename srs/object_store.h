// srs/object_store.h - what the object stores share.
#pragma once
#include <string>
#include <string_view>

#include "edge/base/checksum.h"
#include "edge/srs/object_store.h"

namespace edge::srs {

Status CheckKey(std::string_view key);  // InvalidArgument
std::string EtagOf(ByteView content);

}  // namespace edge::srs
