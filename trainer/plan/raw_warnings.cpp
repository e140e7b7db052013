#include "trainer/plan/raw_warnings.h"

#include <algorithm>
#include <cstdio>

#include "trainer/data/tensor_limits.h"

namespace nwc {
namespace {

constexpr double kShareWorthSaying = 0.05;
constexpr size_t kMostNamed = 3;

uint64_t bytes_of(const ModelSource& source, const PlannedTensor& p) { return source.tensors()[p.source].num_bytes(); }

/// The largest few, with shape, type and reason.
std::string name_some(const ModelSource& source, std::vector<const PlannedTensor*> tensors) {
  std::stable_sort(tensors.begin(), tensors.end(), [&](const PlannedTensor* a, const PlannedTensor* b) {
    return bytes_of(source, *a) > bytes_of(source, *b);
  });
  std::string text;
  for (size_t i = 0; i < std::min(tensors.size(), kMostNamed); ++i) {
    const SourceTensor& t = source.tensors()[tensors[i]->source];
    text += (i == 0 ? "" : "; ") + quote_tensor(t.name) + " " + shape_text(t.shape) + " " + dtype_name(t.dtype) + " (" +
            tensors[i]->why_raw + ")";
  }
  if (tensors.size() > kMostNamed) text += "; and " + std::to_string(tensors.size() - kMostNamed) + " more";
  return text;
}

}  // namespace

std::vector<std::string> raw_warnings(const ModelSource& source, const std::vector<PlannedTensor>& plan) {
  std::vector<const PlannedTensor*> not_finite, raw;
  uint64_t raw_bytes = 0, all_bytes = 0;
  for (const PlannedTensor& p : plan) {
    if (p.values == PlannedTensor::Values::kZero) continue;
    all_bytes += bytes_of(source, p);
    if (p.values == PlannedTensor::Values::kNotFinite) not_finite.push_back(&p);
    if (p.coded) continue;
    raw.push_back(&p);
    raw_bytes += bytes_of(source, p);
  }
  std::vector<std::string> out;
  if (!not_finite.empty()) {
    out.push_back("not finite, so stored as they are: " + name_some(source, not_finite));
  }
  const double share = all_bytes == 0 ? 0 : static_cast<double>(raw_bytes) / static_cast<double>(all_bytes);
  if (share > kShareWorthSaying) {
    char percent[16];
    std::snprintf(percent, sizeof percent, "%.1f %%", 100 * share);
    out.push_back(std::string(percent) +
                  " of the weights' bytes are not coded but stored as they are: " + name_some(source, raw));
  }
  return out;
}

}  // namespace nwc
