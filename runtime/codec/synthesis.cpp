#include "runtime/codec/synthesis.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>

#include "runtime/base/half.h"
#include "runtime/codec/synthesis_plan.h"

namespace nwc {
namespace {

constexpr uint32_t kRowsPerPanel = 8;

// [out][in] -> [out / 8][in][8]
void pack_matrix(const std::vector<float>& m, size_t in, std::vector<float>* to) {
  const size_t out = in == 0 ? 0 : m.size() / in;
  for (size_t panel = 0; panel < out; panel += kRowsPerPanel) {
    for (size_t i = 0; i < in; ++i) {
      for (size_t r = 0; r < kRowsPerPanel; ++r) to->push_back(m[(panel + r) * in + i]);
    }
  }
}

void append(const std::vector<float>& v, std::vector<float>* to) { to->insert(to->end(), v.begin(), v.end()); }

float dequantize(int16_t q, float step, float shrink) {
  const float sign = static_cast<float>((q > 0) - (q < 0));
  return (static_cast<float>(q) - sign * shrink) * step;
}

// out[o] = sum_i m[o][i] * in[i] + bias[o]; without bias: out[o] += the sum.
void multiply(const float* m, const float* bias, const float* in, size_t num_in, size_t num_out, float* out) {
  for (size_t o = 0; o < num_out; ++o) {
    float sum = bias == nullptr ? out[o] : bias[o];
    for (size_t i = 0; i < num_in; ++i) sum += m[o * num_in + i] * in[i];
    out[o] = sum;
  }
}

void normalise(const NetworkBlock& b, size_t w, float* u) {
  double mean = 0, variance = 0;
  for (size_t i = 0; i < w; ++i) mean += u[i];
  mean /= static_cast<double>(w);
  for (size_t i = 0; i < w; ++i) variance += (u[i] - mean) * (u[i] - mean);
  variance /= static_cast<double>(w);
  const double factor = 1.0 / std::sqrt(variance + 1e-5);
  for (size_t i = 0; i < w; ++i) u[i] = static_cast<float>((u[i] - mean) * factor) * b.norm_gain[i] + b.norm_bias[i];
}

// One chunk through section 5.5 but for the last layer: z -> h. h, u: [w].
void run_blocks(const Network& g, uint32_t num_levels, uint32_t level, const float* z, float* h, float* u) {
  const size_t w = g.width;
  multiply(g.input_weight.data(), g.input_bias.data(), z, kChunk, w, h);
  for (size_t b = 0; b < g.blocks.size(); ++b) {
    const NetworkBlock& block = g.blocks[b];
    const float* e = g.level_embedding.data() + (b * num_levels + level) * w;
    multiply(block.weight.data(), block.bias.data(), h, w, w, u);
    if (g.layer_norm) normalise(block, w, u);
    for (size_t i = 0; i < w; ++i) {
      const float act = g.activation == Activation::kRelu ? std::max(u[i], 0.0f) : u[i] / (1.0f + std::exp(-u[i]));
      h[i] = (h[i] + act) * e[i];
    }
  }
}

}  // namespace

FoldedBlock fold_first_block(const Network& g) {
  FoldedBlock folded;
  if (g.blocks.empty()) return folded;
  const NetworkBlock& first = g.blocks[0];
  for (size_t o = 0; o < g.width; ++o) {
    double row[kChunk] = {}, bias = first.bias[o];
    for (size_t i = 0; i < g.width; ++i) {
      const double factor = first.weight[o * g.width + i];
      for (size_t c = 0; c < kChunk; ++c) row[c] += factor * g.input_weight[i * kChunk + c];
      bias += factor * g.input_bias[i];
    }
    for (const double sum : row) folded.weight.push_back(static_cast<float>(sum));
    folded.bias.push_back(static_cast<float>(bias));
  }
  return folded;
}

uint64_t SynthesisPlan::bytes(const CodecRecord& codec) {
  const uint64_t w = codec.synthesis.width, blocks = codec.synthesis.blocks.size();
  const uint64_t folded = (kChunk + 1) * w, ends = kChunk * kChunk + 3 * kChunk * w + 2 * w + kChunk;
  const uint64_t numbers = ends + folded + blocks * (w * w + 3 * w) + blocks * w * kMaxLevels;
  return sizeof(SynthesisPlan) + (2 * numbers + folded) * sizeof(float);  // twice: the vector grows
}

SynthesisPlan::SynthesisPlan(const CodecRecord& codec) {
  const Network& g = codec.synthesis;
  const size_t w = g.width;
  view_.codec = &codec;
  view_.width = g.width;
  view_.num_blocks = static_cast<uint32_t>(g.blocks.size());
  view_.num_levels = codec.num_levels;
  view_.level_stride = codec.num_levels <= 16 ? 16 : codec.num_levels <= 32 ? 32 : 64;
  view_.layer_norm = g.layer_norm;
  view_.identity = g.is_identity();
  view_.silu = g.activation == Activation::kSilu;
  const FoldedBlock folded = fold_first_block(g);
  size_t at[10] = {};
  const auto mark = [&](size_t i) { at[i] = numbers_.size(); };
  // clang-format off
  mark(0); pack_matrix(g.skip_weight, kChunk, &numbers_);
  mark(1); pack_matrix(g.input_weight, kChunk, &numbers_); pack_matrix(folded.weight, kChunk, &numbers_);
  mark(2); append(g.input_bias, &numbers_); append(folded.bias, &numbers_);
  mark(3); for (size_t b = 1; b < g.blocks.size(); ++b) pack_matrix(g.blocks[b].weight, w, &numbers_);
  mark(4); for (size_t b = 1; b < g.blocks.size(); ++b) append(g.blocks[b].bias, &numbers_);
  mark(5); for (const NetworkBlock& b : g.blocks) append(b.norm_gain, &numbers_);
  mark(6); for (const NetworkBlock& b : g.blocks) append(b.norm_bias, &numbers_);
  mark(7); pack_matrix(g.output_weight, w, &numbers_);
  mark(8); append(g.output_bias, &numbers_);
  mark(9);
  // clang-format on
  numbers_.resize(numbers_.size() + view_.num_blocks * w * view_.level_stride);
  for (size_t b = 0; b < view_.num_blocks; ++b) {
    for (size_t level = 0; level < codec.num_levels; ++level) {
      for (size_t i = 0; i < w; ++i)
        numbers_[at[9] + (b * w + i) * view_.level_stride + level] =
            g.level_embedding[(b * codec.num_levels + level) * w + i];
    }
  }
  const float* n = numbers_.data();
  view_.skip_weight = n + at[0];
  view_.input_weight = n + at[1];
  view_.input_bias = n + at[2];
  view_.block_weight = n + at[3];
  view_.block_bias = n + at[4];
  view_.norm_gain = n + at[5];
  view_.norm_bias = n + at[6];
  view_.output_weight = n + at[7];
  view_.output_bias = n + at[8];
  view_.level_embedding = n + at[9];
}

void features_group_scalar(const SynthesisView& net, const ColumnGroup& group, const LaneValues& q, float* scratch) {
  const uint32_t w = net.width;
  float z[kChunk];
  float* h = scratch + (kChunk + size_t{w}) * kNumLanes;
  for (uint32_t l = 0; l < group.active; ++l) {
    for (uint32_t c = 0; c < kChunk; ++c)
      scratch[c * kNumLanes + l] = z[c] = dequantize(q.q[c][l], group.step[l], group.shrink[l]);
    if (w == 0) continue;
    run_blocks(net.codec->synthesis, net.num_levels, group.level[l], z, h, h + w);
    for (uint32_t i = 0; i < w; ++i) scratch[(kChunk + size_t{i}) * kNumLanes + l] = h[i];
  }
}

void accumulate_group_scalar(const ColumnGroup& group, const LaneValues& q, const FeatureSums& to) {
  for (uint32_t b = 0; b < to.batch; ++b) {
    const float* factor = to.factor + size_t{b} * kNumLanes;
    for (uint32_t c = 0; c < kChunk; ++c) {
      float* sums = to.sums + (size_t{b} * kChunk + c) * kNumLanes;
      if (group.slot == 0) std::fill(sums, sums + kSumLanes, 0.0f);
      for (uint32_t l = 0; l < group.active; ++l)
        sums[l % kSumLanes] += dequantize(q.q[c][l], 1.0f, group.shrink[l]) * factor[l];
    }
  }
}

void feature_product_scalar(const FeatureBlock& block, const float* matrix, float* y) {
  for (uint32_t i = 0; i < block.count; ++i) {
    float sum = 0;
    for (uint32_t slot = 0; slot < block.slots; ++slot) {
      const float* feature = block.features + (size_t{slot} * block.count + i) * kNumLanes;
      const float* factor = block.factor + slot * block.factor_stride;
      for (uint32_t l = 0; l < kNumLanes; ++l) {
        if (factor[l] != 0) sum += feature[l] * factor[l];
      }
    }
    if (matrix == nullptr) {
      y[i] += sum;
    } else {
      for (uint32_t o = 0; o < kChunk; ++o) y[o] += matrix[size_t{i} * kChunk + o] * sum;
    }
  }
}

void synthesize_group_scalar(const SynthesisView& net, const ColumnGroup& group, const LaneValues& q, float* scratch,
                             LaneWeights* out) {
  const Network& g = net.codec->synthesis;
  float z[kChunk], y[kChunk];
  for (uint32_t l = 0; l < group.active; ++l) {
    for (uint32_t c = 0; c < kChunk; ++c) z[c] = dequantize(q.q[c][l], group.step[l], group.shrink[l]);
    std::fill(y, y + kChunk, 0.0f);
    if (g.width != 0) {
      run_blocks(g, net.num_levels, group.level[l], z, scratch, scratch + g.width);
      multiply(g.output_weight.data(), g.output_bias.data(), scratch, g.width, kChunk, y);
    }
    multiply(g.skip_weight.data(), nullptr, z, kChunk, kChunk, y);
    for (uint32_t c = 0; c < kChunk; ++c) out->y[c][l] = y[c];
  }
}

void store_group_scalar(const LaneWeights& y, const ColumnGroup& group, const StoreTarget& target) {
  for (uint32_t r = target.row_begin; r < target.row_end; ++r) {
    uint8_t* row = target.out + (r - target.row_begin) * target.stride;
    const float row_scale = target.row_scale == nullptr ? 1.0f : target.row_scale[r];
    for (uint32_t l = 0; l < group.active; ++l) {
      const float weight = group.scale[l] == 0 ? 0.0f : y.y[r][l] * (group.scale[l] * row_scale);
      switch (target.dtype) {
        case Dtype::kF16: store_le(row + 2 * l, f32_to_f16(weight)); break;
        case Dtype::kBf16: store_le(row + 2 * l, f32_to_bf16(weight)); break;
        default: store_le(row + 4 * l, weight); break;
      }
    }
  }
}

void copy_rows_scalar(const RowCopy& rows) {
  for (uint64_t r = 0; r < rows.rows; ++r)
    std::memcpy(rows.to + r * rows.stride, rows.from + r * rows.width, rows.width);
}

void synthesize_chunks(CpuLevel cpu, const CodecRecord& codec, std::span<const int16_t> q, const uint8_t* level,
                       std::span<float> y) {
  assert(q.size() == y.size() && q.size() % kChunk == 0);
  const SynthesisPlan plan(codec);
  const LaneKernels kernels = lane_kernels(cpu);
  SynthesisScratch scratch(codec.synthesis.width);
  ColumnGroup group{};
  LaneValues values{};
  LaneWeights weights{};
  const size_t num_chunks = q.size() / kChunk;
  for (size_t first = 0; first < num_chunks; first += kNumLanes) {
    group.active = static_cast<uint32_t>(std::min<size_t>(kNumLanes, num_chunks - first));
    group.any_shrink = false;
    for (uint32_t l = 0; l < group.active; ++l) {
      const uint32_t L = level[first + l];
      group.level[l] = static_cast<uint8_t>(L);
      group.step[l] = codec.step[L];
      group.shrink[l] = codec.shrink[L];
      group.any_shrink |= codec.shrink[L] != 0;
      for (uint32_t c = 0; c < kChunk; ++c) values.q[c][l] = q[(first + l) * kChunk + c];
    }
    kernels.synthesize(plan.view(), group, values, scratch.data(), &weights);
    for (uint32_t l = 0; l < group.active; ++l) {
      for (uint32_t c = 0; c < kChunk; ++c) y[(first + l) * kChunk + c] = weights.y[c][l];
    }
  }
}

}  // namespace nwc
