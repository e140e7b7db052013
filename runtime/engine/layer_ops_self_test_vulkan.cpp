#include "runtime/engine/layer_ops_self_test_vulkan.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <set>
#include <tuple>

#include "runtime/base/half.h"
#include "runtime/base/str_cat.h"
#include "runtime/engine/attention_split.h"
#include "runtime/engine/kernel_answers_vulkan.h"

namespace nwc {
namespace {

constexpr uint32_t kHidden = 48, kInner = 80;
constexpr uint32_t kContext = 16, kLongContext = 4 * kSplitBlock;  // the second of which is split
constexpr uint32_t kTokens = kFewTokens + 1, kRows = 67;           // no multiple of any tile
constexpr float kTolerance = 2e-3f;                                // halves in the cache; everything else is f32

/// Multiples of 1/8 below 1: exact in every type.
float number(uint32_t seed, uint32_t i) {
  const uint32_t mixed = (i * 2654435761u + seed * 40503u) >> 16;
  return (static_cast<float>(mixed % 15) - 7) / 8;
}

std::vector<float> numbers(uint32_t seed, size_t count) {
  std::vector<float> out(count);
  for (size_t i = 0; i < count; ++i) out[i] = number(seed, static_cast<uint32_t>(i));
  return out;
}

class SelfTest {
 public:
  SelfTest(VulkanDevice& device, CommandBatch& batch, Dtype weight_dtype, Dtype kv_dtype)
      : device_(device), batch_(batch), weight_dtype_(weight_dtype), kv_dtype_(kv_dtype), ops_(device, kv_dtype) {}

  Status check_products() {
    NWC_TRY(check_matmul(1, true));
    NWC_TRY(check_matmul(kFewTokens, false));
    NWC_TRY(check_matmul(kTokens, true));
    return check_matmul(kTokens, false);
  }

  Status run(std::span<const BlockSpec> blocks, bool experts) {
    NWC_TRY(check_products());
    NWC_TRY(check_embed());
    NWC_TRY(check_norm());
    std::set<std::tuple<uint32_t, uint32_t, bool>> shapes;
    for (const BlockSpec& b : blocks) shapes.emplace(b.num_heads / b.num_kv_heads, b.head_dim, b.sinks);
    for (const auto& [group, dim, sinks] : shapes) {
      NWC_TRY(check_attention(group, dim, sinks));
      NWC_TRY(check_split_attention(group, dim, sinks));
    }
    NWC_TRY(check_activate(0, false));
    NWC_TRY(check_activate(0.5f, true));
    if (!experts) return {};
    NWC_TRY(check_gather(false));
    NWC_TRY(check_gather(true));
    NWC_TRY(check_combine(false));
    NWC_TRY(check_combine(true));
    return check_share();
  }

 private:
  static const BlockSpec& block() {
    static const BlockSpec spec = [] {
      BlockSpec b;
      b.norm_eps = 1e-5f;
      return b;
    }();
    return spec;
  }

  Result<DeviceBuffer> buffer(const void* bytes, uint64_t size) { return answers_.buffer(bytes, size); }
  Result<DeviceBuffer> floats(const std::vector<float>& values) { return answers_.floats(values); }
  Result<DeviceBuffer> weights(const std::vector<float>& values) {
    if (weight_dtype_ == Dtype::kF32) return floats(values);
    std::vector<uint16_t> halves(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      halves[i] = weight_dtype_ == Dtype::kF16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
    }
    return buffer(halves.data(), halves.size() * sizeof(uint16_t));
  }

  /// Records with `record`, runs, and compares the buffer's first floats.
  template <typename Record>
  Status compare(const char* kernel, const DeviceBuffer& out, const std::vector<float>& expected, Record&& record) {
    NWC_ASSIGN_OR_RETURN(const bool right, answers_.match(out, expected, kTolerance, 1, record));
    if (right) return {};
    return Status(StatusCode::kDevice, str_cat(device_.info().name, ": the kernel ", kernel,
                                               " does not compute rightly: run the model on the CPU"));
  }

  Status check_matmul(uint32_t tokens, bool add) {
    const std::vector<float> w = numbers(1, kRows * kHidden), x = numbers(2, size_t{tokens} * kHidden);
    std::vector<float> y = numbers(3, size_t{tokens} * kRows);
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer w_buffer, weights(w));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer x_buffer, floats(x));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer y_buffer, floats(y));
    for (uint32_t t = 0; t < tokens; ++t) {
      for (uint32_t r = 0; r < kRows; ++r) {
        if (!add) y[t * kRows + r] = 0;
        for (uint32_t j = 0; j < kHidden; ++j) y[t * kRows + r] += x[t * kHidden + j] * w[r * kHidden + j];
      }
    }
    return compare(tokens > kFewTokens ? "matmul_many" : "matmul_few", y_buffer, y, [&] {
      return ops_.matmul(batch_, {&w_buffer, 0, weight_dtype_, kRows, kHidden}, tokens, {&x_buffer, 0, kHidden},
                         {&y_buffer, 0, kRows}, add);
    });
  }

  Status check_embed() {
    const std::vector<float> w = numbers(4, kRows * kHidden);
    const uint32_t ids[] = {kRows - 1, 0, 5};
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer w_buffer, weights(w));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer id_buffer, buffer(ids, sizeof ids));
    std::vector<float> expected;
    for (const uint32_t id : ids) expected.insert(expected.end(), &w[id * kHidden], &w[id * kHidden] + kHidden);
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer x, floats(std::vector<float>(expected.size())));
    return compare("embed_rows", x, expected, [&] {
      return ops_.embed(batch_, {&w_buffer, 0, weight_dtype_, kRows, kHidden}, id_buffer, 0, std::size(ids), x, 1,
                        false);
    });
  }

  Status check_norm() {
    const std::vector<float> x = numbers(5, size_t{kTokens} * kHidden), gain = numbers(6, 2 * kHidden);
    std::vector<float> expected(x.size());
    for (uint32_t t = 0; t < kTokens; ++t) {
      float squares = 0;
      for (uint32_t i = 0; i < kHidden; ++i) squares += x[t * kHidden + i] * x[t * kHidden + i];
      const float factor = 1 / std::sqrt(squares / kHidden + block().norm_eps);
      for (uint32_t i = 0; i < kHidden; ++i) {
        expected[t * kHidden + i] = x[t * kHidden + i] * factor * gain[kHidden + i];
      }
    }
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer x_buffer, floats(x));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer gain_buffer, floats(gain));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer out, floats(x));
    const LayerOps::Norm norm{NormKind::kRms, block().norm_eps, kHidden, 1, kHidden, kNoVector};
    return compare("norm_rows", out, expected, [&] {
      return ops_.norm(batch_, norm, kTokens, {&x_buffer, 0, kHidden}, gain_buffer, {&out, 0, kHidden});
    });
  }

  // Rotation, cache and attention in the shape of the model's heads, so that its variants answer.
  Status check_attention(uint32_t group, uint32_t dim, bool sinks) {
    const BlockSpec spec = heads(2, group, dim, sinks);
    const uint32_t half = dim / 2, width = spec.q_width() + 2 * spec.kv_width();
    std::vector<float> qkv = numbers(7, size_t{kTokens} * width), angles(size_t{kTokens} * dim);
    for (uint32_t t = 0; t < kTokens; ++t) {
      for (uint32_t i = 0; i < half; ++i) {
        const float angle = static_cast<float>(t) / static_cast<float>(1 + i);
        angles[t * dim + i] = std::cos(angle);
        angles[t * dim + half + i] = std::sin(angle);
      }
    }
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer qkv_buffer, floats(qkv));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer angle_buffer, floats(angles));
    for (uint32_t t = 0; t < kTokens; ++t) {
      for (uint32_t h = 0; h < spec.num_heads + spec.num_kv_heads; ++h) {
        float* head = &qkv[size_t{t} * width + h * dim];
        for (uint32_t i = 0; i < half; ++i) {
          const float a = head[i], b = head[i + half];
          const float cosine = angles[t * dim + i], sine = angles[t * dim + half + i];
          head[i] = a * cosine - b * sine;
          head[i + half] = b * cosine + a * sine;
        }
      }
    }
    std::vector<float> expected;
    for (uint32_t t = 0; t < kTokens; ++t)
      attend(spec, &qkv[size_t{t} * width], &qkv[spec.q_width()], width, t, &expected);
    const uint64_t cache_bytes = 2 * uint64_t{spec.kv_width()} * kContext * dtype_size(kv_dtype_);
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer cache, buffer(std::vector<uint8_t>(cache_bytes).data(), cache_bytes));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer sink_buffer, floats(head_sinks(spec)));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer out, floats(std::vector<float>(expected.size())));
    return compare("attention or rope_store", out, expected, [&]() -> Status {
      NWC_TRY(ops_.rope_store(batch_, spec, kTokens, 0, kContext, qkv_buffer, {&angle_buffer, 0, dim}, cache));
      batch_.barrier();
      return ops_.attend(batch_, spec, kTokens, 0, kContext, qkv_buffer, cache,
                         spec.sinks ? DeviceRows{&sink_buffer, 0, 0} : DeviceRows(), DeviceBuffer(), out);
    });
  }

  // One token's attention to a context that is split.
  Status check_split_attention(uint32_t group, uint32_t dim, bool sinks) {
    const BlockSpec spec = heads(1, group, dim, sinks);
    const size_t plane = size_t{kLongContext} * dim;
    // Where the device cannot bind this, no session has so long a context.
    if (2 * plane * dtype_size(kv_dtype_) > device_.info().max_storage_range) return {};
    const std::vector<float> query = numbers(9, spec.q_width() + 2 * dim);
    std::vector<float> cache = numbers(10, 2 * plane), rows(2 * plane), expected;
    for (uint32_t p = 0; p < kLongContext; ++p) {
      std::copy_n(&cache[size_t{p} * dim], dim, &rows[2 * size_t{p} * dim]);
      std::copy_n(&cache[plane + size_t{p} * dim], dim, &rows[(2 * size_t{p} + 1) * dim]);
    }
    attend(spec, query.data(), rows.data(), 2 * dim, kLongContext - 1, &expected);
    std::vector<uint16_t> halves;
    halves.reserve(cache.size());
    for (const float v : cache) halves.push_back(f32_to_f16(v));
    const bool f32 = kv_dtype_ == Dtype::kF32;
    const void* const bytes = f32 ? static_cast<const void*>(cache.data()) : halves.data();
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer cache_buffer, buffer(bytes, cache.size() * dtype_size(kv_dtype_)));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer query_buffer, floats(query));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer sink_buffer, floats(head_sinks(spec)));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer out, floats(std::vector<float>(expected.size())));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer partials, buffer(nullptr, attention_partial_bytes(spec, kLongContext, 1)));
    return compare("attention or attention_reduce", out, expected, [&] {
      return ops_.attend(batch_, spec, 1, kLongContext - 1, kLongContext, query_buffer, cache_buffer,
                         spec.sinks ? DeviceRows{&sink_buffer, 0, 0} : DeviceRows(), partials, out);
    });
  }

  static BlockSpec heads(uint32_t kv_heads, uint32_t group, uint32_t dim, bool sinks) {
    BlockSpec spec;
    spec.num_kv_heads = kv_heads;
    spec.num_heads = kv_heads * group;
    spec.head_dim = dim;
    spec.sinks = sinks;
    return spec;
  }
  static std::vector<float> head_sinks(const BlockSpec& spec) { return numbers(11, spec.num_heads); }
  /// Appends what the token at `position` attends to. Rows of keys, and values behind them, are `stride` apart.
  static void attend(const BlockSpec& spec, const float* query, const float* rows, size_t stride, uint32_t position,
                     std::vector<float>* out) {
    const uint32_t dim = spec.head_dim, group = spec.num_heads / spec.num_kv_heads;
    for (uint32_t h = 0; h < spec.num_heads; ++h, query += dim) {
      std::vector<float> sum(dim);
      float total = spec.sinks ? std::exp(head_sinks(spec)[h]) : 0;
      for (uint32_t p = 0; p <= position; ++p) {
        const float* const key = rows + p * stride + size_t{h / group} * dim;
        float score = 0;
        for (uint32_t i = 0; i < dim; ++i) score += query[i] * key[i];
        const float weight = std::exp(score * score_scale(spec));
        total += weight;
        for (uint32_t i = 0; i < dim; ++i) sum[i] += weight * key[spec.kv_width() + i];
      }
      for (const float v : sum) out->push_back(v / total);
    }
  }

  Status check_activate(float bound, bool up_plus_one) {
    BlockSpec spec = block();
    spec.clamp = bound;
    spec.up_plus_one = up_plus_one;
    const std::vector<float> gate_up = numbers(8, 2 * size_t{kTokens} * kInner);
    std::vector<float> expected(size_t{kTokens} * kInner);
    for (uint32_t t = 0; t < kTokens; ++t) {
      for (uint32_t i = 0; i < kInner; ++i) {
        float gate = gate_up[2 * t * kInner + i], up = gate_up[(2 * t + 1) * kInner + i];
        if (bound != 0) {
          gate = std::min(gate, bound);
          up = std::clamp(up, -bound, bound);
        }
        expected[t * kInner + i] = gate / (1 + std::exp(-gate)) * (up_plus_one ? up + 1 : up);
      }
    }
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer in, floats(gate_up));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer out, floats(std::vector<float>(expected.size())));
    return compare("activate", out, expected, [&] {
      return ops_.activate(batch_, spec, kTokens, kInner, {&in, 0, 0}, {&out, 0, 0});
    });
  }

  // What takes tokens to experts and back.
  Status check_gather(bool add) {
    const std::vector<float> x = numbers(12, 5 * size_t{kRows});
    std::vector<float> y = numbers(13, kTokens * size_t{kRows});
    std::vector<uint32_t> indices = {99};
    for (uint32_t i = 0; i < kTokens; ++i) indices.push_back(i * i % 4);
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer in, floats(x));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer out, floats(y));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer index_buffer, buffer(indices.data(), indices.size() * sizeof(uint32_t)));
    for (uint32_t i = 0; i < kTokens; ++i) {
      for (uint32_t j = 0; j < kRows; ++j) {
        const float v = x[(1 + indices[1 + i]) * kRows + j];
        y[i * kRows + j] = add ? y[i * kRows + j] + v : v;
      }
    }
    return compare("gather_rows", out, y, [&] {
      return ops_.gather(batch_, kTokens, kRows, index_buffer, 1, {&in, kRows, kRows}, {&out, 0, kRows}, add);
    });
  }

  Status check_combine(bool add) {
    constexpr uint32_t kPerToken = 3;
    const std::vector<float> x = numbers(14, kTokens * size_t{kRows}), weights = numbers(15, kTokens * kPerToken);
    std::vector<float> y = numbers(16, kTokens * size_t{kRows});
    std::vector<uint32_t> choices;
    for (uint32_t i = 0; i < kTokens * kPerToken; ++i) choices.push_back(i * 5 % kTokens);
    for (const float w : weights) choices.push_back(std::bit_cast<uint32_t>(w));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer in, floats(x));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer out, floats(y));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer choice_buffer, buffer(choices.data(), choices.size() * sizeof(uint32_t)));
    for (uint32_t t = 0; t < kTokens; ++t) {
      for (uint32_t j = 0; j < kRows; ++j) {
        float& sum = y[t * kRows + j];
        if (!add) sum = 0;
        for (uint32_t k = t * kPerToken; k < (t + 1) * kPerToken; ++k) sum += weights[k] * x[choices[k] * kRows + j];
      }
    }
    return compare("combine_rows", out, y, [&] {
      return ops_.combine(batch_, kTokens, kRows, kPerToken, choice_buffer, 0, kTokens * kPerToken, in, out, add);
    });
  }

  Status check_share() {
    std::vector<float> x = numbers(17, kTokens * size_t{kRows}), logits = numbers(18, 2 * size_t{kTokens});
    logits[3] = -200;
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer logit_buffer, floats(logits));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer out, floats(x));
    for (uint32_t t = 0; t < kTokens; ++t) {
      for (uint32_t j = 0; j < kRows; ++j) x[t * kRows + j] /= 1 + std::exp(-logits[2 * t + 1]);
    }
    return compare("share_rows", out, x, [&] {
      return ops_.share(batch_, kTokens, kRows, {&logit_buffer, 1, 2}, out);
    });
  }

  VulkanDevice& device_;
  CommandBatch& batch_;
  const KernelAnswers answers_{device_, batch_};
  const Dtype weight_dtype_, kv_dtype_;
  const LayerOps ops_;
};

}  // namespace

Status check_layer_ops(VulkanDevice& device, PipelineCache& pipelines, std::span<const BlockSpec> blocks,
                       Dtype weight_dtype, Dtype kv_dtype) {
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<CommandBatch> batch, CommandBatch::create(device, pipelines));
  const bool experts =
      std::any_of(blocks.begin(), blocks.end(), [](const BlockSpec& b) { return b.experts.num_experts != 0; });
  if (experts && weight_dtype != Dtype::kF32)  // routers are f32, whatever the weights are
    NWC_TRY(SelfTest(device, *batch, Dtype::kF32, kv_dtype).check_products());
  return SelfTest(device, *batch, weight_dtype, kv_dtype).run(blocks, experts);
}

}  // namespace nwc
