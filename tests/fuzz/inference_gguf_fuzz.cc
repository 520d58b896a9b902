// Any bytes as a model file: parsed, its tokenizer and template read, and the model opened
// and run for a token if it holds together.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "edge/inference/chat.h"
#include "edge/inference/gguf.h"
#include "edge/inference/tokenizer.h"
#include "inference/model.h"

namespace edge::inference {
namespace {

void RunOnce(const GgufFile& file) {
  ThreadPool pool(1);
  const auto model = Model::Load(file, &pool);
  if (!model.ok()) return;
  const ModelShape& s = (*model)->shape();
  const auto pass = ForwardPass::Create(
      **model, &pool, {.kernels = &BestKernels(), .tokens_max = 2, .context_max = 16});
  if (!pass.ok()) return;
  auto kv = KvPool::Create({s.layers, s.kv_heads, s.head_size, true}, 64 << 20);
  if (!kv.ok()) return;
  KvSequence sequence(&*kv);
  if (!sequence.Reserve(2)) return;
  const TokenId tokens[] = {0, static_cast<TokenId>(s.vocabulary - 1)};
  const PassSpan span{.sequence = &sequence, .tokens = tokens, .logits = 1};
  (*pass)->Run({&span, 1});
}

}  // namespace
}  // namespace edge::inference

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace edge::inference;
  const auto file = GgufFile::Parse({reinterpret_cast<const std::byte*>(data), size}, "fuzz.gguf");
  if (!file.ok()) return 0;
  for (const GgufTensor& tensor : (*file)->tensors()) {
    if (tensor.offset + tensor.bytes.size() > size) __builtin_trap();
  }
  (void)ChatTemplate::FromGguf(**file);
  if (const auto tokenizer = Tokenizer::FromGguf(**file); tokenizer.ok()) {
    const std::string text = "Hello, 123 \xE2\x82\xAC\xFF <s>";
    for (const ControlText control : {ControlText::kPlain, ControlText::kParse}) {
      const auto ids = (*tokenizer)->Encode(text, control);
      (void)(*tokenizer)->Decode(ids);
    }
  }
  RunOnce(**file);
  return 0;
}
