#include "runtime/codec/integer_decode.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <optional>

#include "runtime/codec/integer_outliers.h"
#include "runtime/codec/integer_pack.h"
#include "runtime/codec/integer_requantize.h"
#include "runtime/codec/tile_walk.h"

namespace nwc {
namespace {

class IntegerWriter final : public TileConsumer {
 public:
  IntegerWriter(const IntegerForm& form, CpuLevel cpu, uint8_t* out, FoundOutliers* found)
      : form_(form), pack_(unit_packer(cpu)), out_(out), found_(*found) {
    uint64_t next = 0;
    for (const uint8_t bits : form.bits) {
      unit_at_.push_back(next);
      next += unit_bytes(bits);
    }
  }

  void group(const TileGeometry& g, uint32_t r, uint32_t i, const ColumnGroup& group, const LaneValues& values,
             uint32_t worker) override {
    const uint64_t row_block = g.row / kChunk + r, unit = g.col / kUnitCols + group.slot;
    const uint32_t bits = form_.bits[unit];
    LaneValues used;
    const LaneValues* from = &values;
    if (group.active < kUnitCols) {  // resting lanes hold anything
      used = values;
      for (auto& row : used.q) std::fill(row + group.active, row + kUnitCols, int16_t{0});
      from = &used;
    }
    uint32_t over[kChunk];
    if (!pack_(*from, bits, out_ + row_block * form_.row_block_bytes + unit_at_[unit], over)) return;
    for (uint64_t c = kChunk; row_block * kChunk + c > form_.rows; --c) over[c - 1] = 0;  // rows that there are not
    found_.add(*from, bits, over, unit * kUnitCols, worker, i);
  }

  void row_block(const TileGeometry& g, uint32_t r, uint32_t i, uint32_t worker) override {
    found_.end_run(g.row / kChunk + r, worker, i);
  }

 private:
  const IntegerForm& form_;
  const PackUnit pack_;
  uint8_t* const out_;
  std::vector<uint64_t> unit_at_;
  FoundOutliers& found_;
};

/// Factors of the columns over a power of two near the largest, which the rows' scales get: so sums stay in the range
/// of f32 wherever the weights do. scales: what lies in the form from row_scale_at on.
void fill_scales(const CodecRecord& codec, const CodedTensor& coded, const IntegerForm& form, uint8_t* scales) {
  const auto part = [&](uint64_t at) { return reinterpret_cast<float*>(scales + (at - form.row_scale_at)); };
  float* factor = part(form.factor_at);
  float* row_scale = part(form.row_scale_at);
  double largest = 0;
  const auto exact = [&](uint64_t j) {  // block scales have the step in them
    const double step = form.requantized ? 1 : static_cast<double>(codec.step[coded.level[j]]);
    return static_cast<double>(coded.scale[j]) * step;
  };
  for (uint64_t j = 0; j < form.cols; ++j) largest = std::max(largest, exact(j));
  const int exponent = largest > 0 ? std::ilogb(largest) : 0;
  for (uint64_t j = 0; j < form.padded_cols(); ++j)
    factor[j] = j < form.cols ? static_cast<float>(std::ldexp(exact(j), -exponent)) : 0.0f;
  float* shrink = part(form.shrink_at);
  for (uint64_t j = 0; form.shrinks && j < form.padded_cols(); ++j)
    shrink[j] = j < form.cols ? factor[j] * codec.shrink[coded.level[j]] : 0.0f;
  for (uint64_t i = 0; i < form.row_blocks() * kChunk; ++i) {
    const double scale = i >= form.rows ? 0 : coded.row_scale.empty() ? 1 : static_cast<double>(coded.row_scale[i]);
    row_scale[i] = static_cast<float>(std::ldexp(scale, exponent));
  }
}

}  // namespace

uint64_t integer_decode_bytes(const IntegerForm& form, uint64_t tile_cols, uint32_t num_workers) {
  return FoundOutliers::bytes(form, tile_cols, num_workers);
}

namespace {

Status check_request(const NwcFile& file, const IntegerRequest& r) {
  if (r.tensor >= file.tensors().size()) return invalid_argument(str_cat("there is no tensor ", r.tensor));
  const TensorRecord& record = file.tensors()[r.tensor];
  const IntegerForm& form = *r.form;
  const std::string who = str_cat("tensor '", record.name, "'");
  if (record.storage != Storage::kCoded) return invalid_argument(str_cat(who, ": not coded, has no integers"));
  if (record.rows() != form.rows || record.cols() != form.cols || r.row_begin >= r.row_end || r.row_end > form.rows ||
      r.row_begin % record.tile_rows != 0 || (r.row_end != form.rows && r.row_end % record.tile_rows != 0))
    return invalid_argument(str_cat(who, ": rows ", r.row_begin, " to ", r.row_end, " of ", record.rows()));
  if (r.out.size() < form.bytes) {
    return Status(StatusCode::kBufferTooSmall,
                  str_cat(who, ": the buffer has ", r.out.size(), " bytes, needs ", form.bytes));
  }
  return {};
}

/// A request on its way.
class IntegerPart {
 public:
  IntegerPart(const IntegerRequest& request, const TensorDecodeOptions& options) : r_(request), options_(options) {
    options_.check_crc = request.check_crc;
  }

  Status load(TensorDecoder& decoder) {
    const bool all = r_.row_begin == 0 && r_.row_end == r_.form->rows;
    NWC_ASSIGN_OR_RETURN(coded_, decoder.side(r_.tensor, r_.check_crc, !all));
    if (r_.row_begin == 0)
      fill_scales(*decoder.file().codec(), *coded_, *r_.form, r_.out.data() + r_.form->row_scale_at);
    return {};
  }

  TileWalk* start(TensorDecoder& decoder, uint32_t num_workers, RequantizeWorkers* requantize) {
    const TensorRecord& record = decoder.file().tensors()[r_.tensor];
    who_ = str_cat("tensor '", record.name, "'");
    if (r_.row_begin == 0) begin()[0] = 0;
    room_ = r_.form->max_outliers - std::min<uint64_t>(r_.form->max_outliers, begin()[first_block()]);
    found_.emplace(num_workers, room_);
    if (r_.form->requantized) {
      writer_ =
          std::make_unique<RequantizedWriter>(decoder.synthesis(), *r_.form, options_.cpu, r_.out.data(), requantize);
    } else {
      writer_ = std::make_unique<IntegerWriter>(*r_.form, options_.cpu, r_.out.data(), &*found_);
    }
    walk_.emplace(decoder.file(), decoder.tables(), record, *coded_, r_.row_begin / record.tile_rows,
                  ceil_div(r_.row_end, record.tile_rows), options_, *writer_);
    return &*walk_;
  }

  Status finish() {
    NWC_TRY(walk_->status());
    if (found_->too_many())
      return limit_error(str_cat(who_, ": more than ", room_, " weights are larger than the tables of the codec say"));
    found_->place(first_block(), end_block(), begin(), outliers());
    return {};
  }

  const std::string& who() const { return who_; }
  uint64_t first_block() const { return r_.row_begin / kChunk; }
  uint64_t end_block() const { return ceil_div(r_.row_end, kChunk); }
  uint32_t* begin() const { return reinterpret_cast<uint32_t*>(r_.out.data() + r_.form->begin_at); }
  Outlier* outliers() const { return reinterpret_cast<Outlier*>(r_.out.data() + r_.form->outliers_at); }

 private:
  const IntegerRequest& r_;
  TensorDecodeOptions options_;
  std::shared_ptr<const CodedTensor> coded_;
  std::string who_;
  uint64_t room_ = 0;
  std::optional<FoundOutliers> found_;
  std::unique_ptr<TileConsumer> writer_;
  std::optional<TileWalk> walk_;
};

/// Row blocks whose outliers a task puts in order.
constexpr uint64_t kTaskBlocks = 256;

}  // namespace

Status integer_scales(const NwcFile& file, size_t tensor, const IntegerForm& form, bool check_crc, uint8_t* out) {
  NWC_ASSIGN_OR_RETURN(const CodedTensor coded, file.load_coded(tensor, check_crc));
  fill_scales(*file.codec(), coded, form, out);
  return {};
}

Status decode_integers(TensorDecoder& decoder, std::span<const IntegerRequest> requests, Runner& runner,
                       const TensorDecodeOptions& options) {
  std::deque<IntegerPart> parts;
  for (const IntegerRequest& request : requests) {
    NWC_TRY(check_request(decoder.file(), request));
    parts.emplace_back(request, options);
  }
  const uint32_t num = static_cast<uint32_t>(parts.size());
  std::vector<Status> loaded(num);
  parallel_for(runner, num, [&](uint32_t i, uint32_t) { loaded[i] = parts[i].load(decoder); });
  for (const Status& status : loaded) NWC_TRY(status);
  RequantizeWorkers requantize;
  if (std::any_of(requests.begin(), requests.end(), [](const IntegerRequest& r) { return r.form->requantized; })) {
    requantize.prepare(runner.num_workers(), decoder.synthesis().width);
  }
  std::vector<TileWalk*> walks;
  walks.reserve(num);
  for (IntegerPart& part : parts) walks.push_back(part.start(decoder, runner.num_workers(), &requantize));
  TileWorkers workers;
  NWC_TRY(TileWalk::run_all(walks, runner, &workers));
  struct Task {
    const IntegerPart* part;
    uint64_t from;
  };
  std::vector<Task> tasks;
  for (uint32_t i = 0; i < num; ++i) {
    NWC_TRY(parts[i].finish());
    for (uint64_t b = parts[i].first_block(); b < parts[i].end_block(); b += kTaskBlocks)
      tasks.push_back({&parts[i], b});
  }
  std::vector<uint8_t> exact(tasks.size());
  parallel_for(runner, static_cast<uint32_t>(tasks.size()), [&](uint32_t t, uint32_t) {
    const IntegerPart& part = *tasks[t].part;
    const uint64_t to = std::min(part.end_block(), tasks[t].from + kTaskBlocks);
    exact[t] = FoundOutliers::sort(tasks[t].from, to, part.begin(), part.outliers());
  });
  for (size_t t = 0; t < tasks.size(); ++t) {
    if (exact[t] == 0)
      return limit_error(str_cat(tasks[t].part->who(), ": weights are too large to be added up exactly"));
  }
  return {};
}

}  // namespace nwc
