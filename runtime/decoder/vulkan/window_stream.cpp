#include "runtime/decoder/vulkan/window_stream.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/str_cat.h"
#include "runtime/decoder/raw_tensor.h"

namespace nwc {
namespace {

/// Bytes of raw tensors to a piece.
constexpr uint64_t kMaxRawPiece = 16 << 20;
/// Bytes that rounding may add to a slot, in total.
constexpr uint64_t kLeastBuffer = 1 << 16;
/// Descriptor sets and work of one submission are bounded, too.
constexpr size_t kMaxPieces = 256;

/// Rows of `width` elements from a packed window to their place in a matrix of `stride` columns.
void copy_rows(Bytes from, uint64_t rows, uint64_t width, uint64_t stride, size_t element, uint8_t* to) {
  if (width == stride) {
    std::memcpy(to, from.data(), static_cast<size_t>(rows * width) * element);
    return;
  }
  for (uint64_t r = 0; r < rows; ++r) {
    std::memcpy(to + static_cast<size_t>(r * stride) * element, from.data() + static_cast<size_t>(r * width) * element,
                static_cast<size_t>(width) * element);
  }
}

/// For progress: tiles, and raw tensors as one.
uint64_t count_steps(const TensorRecord& record, const DecodeJob& job) {
  if (record.storage != Storage::kCoded) return 1;
  if (job.row_begin == job.row_end) return 0;
  const TileGrid grid = tile_grid(record);
  return (ceil_div(job.row_end, grid.tile_rows) - job.row_begin / grid.tile_rows) * grid.tiles_per_row();
}

}  // namespace

Result<std::unique_ptr<WindowStream>> WindowStream::create(const NwcFile& file, Runner& runner, VulkanDevice& device,
                                                           PipelineCache& pipelines, uint64_t budget_bytes) {
  std::unique_ptr<WindowStream> self(new WindowStream(file, runner));
  self->slot_bytes_ = budget_bytes / kNumSlots;
  for (size_t i = 0; i < kNumSlots; ++i) {
    NWC_ASSIGN_OR_RETURN(self->slots_[i],
                         WindowSlot::create(device, pipelines, self->slot_bytes_, &device.decode_queue(i)));
  }
  return self;
}

uint64_t WindowStream::device_bytes() const {
  uint64_t sum = 0;
  for (const auto& slot : slots_) sum += slot->device_bytes();
  return sum;
}

uint64_t WindowStream::host_bytes() const {
  uint64_t sum = 0;
  for (const auto& slot : slots_) sum += slot->host_bytes();
  return sum;
}

bool WindowStream::can_shrink(uint32_t shrink) const {
  // The least is a tile.
  return slot_bytes_ / shrink > kMaxTileWeights * 4 && shrink < 1u << 16;
}

uint64_t WindowStream::max_bytes(const NwcFile& file, uint64_t budget_bytes) {
  uint64_t slot = budget_bytes / kNumSlots, side = 0, raw = 0, largest_raw = 0;
  const uint64_t contexts =
      file.codec() ? uint64_t{file.codec()->num_levels} * kNumContexts * file.codec()->num_banks() * 2 * 4 : 0;
  for (const TensorRecord& record : file.tensors()) {
    if (record.storage != Storage::kCoded) {
      const bool copied = record.storage == Storage::kRawDeflated || file.reader().view(0, 1) == nullptr;
      raw += copied ? record.raw_bytes() : 0;
      largest_raw = std::max(largest_raw, copied ? record.raw_bytes() : 0);
      continue;
    }
    const TileGrid grid = tile_grid(record);
    side += grid.n * 5 + grid.m * 5 + grid.num_tiles() * sizeof(CodedTensor::Tile) + 2 * contexts;
    // A tile goes through in one piece, whatever the budget says.
    const TileGeometry tile = grid.tile(0);
    const uint64_t input = std::min(max_payload_bytes(tile), record.size) + contexts + kMaxTables * 4 + 2048 +
                           uint64_t{tile.width} * 5 + uint64_t{tile.height} * 5;
    constexpr uint32_t kMostPerWeight = 12;  // values, f32, halves and what is read back
    slot =
        std::max(slot, 2 * input + uint64_t{tile.row_blocks()} * kChunk * tile.width * kMostPerWeight + kLeastBuffer);
  }
  // Inflated raw tensors live until their pieces are sent.
  return kNumSlots * slot + side + std::min(raw, budget_bytes + largest_raw);
}

Status WindowStream::run(std::span<const DecodeJob> jobs, uint32_t shrink, const Progress& progress) {
  shrink_ = shrink;
  limit_bytes_ = slot_bytes_ / shrink;
  limit_weights_ = UINT64_MAX;
  progress_ = progress;
  done_ = total_ = 0;
  kernel_seconds_ = 0;
  for (const DecodeJob& job : jobs) total_ += count_steps(file_.tensors()[job.tensor], job);
  last_variant_.reset();
  next_ = {};

  Status fed = feed(jobs);
  // The work in flight was asked for before the work that failed on the host, so its errors come first.
  Status first;
  while (!in_flight_.empty()) {
    if (first.ok()) {
      first = finish_oldest();
      continue;
    }
    const size_t slot = in_flight_.front().first;
    in_flight_.pop_front();
    if (slots_[slot]->batch().in_flight()) (void)slots_[slot]->wait();
  }
  next_ = {};
  return first.ok() ? std::move(fed) : std::move(first);
}

Status WindowStream::feed(std::span<const DecodeJob> jobs) {
  for (const DecodeJob& job : jobs) {
    NWC_ASSIGN_OR_RETURN(const std::shared_ptr<Source> source, open(job));
    NWC_TRY(file_.tensors()[job.tensor].storage == Storage::kCoded ? add_windows(source) : add_raw(source));
  }
  return flush();
}

Result<std::shared_ptr<WindowStream::Source>> WindowStream::open(const DecodeJob& job) {
  const TensorRecord& record = file_.tensors()[job.tensor];
  auto source = std::make_shared<Source>();
  source->job = &job;
  if (record.storage != Storage::kCoded) {
    if (!dtype_is_float(record.dtype)) {
      return unsupported(
          str_cat(record.name, " holds ", dtype_name(record.dtype), ", which is not converted; its bytes can be read"));
    }
    NWC_ASSIGN_OR_RETURN(source->raw, file_.load_raw(job.tensor, job.check_crc, &source->raw_storage));
    return source;
  }
  if (kernels_ == nullptr) return corrupt(str_cat(record.name, " is coded, but the file has no codec"));
  NWC_ASSIGN_OR_RETURN(source->coded, file_.load_coded(job.tensor, job.check_crc));
  source->contexts = build_contexts(*tables_, source->coded, kernels_->synthesis().window_numbers());
  source->path = kernels_->path(job.values_only, job.dtype, tile_grid(record), job.device.buffer == nullptr);
  const std::optional<RansVariant> variant = self_test_->choose(source->contexts.used.size(), source->path.rans);
  if (!variant) {
    last_variant_.reset();
    return Status(StatusCode::kDevice, str_cat(record.name, ": no rANS kernel works: decode on the CPU"));
  }
  source->variant = *variant;
  if (source->path.network) {
    last_variant_.reset();  // no other variant would help
    const Status status = self_test_->check_network(*variant, source->path.convert ? Dtype::kF32 : job.dtype);
    if (status.code() == StatusCode::kNoDevice) return Status(StatusCode::kDevice, status.message());
    NWC_TRY(status);
  }
  last_variant_ = *variant;
  return source;
}

Status WindowStream::add_windows(const std::shared_ptr<Source>& source) {
  const DecodeJob& job = *source->job;
  const TileGrid grid = tile_grid(file_.tensors()[job.tensor]);
  const bool read_back = job.device.buffer == nullptr;
  const WindowPath& path = source->path;
  WindowLimits limits = kernels_->limits(limit_bytes_, path, read_back);
  limit_weights_ = limits.max_weights = std::max<uint64_t>(1, limits.max_weights / shrink_);
  for (const TileWindow& window : plan_windows(grid, source->coded, job.row_begin, job.row_end, limits)) {
    Piece piece;
    piece.source = source;
    piece.layout = std::make_unique<WindowLayout>(layout_window(grid, source->coded, window, source->contexts));
    const WindowLayout& layout = *piece.layout;
    WindowRun run;
    run.layout = &layout;
    run.contexts = &source->contexts;
    run.variant = source->variant;
    run.path = path;
    run.row_begin = std::max(job.row_begin, layout.row) - layout.row;
    run.row_end = std::min(job.row_end, layout.row + layout.rows) - layout.row;
    run.synthesis_level_at = layout.level_at;
    if (!read_back) {
      const uint64_t row = layout.row + run.row_begin - job.row_begin;
      run.out = job.device;
      run.out.offset += job.values_only ? (row / kChunk * grid.n + layout.col) * kChunk * sizeof(int16_t)
                                        : (row * grid.n + layout.col) * dtype_size(job.dtype);
      run.out_stride = grid.n;
    }
    NWC_TRY(add(std::move(piece), run));
  }
  return {};
}

Status WindowStream::add_raw(const std::shared_ptr<Source>& source) {
  const DecodeJob& job = *source->job;
  const TensorRecord& record = file_.tensors()[job.tensor];
  const uint64_t size = dtype_size(job.dtype);
  const uint64_t end = job.row_end * record.cols();
  // An even number, so that every piece begins at a whole word.
  const uint64_t most = std::max<uint64_t>(1024, std::min(kMaxRawPiece, limit_bytes_ / 2) / size / 2 * 2);
  const uint64_t first = job.row_begin * record.cols();
  for (uint64_t at = first; at < end; at += most) {
    Piece piece;
    piece.source = source;
    piece.raw_begin = at;
    piece.raw_count = std::min(most, end - at);
    WindowRun run;
    run.raw_bytes = piece.raw_count * size;
    run.out = job.device;
    run.out.offset += (at - first) * size;
    NWC_TRY(add(std::move(piece), run));
  }
  ++done_;
  return {};
}

Status WindowStream::add(Piece piece, WindowRun run) {
  const uint64_t bytes = run.slot_bytes();
  const uint64_t weights = run.layout == nullptr ? 0 : run.layout->num_weights();
  if (!next_.pieces.empty() && (next_.bytes + bytes > limit_bytes_ || next_.weights + weights > limit_weights_ ||
                                next_.pieces.size() >= kMaxPieces)) {
    NWC_TRY(flush());
  }
  next_.bytes += bytes;
  next_.weights += weights;
  next_.pieces.push_back(std::move(piece));
  next_.runs.push_back(run);
  return {};
}

Status WindowStream::flush() {
  if (next_.pieces.empty()) return {};
  if (in_flight_.size() == kNumSlots) NWC_TRY(finish_oldest());
  WindowSlot& slot = *slots_[next_slot_];
  NWC_TRY(slot.prepare(next_.runs));
  NWC_TRY(pack(next_, slot));
  if (kernels_ != nullptr) {
    NWC_TRY(kernels_->submit(slot, next_.runs, timed_));
  } else {
    NWC_TRY(slot.begin(next_.runs));
    NWC_TRY(slot.submit());
  }
  in_flight_.emplace_back(next_slot_, std::move(next_));
  next_ = {};
  next_slot_ = (next_slot_ + 1) % kNumSlots;
  return {};
}

Status WindowStream::pack(Submission& submission, WindowSlot& slot) {
  for (size_t i = 0; i < submission.pieces.size(); ++i) {
    const Piece& piece = submission.pieces[i];
    const Source& source = *piece.source;
    const DecodeJob& job = *source.job;
    const MutableBytes input = slot.input(submission.runs[i]);
    if (piece.layout == nullptr) {
      const Dtype dtype = file_.tensors()[job.tensor].dtype;
      const uint8_t* from = source.raw.data() + static_cast<size_t>(piece.raw_begin) * dtype_size(dtype);
      convert_floats(dtype, from, static_cast<size_t>(piece.raw_count), job.dtype, input.data());
      continue;
    }
    size_t bad = 0;
    Status packed = pack_window(file_, job.tensor, source.coded, *piece.layout, source.contexts,
                                source.variant.shared_tables != 0, job.check_crc, runner_, input, &bad);
    if (packed.ok()) continue;
    // The first bad tile is reported, as the CPU does; what the host cannot see without decoding may lie before it.
    while (!in_flight_.empty()) NWC_TRY(finish_oldest());
    for (size_t before = 0; before <= i; ++before) {
      const Piece& other = submission.pieces[before];
      const size_t count = before == i ? bad : other.tiles();
      for (size_t t = 0; t < count; ++t) {
        NWC_TRY(check_tile(file_, *tables_, other.source->job->tensor, other.source->coded, other.layout->tiles[t]));
      }
    }
    return packed;
  }
  return {};
}

Status WindowStream::finish_oldest() {
  const auto [index, submission] = std::move(in_flight_.front());
  in_flight_.pop_front();
  WindowSlot& slot = *slots_[index];
  NWC_TRY(slot.wait());
  kernel_seconds_ += slot.batch().seconds();
  NWC_TRY(check_statuses(submission, slot));
  deliver(submission, slot);
  for (const Piece& piece : submission.pieces) {
    if (piece.layout == nullptr) continue;
    done_ += piece.tiles();
    if (!progress_.report(done_, total_)) {
      const TensorRecord& record = file_.tensors()[piece.source->job->tensor];
      return Status(StatusCode::kCancelled, str_cat(record.name, ": cancelled by the progress callback"));
    }
  }
  return {};
}

Status WindowStream::check_statuses(const Submission& submission, const WindowSlot& slot) {
  for (size_t i = 0; i < submission.pieces.size(); ++i) {
    const Piece& piece = submission.pieces[i];
    for (size_t t = 0; t < piece.tiles(); ++t) {
      const uint32_t status = slot.tile_status(submission.runs[i])[t];
      if (status == static_cast<uint32_t>(TileStatus::kOk)) continue;
      const uint64_t tile = piece.layout->tiles[t];
      const size_t tensor = piece.source->job->tensor;
      NWC_TRY(check_tile(file_, *tables_, tensor, piece.source->coded, tile));
      last_variant_ = piece.source->variant;
      return kernel_failure(file_.tensors()[tensor], tile, status);
    }
  }
  return {};
}

void WindowStream::deliver(const Submission& submission, const WindowSlot& slot) const {
  for (size_t i = 0; i < submission.pieces.size(); ++i) {
    const Piece& piece = submission.pieces[i];
    const WindowRun& run = submission.runs[i];
    const DecodeJob& job = *piece.source->job;
    if (piece.layout == nullptr || job.host == nullptr) continue;
    const uint64_t n = file_.tensors()[job.tensor].cols();
    const WindowLayout& layout = *piece.layout;
    if (job.values_only) {
      const uint64_t at = (layout.row / kChunk * n + layout.col) * kChunk;
      copy_rows(slot.result(run), layout.blocks, uint64_t{layout.width} * kChunk, n * kChunk, sizeof(int16_t),
                job.host + static_cast<size_t>(at) * sizeof(int16_t));
    } else {
      const size_t element = dtype_size(job.dtype);
      const uint64_t at = (layout.row + run.row_begin - job.row_begin) * n + layout.col;
      copy_rows(slot.result(run), run.row_end - run.row_begin, layout.width, n, element,
                job.host + static_cast<size_t>(at) * element);
    }
  }
}

}  // namespace nwc
