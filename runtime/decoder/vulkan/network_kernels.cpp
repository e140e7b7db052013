#include "runtime/decoder/vulkan/network_kernels.h"

#include <algorithm>

#include "runtime/codec/synthesis.h"

namespace nwc {
namespace {

constexpr uint32_t kMlpThreads = 128;
constexpr uint32_t kMlpStates = 2048, kMaxMlpStates = 8192;  // numbers of h in shared memory
constexpr uint32_t kMlpChunks = 32;

void append(std::vector<float>* to, const std::vector<float>& from) { to->insert(to->end(), from.begin(), from.end()); }

/// [out][in] -> [in][out].
void append_transposed(std::vector<float>* to, const std::vector<float>& matrix, uint32_t out, uint32_t in) {
  for (uint32_t i = 0; i < in; ++i) {
    for (uint32_t o = 0; o < out; ++o) to->push_back(matrix[size_t{o} * in + i]);
  }
}

/// Numbers of h in a workgroup's shared memory. The more chunks share what is read of the network, the better; software
/// has caches, and compiles longer.
uint32_t mlp_states(const DeviceInfo& device) {
  if (device.quirks.software) return kMlpStates;
  return std::clamp(device.max_shared_memory / 2 / 4, kMlpStates, kMaxMlpStates);
}

/// Specialization constants of common/synthesis.glsl: as many chunks to a workgroup as so many numbers of h are, an
/// even number.
PipelineKey mlp_pipeline(const Network& net, uint32_t states, uint32_t* chunks) {
  const uint32_t w = net.width;
  // Two outputs and eight chunks an invocation, so that what it loads is used several times.
  const uint32_t output_threads = std::min(w < 64 ? w : w / 2, kMlpThreads);
  const uint32_t chunk_threads = std::max(1u, kMlpThreads / output_threads);
  const uint32_t outputs_per_thread = (w + output_threads - 1) / output_threads;
  const uint32_t most = std::min(kMlpChunks, states / w);
  const uint32_t chunks_per_thread = chunk_threads == 1 ? most / 2 * 2 : most / chunk_threads;
  *chunks = chunk_threads * chunks_per_thread;
  return {ShaderId::kSynthesisMlp,
          {output_threads * chunk_threads, w, output_threads, chunk_threads, outputs_per_thread, chunks_per_thread,
           static_cast<uint32_t>(net.blocks.size()), static_cast<uint32_t>(net.activation), net.layer_norm ? 1u : 0u},
          0};
}

/// The same for synthesis_mlp_product.comp: as many vectors at a time as have room, up to those that keep a workgroup's
/// invocations busy.
PipelineKey mlp_product_pipeline(PipelineKey key, uint32_t chunks, const DeviceInfo& device) {
  constexpr uint32_t kMostVectors = 4;
  const uint32_t threads = key.constants[0], w = key.constants[1];
  // Four bytes each: h, z and the sums of LayerNorm, x times scale, and what alignment may cost; then of a vector sums
  // of features, parts of outputs.
  const uint32_t others = 4 * (chunks * (w + 4 + 2 * kChunk + 8) + 32);
  const uint32_t vector = 4 * (w + kChunk + 4 + threads);
  const uint32_t room = (device.max_shared_memory - others) / vector;
  key.shader = ShaderId::kSynthesisMlpProduct;
  key.constants.push_back(std::clamp(room, 1u, kMostVectors));
  return key;
}

}  // namespace

std::vector<float> pack_network(const CodecRecord& codec) {
  const Network& net = codec.synthesis;
  const uint32_t w = net.width;
  std::vector<float> packed;
  for (uint32_t l = 0; l < codec.num_levels; ++l) {
    packed.push_back(codec.step[l]);
    packed.push_back(codec.shrink[l]);
  }
  append_transposed(&packed, net.A, w, kChunk);
  append(&packed, net.a);
  const FoldedBlock folded = fold_first_block(net);
  append_transposed(&packed, folded.A, static_cast<uint32_t>(folded.a.size()), kChunk);
  append(&packed, folded.a);
  for (size_t b = 0; b < net.blocks.size(); ++b) {
    if (b != 0) {
      append_transposed(&packed, net.blocks[b].V, w, w);
      append(&packed, net.blocks[b].v);
    }
    append(&packed, net.blocks[b].gain);
    append(&packed, net.blocks[b].bias);
    const auto embedding = net.E.begin() + static_cast<std::ptrdiff_t>(b * codec.num_levels * w);
    packed.insert(packed.end(), embedding, embedding + static_cast<std::ptrdiff_t>(size_t{codec.num_levels} * w));
  }
  append(&packed, net.C);
  append(&packed, net.c);
  append(&packed, net.S);
  return packed;
}

NetworkKernels network_kernels(const Network& network, const DeviceInfo& device) {
  NetworkKernels kernels;
  kernels.synthesis = mlp_pipeline(network, mlp_states(device), &kernels.chunks);
  kernels.product = mlp_product_pipeline(kernels.synthesis, kernels.chunks, device);
  return kernels;
}

uint32_t least_network_chunks(const Network& network) {
  uint32_t chunks = 0;
  mlp_pipeline(network, kMlpStates, &chunks);
  return chunks;
}

}  // namespace nwc
