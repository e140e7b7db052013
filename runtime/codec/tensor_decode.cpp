#include "runtime/codec/tensor_decode.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>

#include "runtime/codec/synthesis_plan.h"
#include "runtime/codec/tile_walk.h"

namespace nwc {
namespace {

// Bits that value k costs under a table.
double table_bits(const FrequencyTable& t, int32_t k) {
  const int32_t symbol = (k >> t.raw_bits) - t.min;
  const int32_t escape = static_cast<int32_t>(t.freq.size()) - 1;
  const bool escaped = symbol < 0 || symbol >= escape;
  const uint16_t freq = t.freq[static_cast<size_t>(escaped ? escape : symbol)];
  return kProbBits - std::log2(static_cast<double>(freq)) + (escaped ? 16 : t.raw_bits);
}

// A row block of a tile in its final form. Rows of the output are often a multiple of 4 KiB apart: written group by
// group they would share a few sets of the first-level cache and take a page each. So they are collected here first.
struct StagedRows {
  alignas(64) uint8_t bytes[kChunk * kMaxTileCols * sizeof(float)];
};

class RowWriter final : public TileConsumer {
 public:
  RowWriter(const SynthesisView& net, CpuLevel cpu, const CodedTensor& coded, Dtype dtype, uint64_t row_begin,
            uint64_t row_end, uint64_t row_bytes, uint8_t* out, uint32_t num_workers)
      : net_(net),
        kernels_(lane_kernels(cpu)),
        coded_(coded),
        dtype_(dtype),
        row_begin_(row_begin),
        row_end_(row_end),
        row_bytes_(row_bytes),
        out_(out) {
    for (uint32_t i = 0; i < num_workers; ++i) workers_.push_back(std::make_unique<Worker>(net.width));
  }

  void group(const TileGeometry& g, uint32_t r, uint32_t i, const ColumnGroup& group, const LaneValues& values,
             uint32_t worker) override {
    const auto [begin, end] = rows(g, r);
    if (begin >= end) return;
    Worker* w = workers_[worker].get();
    kernels_.synthesize(net_, group, values, w->scratch.data(), &w->weights);
    const uint64_t row = g.row + uint64_t{r} * kChunk;
    float row_scale[kChunk];
    StoreTarget target;
    target.out = w->staged[i].bytes + size_t{group.slot} * kNumLanes * dtype_size(dtype_);
    target.stride = size_t{g.width} * dtype_size(dtype_);
    target.row_begin = static_cast<uint32_t>(begin - row);
    target.row_end = static_cast<uint32_t>(end - row);
    target.dtype = dtype_;
    if (!coded_.row_scale.empty()) {
      for (uint32_t c = target.row_begin; c < target.row_end; ++c) row_scale[c] = coded_.row_scale[row + c];
      target.row_scale = row_scale;
    }
    kernels_.store(w->weights, group, target);
  }

  void row_block(const TileGeometry& g, uint32_t r, uint32_t i, uint32_t worker) override {
    const auto [begin, end] = rows(g, r);
    if (begin >= end) return;
    RowCopy copy;
    copy.from = workers_[worker]->staged[i].bytes;
    copy.width = g.width * dtype_size(dtype_);
    copy.rows = end - begin;
    copy.to = out_ + (begin - row_begin_) * row_bytes_ + g.col * dtype_size(dtype_);
    copy.stride = row_bytes_;
    kernels_.copy(copy);
  }

  static uint64_t worker_bytes(uint32_t width) {
    return sizeof(Worker) + synthesis_scratch_floats(width) * sizeof(float);
  }

 private:
  struct Worker {
    explicit Worker(uint32_t width) : scratch(width) {}
    SynthesisScratch scratch;
    LaneWeights weights;
    StagedRows staged[kTilesAtOnce];
  };

  // The rows of row block r that are wanted.
  std::pair<uint64_t, uint64_t> rows(const TileGeometry& g, uint32_t r) const {
    const uint64_t row = g.row + uint64_t{r} * kChunk;
    return {std::max(row, row_begin_), std::min({row + kChunk, g.row + g.height, row_end_})};
  }

  const SynthesisView& net_;
  const LaneKernels kernels_;
  const CodedTensor& coded_;
  const Dtype dtype_;
  const uint64_t row_begin_, row_end_, row_bytes_;
  uint8_t* const out_;
  std::vector<std::unique_ptr<Worker>> workers_;
};

class ValueWriter final : public TileConsumer {
 public:
  ValueWriter(uint64_t cols, int16_t* out) : cols_(cols), out_(out) {}

  void group(const TileGeometry& g, uint32_t r, uint32_t, const ColumnGroup& group, const LaneValues& values,
             uint32_t) override {
    int16_t* chunk = out_ + ((g.row / kChunk + r) * cols_ + g.col + uint64_t{group.slot} * kNumLanes) * kChunk;
    for (uint32_t l = 0; l < group.active; ++l, chunk += kChunk) {
      for (uint32_t c = 0; c < kChunk; ++c) chunk[c] = values.q[c][l];
    }
  }

 private:
  const uint64_t cols_;
  int16_t* const out_;
};

/// Bytes of side information and directory in memory.
uint64_t side_bytes(const TensorRecord& r) {
  return tile_grid(r).num_tiles() * sizeof(CodedTensor::Tile) + r.cols() * (sizeof(float) + 1) +
         (r.row_scales ? r.rows() * sizeof(float) : 0) + (r.row_classes ? r.rows() : 0);
}

}  // namespace

struct TensorDecoder::Impl {
  /// Side information of one tensor.
  struct Side {
    size_t tensor = 0;
    bool checked = false;
    std::shared_ptr<const CodedTensor> coded;
  };

  Impl(const NwcFile& f, const DecodeTables& t) : file(f), tables(t) {
    if (file.codec()) plan = std::make_unique<SynthesisPlan>(*file.codec());
  }

  /// The part of a tensor that is asked for. It decides how much of the side information stays.
  enum class Part { kAll, kRows, kMany };

  std::shared_ptr<const CodedTensor> find(size_t tensor, bool check_crc) {
    const auto serves = [&](const Side& s) {
      return s.tensor == tensor && s.coded != nullptr && (s.checked || !check_crc);
    };
    const std::lock_guard<std::mutex> lock(mutex);
    if (serves(last_many)) return last_many.coded;
    const auto at = std::find_if(rows.begin(), rows.end(), serves);
    if (at == rows.end()) return nullptr;
    std::rotate(at, at + 1, rows.end());  // the last one used comes last
    return rows.back().coded;
  }

  void keep(Side side, Part part) {
    if (part == Part::kAll) return;
    const std::lock_guard<std::mutex> lock(mutex);
    if (part == Part::kMany) {
      last_many = std::move(side);
      return;
    }
    // Another thread may have loaded the same.
    std::erase_if(rows, [&](const Side& s) { return s.tensor == side.tensor; });
    if (rows.size() == kKeptRows) rows.erase(rows.begin());
    rows.push_back(std::move(side));
  }

  Result<std::shared_ptr<const CodedTensor>> side_of(size_t tensor, bool check_crc, Part part) {
    if (std::shared_ptr<const CodedTensor> found = find(tensor, check_crc)) return found;
    ++num_loaded;
    NWC_ASSIGN_OR_RETURN(CodedTensor loaded, file.load_coded(tensor, check_crc));
    std::shared_ptr<const CodedTensor> coded = std::make_shared<const CodedTensor>(std::move(loaded));
    keep({tensor, check_crc, coded}, part);
    return coded;
  }

  const NwcFile& file;
  const DecodeTables& tables;
  std::unique_ptr<const SynthesisPlan> plan;
  std::mutex mutex;
  std::vector<Side> rows;
  Side last_many;
  std::atomic<uint64_t> num_loaded{0};
};

TensorDecoder::TensorDecoder(const NwcFile& file, const DecodeTables& tables)
    : impl_(std::make_unique<Impl>(file, tables)) {}
TensorDecoder::~TensorDecoder() = default;
const NwcFile& TensorDecoder::file() const { return impl_->file; }
const DecodeTables& TensorDecoder::tables() const { return impl_->tables; }
const SynthesisView& TensorDecoder::synthesis() const { return impl_->plan->view(); }
Result<std::shared_ptr<const CodedTensor>> TensorDecoder::side(size_t tensor, bool check_crc, bool part) {
  return impl_->side_of(tensor, check_crc, part ? Impl::Part::kMany : Impl::Part::kAll);
}
uint64_t TensorDecoder::sides_loaded() const { return impl_->num_loaded; }

uint64_t TensorDecoder::kept_bytes(const NwcFile& file, std::span<const size_t> tensors) {
  if (!file.codec()) return 0;
  std::vector<std::pair<uint64_t, size_t>> sides;
  for (const size_t tensor : tensors) {
    if (file.tensors()[tensor].storage == Storage::kCoded)
      sides.emplace_back(side_bytes(file.tensors()[tensor]), tensor);
  }
  std::sort(sides.rbegin(), sides.rend());
  sides.erase(std::unique(sides.begin(), sides.end()), sides.end());  // a tied embedding is the head, too
  uint64_t bytes = decode_tables_bytes(*file.codec()) + SynthesisPlan::bytes(*file.codec());
  for (size_t i = 0; i < std::min(sides.size(), kKeptRows + 1); ++i) bytes += sides[i].first;
  return bytes;
}

uint64_t TensorDecoder::call_bytes(const NwcFile& file, size_t tensor, uint32_t num_workers) {
  const TensorRecord& r = file.tensors()[tensor];
  const TileGrid grid = tile_grid(r);
  // Side information is held as stored, then inflated, and then as numbers beside that.
  const uint64_t loading = r.side_size + 8 * grid.num_tiles() + 2 * (grid.n + grid.m) + side_bytes(r);
  const uint64_t worker = tile_worker_bytes(r) + RowWriter::worker_bytes(file.codec()->synthesis.width);
  return loading + num_workers * worker;
}

Status decode_tensor_rows(const NwcFile& file, const DecodeTables& tables, size_t tensor, uint64_t row_begin,
                          uint64_t row_end, Dtype dtype, MutableBytes out, Runner& runner,
                          const TensorDecodeOptions& options) {
  return TensorDecoder(file, tables).decode_rows(tensor, row_begin, row_end, dtype, out, runner, options);
}

Status TensorDecoder::decode_rows(size_t tensor, uint64_t row_begin, uint64_t row_end, Dtype dtype, MutableBytes out,
                                  Runner& runner, const TensorDecodeOptions& options) {
  const NwcFile& file = impl_->file;
  if (tensor >= file.tensors().size()) return invalid_argument(str_cat("there is no tensor ", tensor));
  const TensorRecord& record = file.tensors()[tensor];
  const std::string who = str_cat("tensor '", record.name, "'");
  if (record.storage != Storage::kCoded) return invalid_argument(str_cat(who, ": not coded; read it as raw bytes"));
  if (dtype != Dtype::kF32 && dtype != Dtype::kF16 && dtype != Dtype::kBf16)
    return invalid_argument(str_cat(who, ": can be decoded to F32, F16 or BF16 only"));
  if (row_begin > row_end || row_end > record.rows()) {
    return invalid_argument(str_cat(who, ": rows ", row_begin, " to ", row_end, " of ", record.rows()));
  }
  const uint64_t row_bytes = record.cols() * dtype_size(dtype);
  // NOLINTNEXTLINE(clang-analyzer-core.DivideZero): a coded tensor has columns.
  if (out.size() / row_bytes < row_end - row_begin) {
    return Status(StatusCode::kBufferTooSmall,
                  str_cat(who, ": the buffer has ", out.size(), " bytes, needs ", (row_end - row_begin) * row_bytes));
  }
  if (row_begin == row_end) return {};
  const bool one_band = row_begin / record.tile_rows == (row_end - 1) / record.tile_rows;
  const Impl::Part part = row_end - row_begin == record.rows() ? Impl::Part::kAll
                          : one_band                           ? Impl::Part::kRows
                                                               : Impl::Part::kMany;
  NWC_ASSIGN_OR_RETURN(const std::shared_ptr<const CodedTensor> coded, impl_->side_of(tensor, options.check_crc, part));
  RowWriter writer(impl_->plan->view(), options.cpu, *coded, dtype, row_begin, row_end, row_bytes, out.data(),
                   runner.num_workers());
  TileWalk walk(file, impl_->tables, record, *coded, row_begin / record.tile_rows, ceil_div(row_end, record.tile_rows),
                options, writer);
  TileWorkers workers;
  return walk.run(runner, &workers);
}

Status decode_tensor_values(const NwcFile& file, const DecodeTables& tables, size_t tensor, std::span<int16_t> out,
                            Runner& runner, const TensorDecodeOptions& options) {
  if (tensor >= file.tensors().size()) return invalid_argument(str_cat("there is no tensor ", tensor));
  const TensorRecord& record = file.tensors()[tensor];
  const std::string who = str_cat("tensor '", record.name, "'");
  if (record.storage != Storage::kCoded) return invalid_argument(str_cat(who, ": not coded, has no values"));
  const uint64_t n = record.cols();
  const uint64_t count = ceil_div(record.rows(), kChunk) * n * kChunk;
  if (out.size() < count) {
    return Status(StatusCode::kBufferTooSmall, str_cat(who, ": room for ", out.size(), " values, needs ", count));
  }
  NWC_ASSIGN_OR_RETURN(const CodedTensor coded, file.load_coded(tensor, options.check_crc));
  ValueWriter writer(n, out.data());
  TileWalk walk(file, tables, record, coded, 0, ceil_div(record.rows(), record.tile_rows), options, writer);
  TileWorkers workers;
  return walk.run(runner, &workers);
}

double ideal_bits(const CodecRecord& codec, const TileGrid& grid, const CodedTensor& coded,
                  std::span<const int16_t> values) {
  const uint64_t row_blocks = ceil_div(grid.m, kChunk);
  assert(values.size() >= row_blocks * grid.n * kChunk);
  const Trellis* trellis = find_trellis(codec.trellis_bits);
  std::vector<uint16_t> state(static_cast<size_t>(grid.n), 0);
  double bits = 0;
  for (uint64_t rb = 0; rb < row_blocks; ++rb) {
    if (rb * kChunk % grid.tile_rows == 0) std::fill(state.begin(), state.end(), uint16_t{0});
    for (uint64_t col = 0; col < grid.n; ++col) {
      for (uint32_t c = 0; c < kChunk; ++c) {
        const int16_t q = values[(rb * grid.n + col) * kChunk + c];
        const uint32_t bank = Trellis::bank(state[col]);
        const int32_t k = trellis == nullptr ? q : trellis_value(q, bank);
        const uint32_t context = context_of(codec.context_kind, coded.row_class, rb * kChunk + c);
        bits += table_bits(codec.tables[codec.table_of(coded.level[col], context, bank)], k);
        if (trellis != nullptr) state[col] = trellis->next(state[col], k);
      }
    }
  }
  return bits;
}

}  // namespace nwc
