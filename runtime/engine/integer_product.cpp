#include "runtime/engine/integer_product.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/base/checked.h"

namespace nwc {
namespace {

/// Weights that a task multiplies: enough that handing it out costs little.
constexpr uint64_t kTaskWeights = 1u << 16;
/// Tokens whose inputs lie in the scratch memory together.
constexpr uint32_t kTokensAtATime = 64;
/// Tokens from which the inputs are prepared by all threads.
constexpr uint32_t kManyTokens = 4;

uint64_t padded(uint64_t cols) { return align_up(cols, kInputBlock); }

/// Where the inputs of a matrix lie in the scratch memory.
struct InputArea {
  uint8_t* at = nullptr;
  uint64_t cols = 0;  ///< padded to whole blocks
  uint64_t blocks() const { return cols / kInputBlock; }
  uint64_t token_bytes() const { return align_up(4 * cols + 4 * blocks() * (1 + kUnitsPerBlock), 64); }
  int16_t* value(uint32_t t) const { return reinterpret_cast<int16_t*>(at + t * token_bytes()); }
  int8_t* digits(uint32_t t) const { return reinterpret_cast<int8_t*>(at + t * token_bytes() + 2 * cols); }
  float* scale(uint32_t t) const { return reinterpret_cast<float*>(at + t * token_bytes() + 4 * cols); }
  int32_t* correction(uint32_t t) const { return reinterpret_cast<int32_t*>(scale(t) + blocks()); }
  IntegerInputs token(uint32_t t) const { return {value(t), digits(t), scale(t), correction(t)}; }
};

uint32_t bits_of(float v) {
  uint32_t b;
  std::memcpy(&b, &v, sizeof b);
  return b;
}

/// 2^23 + 2^22: a number added to it is rounded to an integer, to nearest even, in the lower bits.
constexpr float kRounder = 12582912.0f;

/// signs: for the sum over signs, whose bias is 1 in every unit.
void quantize(const IntegerForm& form, const float* factor, bool signs, const float* x, bool digits,
              const InputArea& to, uint32_t token) {
  int16_t* const value = to.value(token);
  int8_t* const digit = to.digits(token);
  for (uint64_t block = 0; block < to.blocks(); ++block) {
    const uint64_t first = block * kInputBlock;
    const uint32_t count = static_cast<uint32_t>(std::min<uint64_t>(kInputBlock, form.cols - first));
    float v[kInputBlock] = {};
    uint32_t largest = 0;  // of the absolute values, whose bits are in the order of the values
    // A column whose factor is 0 adds nothing, whatever x is.
    for (uint32_t j = 0; j < count; ++j) v[j] = factor[first + j] == 0 ? 0.0f : factor[first + j] * x[first + j];
    for (uint32_t j = 0; j < kInputBlock; ++j) largest = std::max(largest, bits_of(v[j]) & 0x7fffffffu);
    float most;
    std::memcpy(&most, &largest, sizeof most);
    const float step = most / kLargestInput;  // infinite or no number if the inputs are: so is the result then
    const bool usable = std::isfinite(most) && step >= 1e-37f;
    const float inverse = usable ? 1.0f / step : 0.0f;
    int16_t* q = value + first;
    if (usable) {
      for (uint32_t j = 0; j < kInputBlock; ++j) {
        const uint32_t rounded = bits_of(v[j] * inverse + kRounder) - bits_of(kRounder);
        q[j] = static_cast<int16_t>(std::clamp<int32_t>(static_cast<int32_t>(rounded), -kLargestInput, kLargestInput));
      }
    } else {
      std::fill_n(q, kInputBlock, int16_t{0});
    }
    to.scale(token)[block] = std::isfinite(most) ? (usable ? step : 0.0f) : std::nanf("");
    uint32_t correction = 0;
    for (uint32_t u = 0; u < kUnitsPerBlock && block * kUnitsPerBlock + u < form.units(); ++u) {
      if (form.requantized) correction = 0;
      int32_t sum = 0;
      for (uint32_t j = 0; j < kUnitCols; ++j) sum += q[u * kUnitCols + j];
      const int32_t bias = signs ? 1 : integer_bias(form.bits[block * kUnitsPerBlock + u]);
      correction -= static_cast<uint32_t>(sum) * static_cast<uint32_t>(bias);
      to.correction(token)[form.requantized ? block * kUnitsPerBlock + u : block] = static_cast<int32_t>(correction);
    }
    if (!digits) continue;
    int8_t* d = digit + 2 * first;
    for (uint32_t j = 0; j < kInputBlock; j += 4, d += 8) {
      for (uint32_t i = 0; i < 4; ++i) {
        const int8_t low = static_cast<int8_t>(q[j + i]);
        d[i] = static_cast<int8_t>((q[j + i] - low) >> 8);
        d[4 + i] = low;
      }
    }
  }
}

/// Row blocks [begin, end) of a matrix for all tokens.
void multiply_rows(const IntegerKernels& kernels, const IntegerMatrix& m, const InputArea& inputs,
                   const InputArea& signs, uint32_t tokens, uint64_t begin, uint64_t end, size_t ldy) {
  const IntegerForm& form = *m.form;
  const float* row_scale = reinterpret_cast<const float*>(m.data + form.row_scale_at);
  const uint32_t* outliers_begin = reinterpret_cast<const uint32_t*>(m.data + form.begin_at);
  const uint32_t* outliers = reinterpret_cast<const uint32_t*>(m.data + form.outliers_at);
  for (uint64_t block = begin; block < end; ++block) {
    const uint8_t* units = m.data + block * form.row_block_bytes;
    const IntegerRowBlock weights{units,
                                  form.bits.data(),
                                  form.units(),
                                  outliers + outliers_begin[block],
                                  outliers + outliers_begin[block + 1],
                                  reinterpret_cast<const uint16_t*>(units + form.block_scales_at())};
    const uint32_t rows = static_cast<uint32_t>(std::min<uint64_t>(kChunk, form.rows - block * kChunk));
    for (uint32_t t0 = 0; t0 < tokens; t0 += kIntegerTokens) {
      const uint32_t count = std::min(kIntegerTokens, tokens - t0);
      IntegerInputs in[kIntegerTokens];
      alignas(64) float y[kIntegerTokens][kIntegerRows];
      for (uint32_t t = 0; t < count; ++t) in[t] = inputs.token(t0 + t);
      (form.requantized ? kernels.dot_scaled : kernels.dot)(weights, in, count, y);
      if (form.shrinks) {
        IntegerInputs shrunk[kIntegerTokens];
        alignas(64) float less[kIntegerTokens][kIntegerRows];
        for (uint32_t t = 0; t < count; ++t) shrunk[t] = signs.token(t0 + t);
        kernels.dot_signs(weights, shrunk, count, less);
        for (uint32_t t = 0; t < count; ++t) {
          for (uint32_t r = 0; r < kIntegerRows; ++r) y[t][r] -= less[t][r];
        }
      }
      for (uint32_t t = 0; t < count; ++t) {
        float* out = m.y + (t0 + t) * ldy + block * kChunk;
        for (uint32_t r = 0; r < rows; ++r) out[r] = y[t][r] * row_scale[block * kChunk + r];
      }
    }
  }
}

}  // namespace

uint64_t integer_scratch(uint64_t cols, uint32_t tokens) {
  InputArea area;
  area.cols = padded(cols);
  return 2 * kMostMatrices * std::min(tokens, kTokensAtATime) * area.token_bytes();
}

namespace {

/// At most kTokensAtATime tokens.
void multiply_tokens(CpuLevel level, Runner& runner, std::span<const IntegerMatrix> matrices, uint32_t tokens,
                     const float* x, size_t ldx, size_t ldy, uint8_t* scratch) {
  const IntegerKernels& kernels = integer_kernels(level);
  const uint32_t num = static_cast<uint32_t>(matrices.size());
  InputArea areas[kMostMatrices], signs[kMostMatrices];
  uint64_t per_task[kMostMatrices], tasks = 0, end_task[kMostMatrices];
  for (uint32_t i = 0; i < num; ++i) {
    const IntegerForm& form = *matrices[i].form;
    areas[i].cols = padded(form.cols);
    areas[i].at = scratch + 2 * i * tokens * areas[i].token_bytes();
    signs[i] = areas[i];
    signs[i].at += tokens * areas[i].token_bytes();
    per_task[i] = std::max<uint64_t>(1, kTaskWeights / (areas[i].cols * kChunk));
    tasks += ceil_div(form.row_blocks(), per_task[i]);
    end_task[i] = tasks;
  }
  const auto prepare = [&](uint32_t task, uint32_t) {
    const IntegerMatrix& m = matrices[task % num];
    const uint32_t t = task / num;
    const auto factors = [&m](uint64_t at) { return reinterpret_cast<const float*>(m.data + at); };
    quantize(*m.form, factors(m.form->factor_at), false, x + t * ldx, kernels.wants_digits, areas[task % num], t);
    if (m.form->shrinks)
      quantize(*m.form, factors(m.form->shrink_at), true, x + t * ldx, kernels.wants_digits, signs[task % num], t);
  };
  if (tokens >= kManyTokens) {
    parallel_for(runner, num * tokens, prepare);
  } else {
    for (uint32_t task = 0; task < num * tokens; ++task) prepare(task, 0);
  }
  parallel_for(runner, static_cast<uint32_t>(tasks), [&](uint32_t task, uint32_t) {
    uint32_t i = 0;
    while (task >= end_task[i]) ++i;
    const uint64_t begin = (task - (i == 0 ? 0 : end_task[i - 1])) * per_task[i];
    const uint64_t end = std::min(matrices[i].form->row_blocks(), begin + per_task[i]);
    multiply_rows(kernels, matrices[i], areas[i], signs[i], tokens, begin, end, ldy);
  });
}

}  // namespace

void multiply_integers(CpuLevel level, Runner& runner, std::span<const IntegerMatrix> matrices, uint32_t tokens,
                       const float* x, size_t ldx, size_t ldy, uint8_t* scratch) {
  for (uint32_t t = 0; t < tokens; t += kTokensAtATime) {
    IntegerMatrix part[kMostMatrices];
    for (size_t i = 0; i < matrices.size(); ++i) {
      part[i] = matrices[i];
      part[i].y += t * ldy;
    }
    multiply_tokens(level, runner, {part, matrices.size()}, std::min(kTokensAtATime, tokens - t), x + t * ldx, ldx, ldy,
                    scratch);
  }
}

}  // namespace nwc
