// Rotary position embedding in halves (Su et al. 2021, in the layout of Hugging Face's models), with the scalings of
// doc/format_model.md.
#pragma once

#include <vector>

#include "runtime/format/model_record.h"

namespace nwc {

/// Radians per position of each pair of dimensions (i, i + dims / 2): [rope_dims() / 2]. context: positions that the
/// session may reach; some scalings depend on it.
std::vector<double> rope_frequencies(const BlockSpec& block, uint32_t context);

/// Factor of the queries at a position (BlockSpec::temperature_beta); 1 without one.
float query_scale(const BlockSpec& block, uint32_t position);

/// The angles of one position for all kinds of blocks: each different table once. A row of angles() holds for each
/// table its cosines, then its sines, both times the attention factor, then the scale of the queries.
class RotaryTables {
 public:
  RotaryTables(const ModelRecord& model, uint32_t context);
  /// Floats in a row.
  uint32_t width() const { return width_; }
  /// Floats in front of the table of a kind of block: cosines [rope_dims / 2], sines, scale of the queries.
  uint32_t at(uint32_t kind) const { return at_[kind]; }
  void angles(uint32_t position, float* row) const;

 private:
  struct Table {
    BlockSpec block;
    std::vector<double> frequencies;
  };
  std::vector<Table> tables_;
  std::vector<uint32_t> at_;
  uint32_t width_ = 0;
};

/// Rotates one head in place: the first 2 * half numbers of x.
inline void rope_rotate(float* x, uint32_t half, const float* cosine, const float* sine) {
  for (uint32_t i = 0; i < half; ++i) {
    const float a = x[i], b = x[i + half];
    x[i] = a * cosine[i] - b * sine[i];
    x[i + half] = b * cosine[i] + a * sine[i];
  }
}

}  // namespace nwc
