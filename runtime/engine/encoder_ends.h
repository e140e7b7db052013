// The ends of an encoder, on the host whatever computes its blocks: from pixels to what goes into the first block, and
// from final hidden states to the embedding. doc/format_model.md, part 8.
#pragma once

#include <optional>

#include "runtime/engine/buffer.h"
#include "runtime/engine/kernel_table.h"
#include "runtime/engine/layer_stream.h"

namespace nwc {

class EncoderEnds {
 public:
  /// What load() allocates.
  static uint64_t bytes(const ModelLayout& layout, uint32_t tokens, uint32_t workers);

  /// layout, kernels and runner outlive it.
  EncoderEnds(const ModelLayout& layout, const KernelTable& kernels, Runner& runner)
      : layout_(layout), model_(layout.model), kernels_(kernels), runner_(runner) {}
  /// tokens: the most of a text or an image. memory: where it lies.
  Status load(WeightSource& source, uint32_t tokens, HostMemory* memory);

  /// Numbers of an image: channels * height * width.
  uint64_t num_pixels() const;
  uint32_t num_image_tokens() const { return model_.max_positions; }
  /// The residual stream of an image in states().
  /// shapes: pixels [channels][height][width], normalized as the model was trained; result [num_image_tokens()][hidden]
  std::span<const float> embed_image(std::span<const float> pixels);
  /// hidden [count][hidden], final states; ids of a text, or none. out [embedding_size()]
  void pool(const float* hidden, uint32_t count, std::span<const uint32_t> ids, float* out);
  /// Room for the states of all tokens, [tokens][hidden].
  float* states() { return states_.as<float>(); }

 private:
  const float* of(Role role) const;
  void fit_positions();
  void pool_by_attention(const float* hidden, uint32_t count, float* out);
  void multiply(Role weight, std::optional<Role> bias, uint32_t rows, uint32_t cols, const float* in, float* out) const;
  void norm(Role gain, Role bias, float* x) const;

  const ModelLayout& layout_;
  const ModelRecord& model_;
  const KernelTable& kernels_;
  Runner& runner_;
  Buffer weights_, positions_, states_, patches_, scratch_, work_;
};

}  // namespace nwc
