#include "trainer/calib/calibration_estimate.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <unordered_map>

#include "trainer/calib/block_statistics.h"
#include "trainer/calib/calibration_run.h"
#include "trainer/llm/model_graph.h"

namespace nwc {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class AssumedCalibration final : public Calibration {
 public:
  explicit AssumedCalibration(const ModelGraph& graph) {
    for (const CalibratedTensor& tensor : calibrated_tensors(graph, true)) tensors_.emplace(tensor.name, tensor);
  }
  const std::string& hash() const override { return hash_; }
  uint64_t tokens() const override { return 0; }
  bool covers(const std::string& tensor) const override { return tensors_.count(tensor) != 0; }
  Result<TensorStatistics> load(const std::string& tensor, HessianKind) const override {
    const auto found = tensors_.find(tensor);
    if (found == tensors_.end()) return invalid_argument(tensor + " is not covered by the calibration");
    TensorStatistics out;
    out.m = found->second.m;
    out.n = found->second.n;
    out.hessian.assign(static_cast<size_t>(out.n * out.n), 0.0f);
    for (uint64_t i = 0; i < out.n; ++i) out.hessian[static_cast<size_t>(i * out.n + i)] = 1;
    out.row_importance.assign(static_cast<size_t>(out.m), 1.0f);
    return out;
  }

 private:
  const std::string hash_ = "assumed";
  std::unordered_map<std::string, CalibratedTensor> tensors_;
};

uint64_t disk_bytes_of(const ModelGraph& graph, bool activations) {
  uint64_t bytes = 0;
  for (const CalibratedTensor& t : calibrated_tensors(graph, activations)) {
    const uint64_t matrices = t.hessian == t.name ? 2 : 1;
    bytes += sizeof(float) * (matrices * t.n * t.n + t.m + 1);
  }
  return bytes;
}

}  // namespace

Result<uint64_t> calibration_disk_bytes(const ModelSource& source, bool activations) {
  NWC_ASSIGN_OR_RETURN(const ModelGraph graph, ModelGraph::open(source, 1));
  return disk_bytes_of(graph, activations);
}

Result<BlockSpeed> measure_block_speed(const ModelSource& source, uint32_t context, bool activations, Runner& runner) {
  NWC_ASSIGN_OR_RETURN(const ModelGraph model, ModelGraph::open(source, context));
  const LayerGraph& graph = model.layer(0);
  NWC_ASSIGN_OR_RETURN(const LayerWeights<float> weights, model.load_layer(0));
  const uint32_t pieces = runner.num_workers();
  const auto length = static_cast<Eigen::Index>(context);
  const std::vector<uint32_t> lengths{context};
  const RowMatrix<float> x = RowMatrix<float>::Random(length, graph.hidden());
  std::vector<LayerPass<float>> passes(pieces);
  const double tokens = static_cast<double>(context) * pieces;
  const auto timed = [&](const auto& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return seconds_since(start) / tokens;
  };

  BlockSpeed speed;
  const auto forward = [&] {
    parallel_for(runner, pieces, [&](uint32_t i, uint32_t) { passes[i].forward(graph, weights, x, lengths); });
  };
  forward();  // memory is touched for the first time
  speed.forward = timed(forward);
  speed.backward = timed([&] {
    parallel_for(runner, pieces, [&](uint32_t i, uint32_t) {
      RowMatrix<float> dx;
      passes[i].backward(graph, weights, x, &dx, nullptr);
    });
  });
  BlockStatistics statistics(graph, activations);
  speed.statistics = timed([&] {
    statistics.begin_round(length * pieces, pieces);
    parallel_for(runner, pieces, [&](uint32_t i, uint32_t) {
      statistics.take(i, length * static_cast<Eigen::Index>(i), lengths, passes[i]);
    });
    const Status alone = statistics.end_round(one_rank(), runner);
    assert(alone.ok());
    (void)alone;
  });
  speed.head_forward = speed.forward * static_cast<double>(graph.hidden()) * model.model().vocab_size /
                       static_cast<double>(graph.elements_per_token());
  return speed;
}

Result<CalibrationEstimate> estimate_calibration(const ModelSource& source, uint64_t tokens,
                                                 const CalibrationOptions& options, const BlockSpeed& speed) {
  NWC_ASSIGN_OR_RETURN(const ModelGraph graph, ModelGraph::open(source, 1));
  const ModelRecord& model = graph.model();
  CalibrationEstimate out;
  const double layers = model.num_layers;
  out.seconds = static_cast<double>(tokens) *
                (layers * (2 * speed.forward + speed.backward + speed.statistics) + double{kHeadPasses} * speed.head_forward);
  out.disk_bytes = disk_bytes_of(graph, options.activations);
  const uint64_t hidden = sizeof(float) * tokens * model.hidden_size;
  out.memory_bytes = std::min(options.memory_bytes, hidden * model.num_layers) + 4 * hidden;
  return out;
}

Result<std::unique_ptr<Calibration>> assumed_calibration(const ModelSource& source) {
  NWC_ASSIGN_OR_RETURN(const ModelGraph graph, ModelGraph::open(source, 1));
  return std::unique_ptr<Calibration>(std::make_unique<AssumedCalibration>(graph));
}

}  // namespace nwc
