#include "runtime/decoder/vulkan/network_synthesis.h"

#include <algorithm>

#include "runtime/base/str_cat.h"
#include "runtime/codec/synthesis.h"
#include "runtime/decoder/vulkan/network_product.h"

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

/// The same for synthesis_mlp_product.comp. It takes as many vectors at a time as have room, but no more than keep a
/// workgroup's invocations busy.
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

/// The layout is that of shaders/common/synthesis.glsl.
std::vector<float> pack_network(const CodecRecord& codec) {
  const Network& net = codec.synthesis;
  const uint32_t w = net.width;
  std::vector<float> packed;
  for (uint32_t l = 0; l < codec.num_levels; ++l) {
    packed.push_back(codec.step[l]);
    packed.push_back(codec.shrink[l]);
  }
  append_transposed(&packed, net.input_weight, w, kChunk);
  append(&packed, net.input_bias);
  const FoldedBlock folded = fold_first_block(net);
  append_transposed(&packed, folded.weight, static_cast<uint32_t>(folded.bias.size()), kChunk);
  append(&packed, folded.bias);
  for (size_t b = 0; b < net.blocks.size(); ++b) {
    if (b != 0) {
      append_transposed(&packed, net.blocks[b].weight, w, w);
      append(&packed, net.blocks[b].bias);
    }
    append(&packed, net.blocks[b].norm_gain);
    append(&packed, net.blocks[b].norm_bias);
    const auto embedding = net.level_embedding.begin() + static_cast<std::ptrdiff_t>(b * codec.num_levels * w);
    packed.insert(packed.end(), embedding, embedding + static_cast<std::ptrdiff_t>(size_t{codec.num_levels} * w));
  }
  append(&packed, net.output_weight);
  append(&packed, net.output_bias);
  append(&packed, net.skip_weight);
  return packed;
}

uint32_t groups_for(uint64_t items, uint32_t per_group) { return static_cast<uint32_t>(ceil_div(items, per_group)); }

}  // namespace

NetworkSynthesis::NetworkSynthesis(const CodecRecord& codec, const DeviceInfo& device)
    : codec_(codec), most_macs_(most_submission_macs(device)) {
  synthesis_ = mlp_pipeline(codec.synthesis, mlp_states(device), &chunks_);
  product_ = mlp_product_pipeline(synthesis_, chunks_, device);
}

Status NetworkSynthesis::upload(VulkanDevice& device, PipelineCache& pipelines) {
  const std::vector<float> numbers = pack_network(codec_);
  const Bytes bytes(reinterpret_cast<const uint8_t*>(numbers.data()), numbers.size() * sizeof(float));
  NWC_ASSIGN_OR_RETURN(network_, upload_constant(device, pipelines, bytes));
  return {};
}

void NetworkSynthesis::route(WindowPath* path) const {
  path->rans = Consumer::kValues;
  path->network = true;
}

void NetworkSynthesis::limit(const WindowPath& path, WindowLimits* limits) const {
  if (!path.network) return;
  // The kernel's time is bounded, and its workgroups must not exceed what one dimension takes.
  limits->max_weights =
      std::min({limits->max_weights, static_cast<uint64_t>(most_macs_ / std::max(1.0, mac_per_weight())),
                kMaxGroups * chunks_ * uint64_t{kChunk}});
}

Status NetworkSynthesis::dispatch(WindowSlot& slot, const WindowRun& run, const WeightsOutput& out) {
  const WindowLayout& layout = *run.layout;
  const uint32_t first_block = static_cast<uint32_t>(run.row_begin / kChunk);
  const uint32_t chunks = (static_cast<uint32_t>(ceil_div(run.row_end, kChunk)) - first_block) * layout.width;
  const SynthesisPush push{.level_at = run.synthesis_level_at,
                           .scale_at = layout.scale_at,
                           .row_scale_at = layout.row_scale_at,
                           .width = layout.width,
                           .first_block = first_block,
                           .num_chunks = chunks,
                           .row_begin = static_cast<uint32_t>(run.row_begin),
                           .row_end = static_cast<uint32_t>(run.row_end),
                           .out_at = static_cast<uint32_t>(out.at),
                           .out_stride = static_cast<uint32_t>(out.stride),
                           .num_levels = codec_.num_levels};
  PipelineKey key = synthesis_;
  key.constants.push_back(static_cast<uint32_t>(run.path.convert ? Consumer::kF32 : consumer_of(run.path.dtype)));
  return slot.batch().dispatch(key, {&network_, slot.input_view(run), slot.values_view(run), out.view}, push,
                               groups_for(chunks, chunks_));
}

Status NetworkSynthesis::check(VulkanSelfTest& self_test, const RansVariant& variant) {
  return self_test.check_network(variant, Dtype::kF32);
}

Status NetworkSynthesis::dispatch_product(CommandBatch& batch, const BufferView& window, const BufferView& values,
                                          const BufferView& partials, const NetworkPush& push, uint32_t blocks) {
  return batch.dispatch(product_, {&network_, window, values, partials}, push,
                        {groups_for(push.width, chunks_), blocks, 1});
}

uint64_t NetworkSynthesis::product_bytes(const NwcFile& file, const VulkanOptions& options) const {
  return NetworkProduct::bytes_for(file, options);
}

Result<std::unique_ptr<SliceProduct>> NetworkSynthesis::create_product(DeviceContext& context) {
  const Status known = context.self_test->check_network_product(*this);
  if (known.code() == StatusCode::kNoDevice) {
    return Status(StatusCode::kDevice, str_cat(known.message(), ": multiply on the CPU"));
  }
  NWC_TRY(known);
  NWC_ASSIGN_OR_RETURN(std::unique_ptr<NetworkProduct> product, NetworkProduct::create(context, *this));
  return std::unique_ptr<SliceProduct>(std::move(product));
}

}  // namespace nwc
