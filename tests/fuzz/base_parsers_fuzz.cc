// Every parser of base that meets bytes or text it did not write: ByteReader, hexadecimal,
// traceparent, and format strings.
#include <cstdlib>

#include "edge/base/bytes.h"
#include "edge/base/errors.h"
#include "edge/base/trace.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const edge::ByteView input(reinterpret_cast<const std::byte*>(data), size);
  edge::ByteReader plan(input);  // the first bytes say how the rest is read
  const uint64_t steps = plan.U64();
  edge::ByteReader reader(plan.Raw(plan.remaining()));
  for (int i = 0; i < 16; ++i) {
    switch (steps >> (4 * i) & 7) {
      case 0:
        reader.U8();
        break;
      case 1:
        reader.U16();
        break;
      case 2:
        reader.U32();
        break;
      case 3:
        reader.U64();
        break;
      case 4:
        reader.Varint();
        break;
      case 5:
        reader.Sized();
        break;
      default:
        reader.Raw(steps >> i & 0xff);
    }
    if (reader.offset() > size) std::abort();
  }

  const std::string_view text = edge::AsText(input);
  edge::Bytes bytes(size / 2);
  if (edge::FromHex(text, bytes)) {
    edge::Bytes again(size / 2);
    if (!edge::FromHex(edge::ToHex(bytes), again) || again != bytes) std::abort();
  }
  edge::TraceContext context;
  if (edge::TraceContext::FromTraceparent(text, &context)) {
    edge::TraceContext again;
    if (!edge::TraceContext::FromTraceparent(context.ToTraceparent(), &again)) std::abort();
    if (again.span_id != context.span_id) std::abort();
  }
  // No width from a stranger: "{:999999999}" is asked for and would be given.
  if (size < 10) edge::Format(text, {1, "two", 3.0});
  return 0;
}
