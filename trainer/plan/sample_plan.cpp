#include "trainer/plan/sample_plan.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "runtime/base/checked.h"

namespace nwc {
namespace {

constexpr uint64_t kRowBudget = uint64_t{4} << 20;  ///< weights of the whole model, but at least 32 rows a tensor
constexpr uint64_t kMinRows = 32;
constexpr uint64_t kMinTensors = 2;  ///< of a group, if it has so many

/// Row blocks spread evenly over the tensor.
std::vector<uint64_t> choose_rows(uint64_t m, uint64_t wanted) {
  const uint64_t blocks = ceil_div(m, uint64_t{kChunk});
  const uint64_t count = std::min(blocks, ceil_div(wanted, uint64_t{kChunk}));
  std::vector<uint64_t> rows;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t block = (2 * i + 1) * blocks / (2 * count);
    for (uint64_t r = block * kChunk; r < std::min(m, (block + 1) * kChunk); ++r) rows.push_back(r);
  }
  return rows;
}

}  // namespace

void choose_samples(std::vector<SurveyedTensor>* tensors, uint64_t budget) {
  double weights = 0, least = 0;
  std::map<std::pair<uint64_t, uint64_t>, std::vector<SurveyedTensor*>> groups;
  for (SurveyedTensor& t : *tensors) {
    weights += static_cast<double>(t.m * t.n);
    least += static_cast<double>(std::min(t.m, kMinRows) * t.n);
    groups[{t.m, t.n}].push_back(&t);
  }
  const double rows = std::min(1.0, static_cast<double>(kRowBudget) / std::max(1.0, weights));
  const double share = std::min(1.0, static_cast<double>(budget) / std::max(1.0, least));
  uint32_t number = 0;
  for (auto& [shape, group] : groups) {
    const auto wanted = static_cast<size_t>(std::ceil(share * static_cast<double>(group.size())));
    const size_t count = std::min(group.size(), std::max<size_t>(kMinTensors, wanted));
    for (SurveyedTensor* t : group) t->group = number;
    for (size_t i = 0; i < count; ++i) {
      SurveyedTensor& t = *group[(2 * i + 1) * group.size() / (2 * count)];
      t.sample_rows =
          choose_rows(t.m, std::max(static_cast<uint64_t>(std::ceil(rows * static_cast<double>(t.m))), kMinRows));
    }
    ++number;
  }
}

void ScaledSum::add(const SurveyedTensor& t, double size, double value) {
  if (t.group >= groups_.size()) groups_.resize(t.group + 1);
  Group& group = groups_[t.group];
  group.all += size;
  if (t.sample_rows.empty()) return;
  group.sampled += size;
  group.value += value;
}

double ScaledSum::scale(uint32_t group) const {
  const Group& g = groups_[group];
  return g.sampled > 0 ? g.all / g.sampled : 1;
}

double ScaledSum::total() const {
  double known = 0, sampled = 0, out = 0;
  for (const Group& g : groups_) {
    known += g.value;
    sampled += g.sampled;
  }
  for (size_t i = 0; i < groups_.size(); ++i) {
    const Group& g = groups_[i];
    out += g.sampled > 0 ? g.value * scale(static_cast<uint32_t>(i)) : sampled > 0 ? g.all * known / sampled : g.value;
  }
  return out;
}

}  // namespace nwc
