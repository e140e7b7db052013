#include "trainer/plan/deal_tensors.h"

#include <algorithm>

namespace nwc {
namespace {

/// What the search for a weight's value takes, in multiplications: 1,024 states, about 4 million weights a second.
constexpr double kSearch = 6000;
/// For feedback, and with other damping for the shares of the columns.
constexpr double kFactorings = 2;

}  // namespace

std::vector<uint32_t> deal_tensors(const ModelSource& source, const std::vector<PlannedTensor>& plan, uint32_t ranks,
                                   bool calibrated) {
  std::vector<uint32_t> owner(plan.size(), 0);
  std::vector<double> load(ranks, 0.0);
  for (size_t i = 0; i < plan.size(); ++i) {
    if (!plan[i].coded) continue;
    const SourceTensor& tensor = source.tensors()[plan[i].source];
    double m = 1;
    for (uint32_t d = 0; d < plan[i].split; ++d) m *= static_cast<double>(tensor.shape[d]);
    const double n = static_cast<double>(tensor.num_elements()) / m;
    const auto least = std::min_element(load.begin(), load.end());
    *least += m * n * kSearch + (calibrated ? m * n * n / 2 + kFactorings * n * n * n / 6 : 0);
    owner[i] = static_cast<uint32_t>(least - load.begin());
  }
  return owner;
}

}  // namespace nwc
