#include "runtime/codec/fused_product.h"

#include <algorithm>
#include <cmath>

#include "runtime/codec/synthesis_plan.h"
#include "runtime/codec/tile_walk.h"

namespace nwc {
namespace {

/// Floats of partial results at a time: 4 MiB.
constexpr uint64_t kMaxPartials = uint64_t{1} << 20;
/// Rows whose partial results are added up by one task.
constexpr uint64_t kReducedRows = 1024;

/// The last layer of g_s, to be applied to sums of features: [feature][16], features as LaneKernels::features has them.
struct LastLayer {
  explicit LastLayer(const Network& g) : matrix((kChunk + uint64_t{g.width}) * kChunk), bias(g.output_bias) {
    float* to = matrix.data();
    for (uint32_t o = 0; o < kChunk; ++o) {
      for (uint32_t i = 0; i < kChunk; ++i) to[i * kChunk + o] = g.skip_weight[o * kChunk + i];
      for (uint32_t i = 0; i < g.width; ++i)
        to[(kChunk + size_t{i}) * kChunk + o] = g.output_weight[o * size_t{g.width} + i];
    }
  }
  AlignedFloats matrix;
  std::vector<float> bias;  ///< empty without a network
};

/// Side information, with the scales of the columns over a power of two near the largest: so the sums over columns stay
/// in the range of f32 wherever the weights do, though column and row scales may lie far from 1.
struct FusedTensor {
  explicit FusedTensor(CodedTensor loaded) : coded(std::move(loaded)) {
    const auto largest = std::max_element(coded.scale.begin(), coded.scale.end());
    if (largest == coded.scale.end() || *largest == 0) return;
    const int exponent = std::ilogb(*largest);
    for (float& scale : coded.scale) scale = std::ldexp(scale, -exponent);
    unit = std::ldexp(1.0, exponent);
  }
  CodedTensor coded;
  double unit = 1;
};

/// Memory that one worker keeps from product to product.
struct FusedWorker {
  static uint64_t feature_floats(uint64_t width, uint64_t slots) {
    if (width == 0) return uint64_t{kMaxFusedBatch} * kChunk * kNumLanes;
    return ((kChunk + width) * slots + width) * kNumLanes;
  }
  void grow(uint64_t width, uint64_t slots) {
    for (AlignedFloats& f : features) f.grow(feature_floats(width, slots));
    for (AlignedFloats& f : factor) f.grow(kMaxFusedBatch * slots * kNumLanes);
  }

  /// Of the row block, of each tile at work: [slot][feature][32], scratch of the last. Without a network sums of them:
  /// [batch][16][32].
  AlignedFloats features[kTilesAtOnce];
  /// Of the columns of each band: [slot][batch][32]: x * scale, without a network also times step.
  AlignedFloats factor[kTilesAtOnce];
  float factor_sum[kTilesAtOnce][kMaxFusedBatch];  ///< over these columns
  uint32_t band[kTilesAtOnce];                     ///< of each tile at work
};

/// Sums of products of one slice of rows: out[column band][batch][rows of the slice].
class Accumulator final : public TileConsumer {
 public:
  struct Job {
    const SynthesisView& net;
    LastLayer& last;
    uint64_t n;
    uint32_t batch;
    const float* x;
    uint32_t tile_cols;
    uint64_t row_begin, num_rows;
    float* out;
  };
  Accumulator(const Job& job, CpuLevel cpu, std::vector<FusedWorker>& workers)
      : job_(job), kernels_(lane_kernels(cpu)), num_features_(kChunk + job.net.width), workers_(workers) {}

  void column_band(const TileGeometry& g, std::span<const ColumnGroup> groups, uint32_t worker) override {
    FusedWorker& w = workers_[worker];
    const uint32_t band = groups[0].band;
    for (uint32_t b = 0; b < job_.batch; ++b) {
      const float* x = job_.x + b * job_.n + g.col;
      double sum = 0;
      for (const ColumnGroup& group : groups) {
        float* factor = w.factor[band].data() + (size_t{group.slot} * job_.batch + b) * kNumLanes;
        std::fill(factor, factor + kNumLanes, 0.0f);
        for (uint32_t l = 0; l < group.active; ++l) {
          if (group.scale[l] != 0) factor[l] = x[group.slot * kNumLanes + l] * group.scale[l];
          sum += static_cast<double>(factor[l]);
          if (!network()) factor[l] *= group.step[l];
        }
      }
      w.factor_sum[band][b] = static_cast<float>(sum);
    }
  }

  void group(const TileGeometry&, uint32_t, uint32_t i, const ColumnGroup& group, const LaneValues& values,
             uint32_t worker) override {
    FusedWorker& w = workers_[worker];
    w.band[i] = group.band;
    float* features = w.features[i].data();
    if (network()) {
      // Its scratch memory lies where the next slot's features will be.
      kernels_.features(job_.net, group, values, features + size_t{group.slot} * num_features_ * kNumLanes);
    } else {
      const float* factor = w.factor[group.band].data() + size_t{group.slot} * job_.batch * kNumLanes;
      kernels_.accumulate(group, values, {job_.batch, factor, features});
    }
  }

  void row_block(const TileGeometry& g, uint32_t r, uint32_t i, uint32_t worker) override {
    FusedWorker& w = workers_[worker];
    const uint32_t band = w.band[i];
    FeatureBlock block{.features = w.features[i].data(),
                       .slots = network() ? g.slots() : 1,
                       .count = num_features_,
                       .factor = network() ? w.factor[band].data() : kSumFactors,
                       .factor_stride = size_t{job_.batch} * kNumLanes};
    const uint32_t num_rows = std::min(kChunk, g.height - r * kChunk);
    const uint64_t row = g.row + uint64_t{r} * kChunk - job_.row_begin;
    for (uint32_t b = 0; b < job_.batch; ++b) {
      alignas(64) float y[kChunk] = {};
      for (size_t o = 0; o < job_.last.bias.size(); ++o) y[o] = job_.last.bias[o] * w.factor_sum[band][b];
      kernels_.product(block, job_.net.identity ? nullptr : job_.last.matrix.data(), y);
      if (network()) {
        block.factor += kNumLanes;
      } else {
        block.features += kChunk * kNumLanes;
      }
      std::copy(y, y + num_rows, job_.out + (g.col / job_.tile_cols * job_.batch + b) * job_.num_rows + row);
    }
  }

 private:
  bool network() const { return job_.net.width != 0; }

  /// Adds up the sums of FeatureSums.
  alignas(64) static constexpr float kSumFactors[kNumLanes] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  const Job job_;
  const LaneKernels kernels_;
  const uint32_t num_features_;
  std::vector<FusedWorker>& workers_;
};

}  // namespace

struct FusedProduct::Impl {
  Impl(const NwcFile& f, const DecodeTables& t) : file(f), tables(t), coded(f.tensors().size()) {
    if (!file.codec()) return;
    plan = std::make_unique<SynthesisPlan>(*file.codec());
    last = std::make_unique<LastLayer>(file.codec()->synthesis);
  }

  // y[b][rows] = unit * row scale * sum over column bands of partials[band][b][rows]
  void reduce(const FusedTensor& f, uint64_t m, uint64_t bands, uint32_t batch, uint64_t row_begin, uint64_t num_rows,
              float* y, Runner& runner) const {
    const uint32_t tasks = static_cast<uint32_t>(ceil_div(num_rows, kReducedRows));
    parallel_for(runner, tasks, [&](uint32_t task, uint32_t) {
      const uint64_t begin = task * kReducedRows, end = std::min(num_rows, begin + kReducedRows);
      for (uint32_t b = 0; b < batch; ++b) {
        float* to = y + b * m + row_begin;
        for (uint64_t band = 0; band < bands; ++band) {
          const float* part = partials.data() + (band * batch + b) * num_rows;
          for (uint64_t r = begin; r < end; ++r) to[r] = band == 0 ? part[r] : to[r] + part[r];
        }
        const std::vector<float>& row_scale = f.coded.row_scale;
        for (uint64_t r = begin; r < end; ++r) {
          const double factor = row_scale.empty() ? f.unit : f.unit * static_cast<double>(row_scale[row_begin + r]);
          to[r] = static_cast<float>(static_cast<double>(to[r]) * factor);
        }
      }
    });
  }

  const NwcFile& file;
  const DecodeTables& tables;
  std::unique_ptr<SynthesisPlan> plan;
  std::unique_ptr<LastLayer> last;
  std::vector<std::unique_ptr<FusedTensor>> coded;
  TileWorkers tile_workers;
  std::vector<FusedWorker> workers;
  std::vector<float> partials;
};

FusedProduct::FusedProduct(const NwcFile& file, const DecodeTables& tables)
    : impl_(std::make_unique<Impl>(file, tables)) {}
FusedProduct::~FusedProduct() = default;

uint64_t FusedProduct::max_bytes(const NwcFile& file, uint32_t num_workers, uint32_t most_vectors) {
  if (!file.codec()) return 0;
  const uint64_t width = file.codec()->synthesis.width;
  uint64_t kept = decode_tables_bytes(*file.codec()) + SynthesisPlan::bytes(*file.codec()) +
                  (kChunk + width) * kChunk * sizeof(float) + file.tensors().size() * sizeof(void*);
  uint64_t tiles = 0, features = 0, factors = 0, loading = 0, partials = 0;
  for (const TensorRecord& r : file.tensors()) {
    if (r.storage != Storage::kCoded) continue;
    const TileGrid grid = tile_grid(r);
    kept += sizeof(FusedTensor) + 5 * (grid.n + grid.m) + sizeof(CodedTensor::Tile) * grid.num_tiles();
    loading = std::max(loading, r.side_size + 8 * grid.num_tiles() + 2 * (grid.n + grid.m));
    const uint64_t slots = ceil_div(grid.tile_cols, kNumLanes);
    features = std::max(features, kTilesAtOnce * FusedWorker::feature_floats(width, slots) * sizeof(float));
    factors = std::max(factors, kTilesAtOnce * slots * kMaxFusedBatch * kNumLanes * sizeof(float));
    tiles = std::max(tiles, tile_worker_bytes(r));
    const uint64_t row = grid.tiles_per_row() * most_vectors;
    const uint64_t slice = std::max(kMaxPartials, 2 * grid.tile_rows * row);
    partials = std::max(partials, sizeof(float) * std::min(slice, grid.m * row));
  }
  return kept + loading + partials + num_workers * (tiles + features + factors + sizeof(FusedWorker));
}

Status FusedProduct::multiply(size_t tensor, uint32_t batch, std::span<const float> x, std::span<float> y,
                              Runner& runner, const TensorDecodeOptions& options) {
  Impl& s = *impl_;
  if (tensor >= s.file.tensors().size()) return invalid_argument(str_cat("there is no tensor ", tensor));
  const TensorRecord& record = s.file.tensors()[tensor];
  const std::string who = str_cat("tensor '", record.name, "'");
  if (record.storage != Storage::kCoded) return invalid_argument(str_cat(who, ": not coded; multiply by its values"));
  if (batch == 0 || batch > kMaxFusedBatch) {
    return invalid_argument(str_cat(who, ": products of ", batch, " vectors, 1 to ", kMaxFusedBatch, " are possible"));
  }
  const uint64_t m = record.rows(), n = record.cols();
  // NOLINTNEXTLINE(clang-analyzer-core.DivideZero): a coded tensor has columns.
  if (x.size() / n < batch) {
    return invalid_argument(str_cat(who, ": x has ", x.size(), " values, needs ", batch * n));
  }
  if (y.size() / m < batch) {
    return Status(StatusCode::kBufferTooSmall, str_cat(who, ": y has ", y.size(), " values, needs ", batch * m));
  }
  std::unique_ptr<FusedTensor>& loaded = s.coded[tensor];
  if (loaded == nullptr) {
    NWC_ASSIGN_OR_RETURN(CodedTensor coded, s.file.load_coded(tensor, options.check_crc));
    loaded = std::make_unique<FusedTensor>(std::move(coded));
  }
  const TileGrid grid = tile_grid(record);
  if (s.workers.size() < runner.num_workers()) s.workers.resize(runner.num_workers());
  for (FusedWorker& worker : s.workers) worker.grow(s.plan->view().width, ceil_div(grid.tile_cols, kNumLanes));
  const uint64_t bands = grid.tiles_per_row(), pair = 2 * uint64_t{grid.tile_rows};
  const uint64_t slice = std::max<uint64_t>(1, kMaxPartials / (bands * batch * pair)) * pair;
  for (uint64_t row = 0; row < m; row += slice) {
    const uint64_t rows = std::min(slice, m - row);
    if (s.partials.size() < bands * batch * rows) {
      std::vector<float>().swap(s.partials);  // never both, nor more than is needed
      s.partials.resize(bands * batch * rows);
    }
    const Accumulator::Job job{.net = s.plan->view(),
                               .last = *s.last,
                               .n = n,
                               .batch = batch,
                               .x = x.data(),
                               .tile_cols = grid.tile_cols,
                               .row_begin = row,
                               .num_rows = rows,
                               .out = s.partials.data()};
    Accumulator accumulator(job, options.cpu, s.workers);
    TileWalk walk(s.file, s.tables, record, loaded->coded, row / grid.tile_rows, ceil_div(row + rows, grid.tile_rows),
                  options, accumulator);
    NWC_TRY(walk.run(runner, &s.tile_workers));
    s.reduce(*loaded, m, bands, batch, row, rows, y.data(), runner);
  }
  return {};
}

}  // namespace nwc
