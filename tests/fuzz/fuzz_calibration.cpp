// The folder of a calibration: calibration.json, and behind a NUL byte the statistics of its first file.
#include <cmath>

#include "tests/fuzz/harness_support.h"
#include "trainer/calib/calibration.h"
#include "trainer/calib/calibration_files.h"

using namespace nwc;
using namespace nwc::fuzz;

namespace {

constexpr const char* kMoments = "layer.0.safetensors";  // as the seeds name it
constexpr uint64_t kMaxElements = 1 << 16;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto [index, moments] = split_at_nul({data, size});
  scratch_file("calibration.json", index);
  scratch_file(kMoments, moments);
  const auto listed = read_calibration_index(scratch_folder());
  const auto calibration = Calibration::open(scratch_folder());
  require(listed.ok() == calibration.ok(), "an index that can be read is one that can be opened");
  if (!listed.ok()) return 0;
  for (const CalibratedTensor& t : listed->tensors) {
    require((*calibration)->covers(t.name), "listed tensors are covered");
    if (t.m > kMaxElements || t.n > kMaxElements || t.m * t.n > kMaxElements || t.n * t.n > kMaxElements) continue;
    for (const HessianKind kind : {HessianKind::kActivation, HessianKind::kFisher}) {
      const auto statistics = (*calibration)->load(t.name, kind);
      if (!statistics.ok()) continue;
      require(statistics->hessian.size() == statistics->n * statistics->n, "a matrix of the size stated");
      require(statistics->row_importance.size() == statistics->m, "a number for each row");
      for (const float v : statistics->hessian) require(std::isfinite(v), "statistics are finite");
    }
  }
  return 0;
}
