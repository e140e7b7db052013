// How far a compressed encoder's embeddings are from the uncompressed one's.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nwc {

using Embeddings = std::vector<std::vector<float>>;

struct EmbeddingComparison {
  uint64_t count = 0;
  double cosine_mean = 0, cosine_se = 0;  ///< standard error: inputs count as independent
  double cosine_p1 = 0, cosine_min = 0;   ///< the first percentile, and the least
};
/// Of embeddings of the same inputs, at least one. Two zero embeddings have cosine 1, one alone 0.
EmbeddingComparison compare_embeddings(const Embeddings& model, const Embeddings& reference);

struct ZeroShotComparison {
  double same_top = 0, same_top_se = 0;  ///< share of inputs for which both pairs rank the same label first
  std::vector<uint32_t> chosen, reference_chosen;
};
/// The label whose embedding has the highest cosine with the input's, of equal ones the first.
ZeroShotComparison compare_zero_shot(const Embeddings& model, const Embeddings& model_labels,
                                     const Embeddings& reference, const Embeddings& reference_labels);

double cosine(std::span<const float> a, std::span<const float> b);

}  // namespace nwc
