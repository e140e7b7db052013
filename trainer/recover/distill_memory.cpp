#include "trainer/recover/distill_memory.h"

#include <algorithm>

namespace nwc {
namespace {

constexpr uint64_t kKeptBytes = uint64_t{1} << 30;

/// Bytes of matrices as floats, and of what a worker's pass holds for a token: values and their gradients.
struct LayerSizes {
  uint64_t all = 0, largest = 0, per_token = 0;

  bool keeps_all() const { return all <= kKeptBytes; }
};

LayerSizes layer_sizes(const ModelGraph& model) {
  LayerSizes out;
  for (uint32_t l = 0; l < model.num_layers(); ++l) {
    uint64_t matrices = 0, values = 0;
    for (const LayerMatrix& m : model.layer(l).matrices()) matrices += static_cast<uint64_t>(m.rows * m.cols);
    for (const Eigen::Index width : model.layer(l).widths()) values += static_cast<uint64_t>(width);
    out.all += sizeof(float) * matrices;
    out.largest = std::max(out.largest, sizeof(float) * matrices);
    out.per_token = std::max(out.per_token, 2 * sizeof(float) * values);
  }
  return out;
}

}  // namespace

bool keeps_layers(const ModelGraph& model) { return layer_sizes(model).keeps_all(); }

Result<uint64_t> distill_memory_bytes(const ModelSource& source, const DistillChoices& choices, uint64_t tokens,
                                      uint32_t workers) {
  NWC_ASSIGN_OR_RETURN(const ModelGraph model, ModelGraph::open(source, choices.context));
  const LayerSizes sizes = layer_sizes(model);
  // Both models' heads, both models' states and those that judge, and those in front of each layer of a batch.
  const uint64_t rows = 2 * uint64_t{source.model()->vocab_size} + 2 * tokens + tokens / 4 +
                        uint64_t{choices.batch_tokens} * (model.num_layers() + 1);
  return sizeof(float) * source.model()->hidden_size * rows + (sizes.keeps_all() ? sizes.all : sizes.largest) +
         sizes.per_token * model.context() * workers;
}

}  // namespace nwc
