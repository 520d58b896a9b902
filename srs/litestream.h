// srs/litestream.h - one database as a snapshot file of Litestream 0.5.
//
// The file is LTX, format 3 as its tools call it: a header, every page behind its number as
// an LZ4 block, an index of the pages and a trailer; big-endian, with a CRC-64 over all but
// with the pages before compression. We write blocks of literals only: what comes out is a
// copy for a change of tools, not for keeping. Byte table: docs/formats/litestream.md.
#pragma once
#include <string>

#include "edge/base/file_system.h"
#include "srs/record.h"

namespace edge::srs {

// Writes <folder>/ltx/9/0000000000000001-<lsn>.ltx from `image`, complete or not at all.
Status WriteLitestream(FileSystem& files, const std::string& folder, const State& state,
                       PageImage* image);

}  // namespace edge::srs
