// A forward pass of the Llama family in double precision, with noise on demand: as large as the format allows decoders
// to differ. How far the noise moves the logits says how far two right sessions may be apart with this very model.
#pragma once

#include <vector>

#include "runtime/engine/llama_layout.h"
#include "tests/fuzz/decode_check.h"
#include "tests/fuzz/harness_support.h"

namespace nwc::fuzz {

/// What holding numbers in a type does to them: half a unit in the last place, of normal and of the smallest numbers.
struct HeldAs {
  double relative = 0, absolute = 0, largest = 0;
};
HeldAs held_as(Dtype dtype);

/// One pass through the model.
struct ReferencePass {
  Random* noise = nullptr;                                              ///< null: exact
  HeldAs weights = held_as(Dtype::kF32), cache = held_as(Dtype::kF32);  ///< how the session holds them; noise only
  double largest = 0;  ///< of all intermediate results, squares included: f32 ends at 3.4e38
  bool fits = true;    ///< every weight and every key and value fits the type that it is held in
};

class LlamaReference {
 public:
  /// nullopt where a tensor has no exact values (exact_matrix).
  static std::optional<LlamaReference> create(const NwcFile& file, const DecodeTables& tables);

  /// Logits of all tokens, [tokens][vocab].
  std::vector<double> logits(const std::vector<uint32_t>& tokens, ReferencePass* pass) const;

  /// How far each token's logits may be from the exact ones: several times what samples of the noise do to them.
  /// exact: of such a pass without noise.
  std::vector<double> allowed_error(const std::vector<uint32_t>& tokens, const std::vector<double>& exact,
                                    ReferencePass pass) const;

 private:
  using Vector = std::vector<double>;
  Vector multiply(size_t tensor, const Vector& x, ReferencePass* pass) const;
  Vector normalise(size_t tensor, const Vector& x, ReferencePass* pass) const;

  LlamaLayout layout_;
  std::vector<double> frequencies_;
  std::vector<ExactMatrix> matrices_;  ///< by tensor; those that the model does not use are empty
};

}  // namespace nwc::fuzz
