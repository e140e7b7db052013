#include "trainer/calib/label_sketch.h"

#include <cmath>

namespace nwc {

float sketch_label(Eigen::Ref<RowVector<float>> logits, const RowVector<float>& slope, Random random,
                   RowVector<float>* row_sum) {
  const float top = logits.maxCoeff();
  auto p = logits.array();
  p = (p - top).exp();
  double total = 0;
  for (Eigen::Index v = 0; v < logits.size(); ++v) total += double{logits[v]};
  p *= static_cast<float>(1 / total);
  RowVector<float> signed_root = p * (1 - p);
  if (slope.size() != 0) signed_root.array() *= slope.array().square();
  *row_sum += signed_root;
  const float omega = signed_root.sum();

  signed_root = p.sqrt();
  double along = 0;
  uint64_t signs = 0;
  for (Eigen::Index v = 0; v < signed_root.size(); ++v) {
    signs = v % 64 == 0 ? random.next() : signs >> 1;
    if ((signs & 1) != 0) signed_root[v] = -signed_root[v];
    along += double{signed_root[v]};
  }
  p = signed_root.array() - static_cast<float>(along) * p;
  if (slope.size() != 0) p *= slope.array();
  return omega;
}

}  // namespace nwc
