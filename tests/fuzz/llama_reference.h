// A forward pass of the Llama family in double precision, with noise on demand: as large as the format allows decoders
// to differ. How far the noise moves the logits says how far two right sessions may be apart with this very model.
#pragma once

#include <vector>

#include "runtime/engine/file_layout.h"
#include "runtime/engine/session.h"
#include "tests/fuzz/decode_check.h"
#include "tests/fuzz/harness_support.h"

namespace nwc::fuzz {

/// One pass through the model.
struct ReferencePass {
  Random* noise = nullptr;  ///< null: exact
  double largest = 0;       ///< of all intermediate results, squares included: f32 ends at 3.4e38
};

class LlamaReference {
 public:
  /// Of a session with this plan, fed with single tokens: weights that it holds in a type are rounded to it, coded
  /// weights that it multiplies by are not, and keys and values are rounded to the type of the cache. nullopt where a
  /// tensor has no exact values (exact_matrix) or overflows its type.
  static std::optional<LlamaReference> create(const NwcFile& file, const DecodeTables& tables, Decoder& decoder,
                                              const SessionParams& params, const MemoryPlan& plan);

  /// Logits of all tokens, [tokens][vocab].
  std::vector<double> logits(const std::vector<uint32_t>& tokens, ReferencePass* pass) const;

  /// How far each token's logits may be from the exact ones: several times what samples of the noise do to them.
  std::vector<double> allowed_error(const std::vector<uint32_t>& tokens, const std::vector<double>& exact) const;

 private:
  using Vector = std::vector<double>;
  static Vector multiply(const ExactMatrix& matrix, const Vector& x, ReferencePass* pass);
  size_t norm_tensor(uint32_t at) const;  ///< that stands at these floats of the vectors
  Vector normalise(size_t tensor, const Vector& x, ReferencePass* pass) const;

  ModelLayout layout_;
  std::vector<double> frequencies_;
  Dtype cache_ = Dtype::kF32;
  ExactMatrix embedding_, head_;
  std::vector<ExactMatrix> tensors_;  ///< of layers, and norms; the others are empty
};

}  // namespace nwc::fuzz
