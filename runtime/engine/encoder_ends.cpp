#include "runtime/engine/encoder_ends.h"

#include <algorithm>
#include <cmath>

#include "runtime/engine/attention.h"
#include "runtime/engine/kernels_cpu.h"
#include "runtime/graph/resize.h"

namespace nwc {
namespace {

/// Patches that are multiplied together.
constexpr uint32_t kPatchesAtOnce = 64;

uint64_t floats(uint64_t count) { return Buffer::rounded(count * sizeof(float)); }
uint64_t patch_numbers(const EncoderSpec& e) { return uint64_t{e.channels} * e.patch_size * e.patch_size; }
/// Positioned tokens: class token and patches.
uint64_t positioned(const EncoderSpec& e) {
  return (e.class_token ? 1 : 0) + uint64_t{e.grid_height()} * e.grid_width();
}

struct Sizes {
  uint64_t weights = 0, positions = 0, states = 0, patches = 0, scratch = 0, work = 0;
};

Sizes sizes_of(const ModelLayout& layout, uint32_t tokens, uint32_t workers) {
  const ModelRecord& m = layout.model;
  const EncoderSpec& e = m.ends.encoder;
  Sizes s;
  s.weights = floats(layout.end_elements);
  s.states = floats(uint64_t{tokens} * m.hidden_size);
  // The state, what comes before and behind a product, the inner activations, and the scores of a head.
  s.work = floats(3 * uint64_t{m.hidden_size} + std::max(m.block().intermediate_size, m.hidden_size) + tokens);
  if (!e.of_images()) return s;
  s.positions = e.position_fit == PositionFit::kExact ? 0 : floats(positioned(e) * m.hidden_size);
  s.patches = floats(kPatchesAtOnce * patch_numbers(e));
  s.scratch = workers * floats(kMatmulScratch);
  return s;
}

}  // namespace

uint64_t EncoderEnds::bytes(const ModelLayout& layout, uint32_t tokens, uint32_t workers) {
  const Sizes s = sizes_of(layout, tokens, workers);
  return s.weights + s.positions + s.states + s.patches + s.scratch + s.work;
}

Status EncoderEnds::load(WeightSource& source, uint32_t tokens, HostMemory* memory) {
  const Sizes s = sizes_of(layout_, tokens, runner_.num_workers());
  NWC_TRY(weights_.allocate(s.weights, memory, "the encoder's ends"));
  NWC_TRY(positions_.allocate(s.positions, memory, "an image's positions"));
  NWC_TRY(states_.allocate(s.states, memory, "the hidden states"));
  NWC_TRY(patches_.allocate(s.patches, memory, "an image's patches"));
  NWC_TRY(scratch_.allocate(s.scratch, memory, "the threads' scratch memory"));
  NWC_TRY(work_.allocate(s.work, memory, "the pooled state"));
  NWC_TRY(source.decode_vectors(layout_.ends, weights_.as<float>()));
  if (s.positions != 0) fit_positions();
  return {};
}

const float* EncoderEnds::of(Role role) const {
  for (const VectorPlace& place : layout_.ends) {
    if (place.role == role) return weights_.as<float>() + place.at;
  }
  return nullptr;
}

// Learned positions are of a square of patches; the image has another grid.
void EncoderEnds::fit_positions() {
  const EncoderSpec& e = model_.ends.encoder;
  const size_t n = model_.hidden_size, first = e.class_token ? n : 0;
  const uint32_t rows = model_.ends.position_rows - (e.class_token ? 1 : 0);
  const auto side = static_cast<uint32_t>(std::lround(std::sqrt(static_cast<double>(rows))));
  const float* from = of(Role::kPositions);
  float* to = positions_.as<float>();
  std::copy_n(from, first, to);
  const Resize kind = e.position_fit == PositionFit::kBicubic ? Resize::kBicubic : Resize::kBicubicAntialiased;
  const std::vector<ResizeTaps> down = resize_taps(kind, side, e.grid_height());
  const std::vector<ResizeTaps> across = resize_taps(kind, side, e.grid_width());
  std::vector<double> sums(n);
  for (uint32_t y = 0; y < e.grid_height(); ++y) {
    for (uint32_t x = 0; x < e.grid_width(); ++x) {
      std::fill(sums.begin(), sums.end(), 0.0);
      for (size_t i = 0; i < down[y].weights.size(); ++i) {
        for (size_t j = 0; j < across[x].weights.size(); ++j) {
          const double weight = down[y].weights[i] * across[x].weights[j];
          const float* row = from + first + (size_t{down[y].at[i]} * side + across[x].at[j]) * n;
          for (size_t d = 0; d < n; ++d) sums[d] += weight * static_cast<double>(row[d]);
        }
      }
      float* out = to + first + (size_t{y} * e.grid_width() + x) * n;
      for (size_t d = 0; d < n; ++d) out[d] = static_cast<float>(sums[d]);
    }
  }
}

uint64_t EncoderEnds::num_pixels() const {
  const EncoderSpec& e = model_.ends.encoder;
  return uint64_t{e.channels} * e.image_height * e.image_width;
}

std::span<const float> EncoderEnds::embed_image(std::span<const float> pixels) {
  const EncoderSpec& e = model_.ends.encoder;
  const size_t n = model_.hidden_size, side = e.patch_size, cols = static_cast<size_t>(patch_numbers(e));
  const uint32_t width = e.grid_width(), num_patches = e.grid_height() * width;
  float* const x = states();
  const uint32_t first = (e.class_token ? 1 : 0) + e.registers;
  const WeightView patch{of(Role::kPatch), Dtype::kF32, model_.hidden_size, static_cast<uint32_t>(cols)};
  for (uint32_t begin = 0; begin < num_patches; begin += kPatchesAtOnce) {
    const uint32_t count = std::min(kPatchesAtOnce, num_patches - begin);
    parallel_for(runner_, count, [&](uint32_t i, uint32_t) {
      const size_t top = size_t{(begin + i) / width} * side, left = size_t{(begin + i) % width} * side;
      float* to = patches_.as<float>() + i * cols;
      for (uint32_t c = 0; c < e.channels; ++c) {
        for (size_t row = 0; row < side; ++row, to += side) {
          const size_t at = (size_t{c} * e.image_height + top + row) * e.image_width + left;
          std::copy_n(pixels.data() + at, side, to);
        }
      }
    });
    matmul(kernels_, runner_, count, patches_.as<float>(), cols, patch, x + (first + begin) * n, n,
           scratch_.as<float>());
  }
  if (e.patch_bias) add_bias(runner_, num_patches, model_.hidden_size, of(Role::kPatchBias), x + first * n, n);
  if (e.class_token) std::copy_n(of(Role::kClassToken), n, x);
  if (e.registers != 0) std::copy_n(of(Role::kRegisters), e.registers * n, x + n);
  if (model_.ends.position_rows == 0) return {x, num_image_tokens() * n};
  const float* position = positions_.size() != 0 ? positions_.as<float>() : of(Role::kPositions);
  if (e.class_token) {
    for (size_t i = 0; i < n; ++i) x[i] += position[i];
    position += n;
  }
  for (size_t i = 0; i < num_patches * n; ++i) x[first * n + i] += position[i];
  return {x, num_image_tokens() * n};
}

// out [rows] = W in + bias.
void EncoderEnds::multiply(Role weight, std::optional<Role> bias, uint32_t rows, uint32_t cols, const float* in,
                           float* out) const {
  const float* const w = of(weight);
  const float* const b = bias ? of(*bias) : nullptr;
  parallel_for(runner_, rows, [&](uint32_t r, uint32_t) {
    double sum = b == nullptr ? 0.0 : static_cast<double>(b[r]);
    for (uint32_t c = 0; c < cols; ++c)
      sum += static_cast<double>(w[size_t{r} * cols + c]) * static_cast<double>(in[c]);
    out[r] = static_cast<float>(sum);
  });
}

void EncoderEnds::norm(Role gain, Role bias, float* x) const {
  const BlockSpec& block = model_.blocks.front();
  const uint32_t n = model_.hidden_size;
  const NormParams params{block.norm, block.norm_eps, of(gain), of(bias)};
  norm_rows(kernels_, runner_, 1, n, params, rows_of(x, n), rows_of(x, n));
}

// One learned query attends to all states. Keys and values need not be made of every state: the scores q (K x + b) are
// (K^T q) x but for a number that the softmax does not see, and the weighted mean of V x + b is V (mean of x) + b.
void EncoderEnds::pool_by_attention(const float* hidden, uint32_t count, float* out) {
  const BlockSpec& block = model_.blocks.front();
  const uint32_t n = model_.hidden_size, dim = block.head_dim;
  const float* const qkv = of(Role::kPoolQkv);
  const float* const bias = of(Role::kPoolQkvBias);
  float* const query = work_.as<float>() + n;
  float* const attended = query + n;
  float* const folded = attended + n;  // [hidden] of a head, and later the MLP's activations
  float* const scores = folded + std::max(block.intermediate_size, n);
  multiply(Role::kPoolQkv, Role::kPoolQkvBias, n, n, of(Role::kPoolProbe), query);  // the first rows are the query's
  for (uint32_t h = 0; h < block.num_heads; ++h) {
    const float* const q = query + size_t{h} * dim;
    const float* const keys = qkv + (n + size_t{h} * dim) * n;
    parallel_for(runner_, n, [&](uint32_t c, uint32_t) {
      double sum = 0;
      for (uint32_t d = 0; d < dim; ++d)
        sum += static_cast<double>(q[d]) * static_cast<double>(keys[size_t{d} * n + c]);
      folded[c] = static_cast<float>(sum);
    });
    parallel_for(runner_, count, [&](uint32_t t, uint32_t) {
      double sum = 0;
      for (uint32_t c = 0; c < n; ++c)
        sum += static_cast<double>(folded[c]) * static_cast<double>(hidden[size_t{t} * n + c]);
      scores[t] = static_cast<float>(sum);
    });
    kernels_.softmax(scores, count, score_scale(block));
    parallel_for(runner_, n, [&](uint32_t c, uint32_t) {  // the mean of the states by this head's weights
      double sum = 0;
      for (uint32_t t = 0; t < count; ++t)
        sum += static_cast<double>(scores[t]) * static_cast<double>(hidden[size_t{t} * n + c]);
      folded[c] = static_cast<float>(sum);
    });
    const size_t first = 2 * size_t{n} + size_t{h} * dim;
    for (uint32_t d = 0; d < dim; ++d) {
      double sum = static_cast<double>(bias[first + d]);
      const float* row = qkv + (first + d) * n;
      for (uint32_t c = 0; c < n; ++c) sum += static_cast<double>(row[c]) * static_cast<double>(folded[c]);
      attended[size_t{h} * dim + d] = static_cast<float>(sum);
    }
  }
  multiply(Role::kPoolOutput, Role::kPoolOutputBias, n, n, attended, out);
  std::copy_n(out, n, query);
  norm(Role::kPoolNorm, Role::kPoolNormBias, query);
  multiply(Role::kPoolUp, Role::kPoolUpBias, block.intermediate_size, n, query, folded);
  activate(kernels_, runner_, 1, block.intermediate_size, block, folded);
  multiply(Role::kPoolDown, Role::kPoolDownBias, n, block.intermediate_size, folded, attended);
  for (uint32_t i = 0; i < n; ++i) out[i] += attended[i];
}

void EncoderEnds::pool(const float* hidden, uint32_t count, std::span<const uint32_t> ids, float* out) {
  const EncoderSpec& e = model_.ends.encoder;
  const uint32_t n = model_.hidden_size, size = model_.embedding_size();
  float* state = work_.as<float>();
  const auto take = [&](uint32_t token) { std::copy_n(hidden + size_t{token} * n, n, state); };
  switch (e.pooling) {
    case Pooling::kNone: return;
    case Pooling::kFirst: take(0); break;
    case Pooling::kMean:
      for (uint32_t i = 0; i < n; ++i) {
        double sum = 0;
        for (uint32_t t = 0; t < count; ++t) sum += static_cast<double>(hidden[size_t{t} * n + i]);
        state[i] = static_cast<float>(sum / count);
      }
      break;
    case Pooling::kEndOfText: {
      uint32_t token = 0;
      const auto ends = [&](uint32_t id) {
        return std::find(model_.eos_ids.begin(), model_.eos_ids.end(), id) != model_.eos_ids.end();
      };
      while (token + 1 < count && !ends(ids[token])) ++token;
      take(token);
      break;
    }
    case Pooling::kAttention: pool_by_attention(hidden, count, state); break;
  }
  if (e.pooled_norm) norm(Role::kFinalNorm, Role::kFinalNormBias, state);
  if (e.pooler) {
    float* const pooled = state + n;
    multiply(Role::kPooler, Role::kPoolerBias, n, n, state, pooled);
    for (uint32_t i = 0; i < n; ++i) state[i] = std::tanh(pooled[i]);
  }
  if (e.projection != 0) {
    multiply(Role::kProjection, std::nullopt, size, n, state, out);
  } else {
    std::copy_n(state, n, out);
  }
  if (!e.normalized) return;
  double squares = 0;
  for (uint32_t i = 0; i < size; ++i) squares += static_cast<double>(out[i]) * static_cast<double>(out[i]);
  const double length = std::max(std::sqrt(squares), 1e-12);
  for (uint32_t i = 0; i < size; ++i) out[i] = static_cast<float>(static_cast<double>(out[i]) / length);
}

}  // namespace nwc
