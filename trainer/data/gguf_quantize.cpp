#include "trainer/data/gguf_quantize.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

namespace nwc {
namespace {

constexpr size_t kMaxBlock = 256;
/// Beyond what any block can hold. Q6_K makes zeros of weights whose squares overflow.
constexpr float kTooLarge = 65504.f * 128 * 32;
constexpr size_t kChunkElements = 1u << 14;  ///< of a task; whole blocks

}  // namespace

Status quantize(const GgmlType& type, uint64_t first, Bytes values, Runner& runner, MutableBytes out) {
  const size_t from_bytes = type.block_elements * sizeof(float), per_chunk = kChunkElements / type.block_elements;
  const size_t blocks = values.size() / from_bytes, chunks = (blocks + per_chunk - 1) / per_chunk;
  assert(type.encode != nullptr && type.block_elements <= kMaxBlock && blocks * from_bytes == values.size());
  assert(out.size() == blocks * type.block_bytes);
  float x[kMaxBlock];
  const auto load = [&](size_t block, float* to) { std::memcpy(to, &values[block * from_bytes], from_bytes); };
  // A scale that is not finite shows in every element that is decoded, but a weight that is NaN may not.
  const auto encode = [&](size_t block) {
    float before[kMaxBlock], after[kMaxBlock];
    load(block, before);
    uint8_t* bytes = out.data() + block * type.block_bytes;
    type.encode(before, bytes);
    type.decode(bytes, after);
    for (size_t i = 0; i < type.block_elements; ++i) {
      if (!(std::fabs(before[i]) < kTooLarge) || !std::isfinite(after[i])) return false;
    }
    return true;
  };
  std::atomic<size_t> bad{SIZE_MAX};  // the first one, so that the message does not depend on the threads
  constexpr size_t kMost = UINT32_MAX;
  for (size_t base = 0; base < chunks; base += kMost) {
    parallel_for(runner, static_cast<uint32_t>(std::min(kMost, chunks - base)), [&](uint32_t index, uint32_t) {
      const size_t begin = (base + index) * per_chunk, end = std::min(blocks, begin + per_chunk);
      for (size_t block = begin; block < end; ++block) {
        if (encode(block)) continue;
        size_t seen = bad.load();
        while (block < seen && !bad.compare_exchange_weak(seen, block)) {
        }
        return;
      }
    });
  }
  if (bad == SIZE_MAX) return {};
  load(bad, x);
  const uint64_t number = first + bad * type.block_elements;
  for (size_t i = 0; i < type.block_elements; ++i) {
    if (std::isfinite(x[i])) continue;
    return unsupported("weight " + std::to_string(number + i) + " is " + std::to_string(x[i]) +
                       ", which has no place in blocks of " + type.name + "; choose f32, f16 or bf16");
  }
  return unsupported("the weights from number " + std::to_string(number) +
                     " on are too large for the half float that is their scale in blocks of " + type.name +
                     "; choose f32 or bf16");
}

}  // namespace nwc
