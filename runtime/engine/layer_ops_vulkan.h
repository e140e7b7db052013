// The steps of the forward pass, recorded for a Vulkan device: the twins of kernels_cpu.h, rope.h and attention.h.
#pragma once

#include "runtime/codec/fused_product.h"
#include "runtime/decoder/vulkan/device_integers.h"
#include "runtime/engine/file_layout.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/vulkan/submit.h"

namespace nwc {

/// A weight matrix [rows][cols] in device memory, row-major without gaps; cols is even.
struct DeviceMatrix {
  const DeviceBuffer* buffer = nullptr;
  uint64_t offset = 0;        ///< bytes; a multiple of 4
  Dtype dtype = Dtype::kF16;  ///< kF32, kF16 or kBf16
  uint32_t rows = 0, cols = 0;
};

/// A weight matrix as integers in device memory, a DeviceForm (runtime/codec/device_form.h).
struct IntegerWeightsView {
  const DeviceBuffer* buffer = nullptr;
  uint64_t offset = 0;  ///< bytes; a multiple of 64
  const IntegerForm* form = nullptr;
};

/// f32 activations [tokens][stride] in device memory.
struct DeviceRows {
  const DeviceBuffer* buffer = nullptr;
  uint32_t at = 0;      ///< floats in front of the first token's
  uint32_t stride = 0;  ///< floats from token to token
};

/// How weights that are integers are multiplied: as f32, by f32 inputs, or as bytes by inputs that become integers of
/// 16 bits as on the CPU (integer_product.h), which takes DeviceInfo::dot_product.
enum class IntegerProducts : uint8_t { kFloats, kDots };

/// Tokens that go through the memory-bound product, which reads every weight once; more are multiplied in tiles.
inline constexpr uint32_t kFewTokens = kMaxFusedBatch;

/// Every call adds dispatches to the batch and no barrier after them: one is needed before the next reads or overwrites
/// what this one writes. errors: those of CommandBatch::dispatch (a pipeline cannot be made)
class LayerOps {
 public:
  LayerOps(const VulkanDevice& device, Dtype kv_dtype, IntegerProducts products = IntegerProducts::kFloats)
      : device_(device), kv_dtype_(kv_dtype), products_(products) {}

  /// Can these kernels run this model, with buffers of these sizes (SessionSizes) for so many positions and so many
  /// tokens at a time? errors: kUnsupported, naming what the kernels or the device cannot take, and what they could
  static Status check(const ModelLayout& layout, const DeviceInfo& device, const SessionSizes& sizes, uint32_t context,
                      uint32_t batch);

  /// x [tokens][hidden] = (add: +=) scale times rows of the embedding; ids: u32 [token_at + tokens].
  Status embed(CommandBatch& batch, const DeviceMatrix& embedding, const DeviceBuffer& ids, uint32_t token_at,
               uint32_t tokens, const DeviceBuffer& x, float scale, bool add) const;
  Status embed(CommandBatch& batch, const IntegerWeightsView& embedding, const DeviceBuffer& ids, uint32_t token_at,
               uint32_t tokens, const DeviceBuffer& x, float scale, bool add) const;
  struct Norm {
    NormKind kind = NormKind::kRms;
    float eps = 0;
    uint32_t n = 0;     ///< numbers of a row
    uint32_t rows = 1;  ///< of a token, one after another
    uint32_t gain_at = 0, bias_at = kNoVector;
  };
  /// out = norm(in), row by row; `out` may be `in`.
  Status norm(CommandBatch& batch, const Norm& norm, uint32_t tokens, const DeviceRows& in, const DeviceBuffer& vectors,
              const DeviceRows& out) const;
  /// x [tokens][n] += scale * y; y.stride 0: one row for all tokens.
  Status add_rows(CommandBatch& batch, uint32_t tokens, uint32_t n, float scale, const DeviceRows& x,
                  const DeviceRows& y) const;
  /// x [tokens][n] *= y; y.stride 0: one row for all tokens.
  Status scale_rows(CommandBatch& batch, uint32_t tokens, uint32_t n, const DeviceRows& x, const DeviceRows& y) const;
  /// out [tokens][w.rows] = (add: +=) in [tokens][w.cols] w^T.
  Status matmul(CommandBatch& batch, const DeviceMatrix& w, uint32_t tokens, const DeviceRows& in,
                const DeviceRows& out, bool add) const;
  Status matmul(CommandBatch& batch, const IntegerWeightsView& w, uint32_t tokens, const DeviceRows& in,
                const DeviceRows& out, bool add) const;
  /// Rotates queries in place, and keys into the layer's cache, beside the values. angles: f32 rows of
  /// RotaryTables::angles, angles.at being where the kind's table begins. kept: positions that the cache holds.
  Status rope_store(CommandBatch& batch, const BlockSpec& block, uint32_t tokens, uint32_t position, uint32_t kept,
                    const DeviceBuffer& qkv, const DeviceRows& angles, const DeviceBuffer& cache) const;
  /// out [tokens][heads * head_dim]: causal attention over the layer's cache. partials: of attention_partial_bytes();
  /// with less, or without any, long contexts are split into fewer pieces. Split, it has a barrier of its own. sinks:
  /// one logit a head, the first at sinks.at; no buffer: there are none.
  Status attend(CommandBatch& batch, const BlockSpec& block, uint32_t tokens, uint32_t position, uint32_t kept,
                const DeviceBuffer& qkv, const DeviceBuffer& cache, const DeviceRows& sinks,
                const DeviceBuffer& partials, const DeviceBuffer& out) const;
  /// As the block's MLP does: out [tokens][n] = activation(gate) * up, in [tokens][2 n]; or activation(in). Without
  /// gaps.
  Status activate(CommandBatch& batch, const BlockSpec& block, uint32_t tokens, uint32_t n, const DeviceRows& in,
                  const DeviceRows& out) const;
  /// out [rows][n] = (add: +=) rows of `in`, whose numbers are indices [rows], from index_at on. in, out: without gaps.
  Status gather(CommandBatch& batch, uint32_t rows, uint32_t n, const DeviceBuffer& indices, uint32_t index_at,
                const DeviceRows& in, const DeviceRows& out, bool add) const;
  /// out [tokens][n] = (add: +=) sums of per_token rows of `in` [..][n] by weights; choices: [tokens][per_token]
  /// numbers of rows from rows_at on, weights from weights_at on.
  Status combine(CommandBatch& batch, uint32_t tokens, uint32_t n, uint32_t per_token, const DeviceBuffer& choices,
                 uint32_t rows_at, uint32_t weights_at, const DeviceBuffer& in, const DeviceBuffer& out,
                 bool add) const;
  /// x [tokens][n] *= sigmoid(logits [tokens][logits.stride]).
  Status share(CommandBatch& batch, uint32_t tokens, uint32_t n, const DeviceRows& logits, const DeviceBuffer& x) const;

 private:
  struct Band {
    BufferView view;
    uint32_t first_word = 0;  ///< of the band's first row within the view
    uint32_t row = 0, rows = 0;
  };
  /// Bands of rows that the device can bind, of at most max_rows.
  std::vector<Band> bands(const DeviceMatrix& w, uint64_t max_rows) const;
  /// Bands of row blocks, whose first_word counts from their units on.
  std::vector<Band> bands(const DeviceFormView& w, uint64_t max_blocks) const;

  const VulkanDevice& device_;
  const Dtype kv_dtype_;
  const IntegerProducts products_;
};

}  // namespace nwc
