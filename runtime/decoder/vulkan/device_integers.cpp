#include "runtime/decoder/vulkan/device_integers.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/str_cat.h"
#include "runtime/codec/integer_decode.h"

namespace nwc {
namespace {

/// Bytes of so many rows as the kernel wants them: values, or weights that it rounds.
uint64_t values_bytes(const TensorRecord& record, bool requantized, uint64_t rows) {
  return requantized ? rows * record.cols() * sizeof(float) : align_up(rows, kChunk) * record.cols() * sizeof(int16_t);
}

/// What values may take at a time, but for a band of tiles, which is the least.
uint64_t values_budget(uint64_t window_bytes) { return window_bytes / 2; }

}  // namespace

DeviceFormView::DeviceFormView(const DeviceBuffer* buffer, uint64_t at, const IntegerForm& f, uint64_t offset_alignment)
    : form(f), device(f), offset(at), alignment(offset_alignment) {
  const uint64_t bound = (at + f.row_scale_at) / alignment * alignment;
  rest = BufferView(buffer, bound, at + device.bytes - bound);
}

DeviceFormView::Units DeviceFormView::units(uint64_t first_block, uint64_t row_blocks) const {
  const uint64_t begin = offset + first_block * form.row_block_bytes, bound = begin / alignment * alignment;
  return {BufferView(rest.buffer, bound, begin - bound + row_blocks * form.row_block_bytes),
          static_cast<uint32_t>((begin - bound) / 4)};
}

Status dispatch_pack(CommandBatch& batch, const DeviceFormView& out, uint64_t first_block, uint64_t row_blocks,
                     const BufferView& values) {
  const IntegerForm& form = out.form;
  const DeviceFormView::Units units = out.units(first_block, row_blocks);
  const PackPush push{.rows = static_cast<uint32_t>(form.rows),
                      .cols = static_cast<uint32_t>(form.cols),
                      .num_units = form.units(),
                      .block_words = static_cast<uint32_t>(form.row_block_bytes / 4),
                      .first_block = static_cast<uint32_t>(first_block),
                      .weight_at = units.first_word,
                      .units_at = out.index(out.device.units_at),
                      .ranges_at = out.index(out.device.ranges_at),
                      .count_at = out.index(out.device.count_at),
                      .outliers_at = out.index(form.outliers_at),
                      .max_outliers = static_cast<uint32_t>(form.max_outliers)};
  return batch.dispatch({ShaderId::kIntegersPack, {}, 0}, {values, units.view, out.rest, nullptr}, push,
                        static_cast<uint32_t>(row_blocks));
}

Status dispatch_requantize(CommandBatch& batch, const DeviceFormView& out, uint64_t first_block, uint64_t row_blocks,
                           const BufferView& weights) {
  const IntegerForm& form = out.form;
  const DeviceFormView::Units units = out.units(first_block, row_blocks);
  const RequantizePush push{.rows = static_cast<uint32_t>(form.rows),
                            .cols = static_cast<uint32_t>(form.cols),
                            .num_units = form.units(),
                            .block_words = static_cast<uint32_t>(form.row_block_bytes / 4),
                            .first_block = static_cast<uint32_t>(first_block),
                            .weight_at = units.first_word,
                            .row_scale_at = out.index(form.row_scale_at),
                            .factor_at = out.index(form.factor_at),
                            .ranges_at = out.index(out.device.ranges_at),
                            .count_at = out.index(out.device.count_at)};
  return batch.dispatch({ShaderId::kIntegersRequantize, {}, 0}, {weights, units.view, out.rest, nullptr}, push,
                        static_cast<uint32_t>(row_blocks));
}

uint64_t DeviceIntegers::max_bytes(const NwcFile& file, uint64_t window_bytes) {
  const bool requantized = file.codec() && why_not_integers(*file.codec()) != nullptr;
  uint64_t values = 0, heads = 0;
  for (const TensorRecord& record : file.tensors()) {
    if (record.storage != Storage::kCoded || record.cols() > kMaxIntegerCols) continue;
    const uint64_t band = values_bytes(record, requantized, std::min<uint64_t>(record.tile_rows, record.rows()));
    const uint64_t all = values_bytes(record, requantized, record.rows());
    values = std::max({values, band, std::min(values_budget(window_bytes), all)});
    // Scales of rows, factors, shrinkage, entries of units.
    heads += (record.rows() + 3 * record.cols()) * sizeof(float) + 1024;
  }
  return align_up(values, kBindingAlignment) + heads + file.tensors().size() * kDeviceCounts * sizeof(uint32_t);
}

Status DeviceIntegers::make_room(DeviceBuffer* buffer, uint64_t bytes, MemoryKind kind) {
  if (bytes <= buffer->size()) return {};
  *buffer = DeviceBuffer();
  NWC_ASSIGN_OR_RETURN(*buffer, DeviceBuffer::create(*context_.device, bytes, kind));
  return {};
}

// Scales and factors, entries of units, and that there are no outliers so far.
Status DeviceIntegers::write_heads(std::span<const DeviceIntegerRequest> requests) {
  // From the scales of rows to where outliers' ends begin, without the outliers.
  struct Part {
    uint64_t from = 0, to = 0, bytes = 0;
    size_t request = 0;
  };
  std::vector<Part> parts;
  uint64_t size = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const IntegerForm& form = *requests[i].form;
    const DeviceForm device(form);
    parts.push_back({size, form.row_scale_at, form.begin_at - form.row_scale_at, i});
    size += parts.back().bytes;
    parts.push_back({size, device.units_at, form.units() * sizeof(uint32_t), i});
    size = align_up(size + parts.back().bytes, 64);
    parts.push_back({size, device.count_at, kDeviceCounts * sizeof(uint32_t), i});
    size = align_up(size + parts.back().bytes, 64);
  }
  NWC_TRY(make_room(&upload_, size, MemoryKind::kUpload));
  for (size_t i = 0; i < requests.size(); ++i) {
    const IntegerForm& form = *requests[i].form;
    uint8_t* const scales = upload_.mapped().data() + parts[3 * i].from;
    NWC_TRY(integer_scales(context_.file, requests[i].tensor, form, requests[i].check_crc, scales));
    const std::vector<uint32_t> units = device_units(form);
    std::memcpy(upload_.mapped().data() + parts[3 * i + 1].from, units.data(), units.size() * sizeof units[0]);
    std::memset(upload_.mapped().data() + parts[3 * i + 2].from, 0, kDeviceCounts * sizeof(uint32_t));
  }
  NWC_TRY(upload_.flush());
  NWC_TRY(batch_->begin());
  batch_->barrier();  // what was recorded before may still read the output
  for (const Part& part : parts) {
    const BufferView& out = requests[part.request].out;
    batch_->copy(upload_, part.from, *out.buffer, out.offset + part.to, part.bytes);
  }
  batch_->barrier();
  return batch_->submit_and_wait();
}

// For what is in flight, if something is.
Status DeviceIntegers::wait() {
  if (!batch_->in_flight()) return {};
  NWC_TRY(batch_->wait());
  if (timed_) kernel_seconds_ += batch_->seconds();
  return {};
}

Status DeviceIntegers::pack(std::span<const DeviceIntegerRequest> requests, std::span<const Piece> pieces) {
  NWC_TRY(wait());
  NWC_TRY(batch_->begin());
  batch_->barrier();
  if (timed_) NWC_TRY(batch_->start_clock());
  for (const Piece& piece : pieces) {
    const DeviceIntegerRequest& request = requests[piece.request];
    const BufferView& out = request.out;
    const DeviceFormView view(out.buffer, out.offset, *request.form, context_.device->info().offset_alignment);
    const uint64_t blocks = ceil_div(piece.row_end - piece.row_begin, kChunk);
    const bool requantized = request.form->requantized;
    const uint64_t block_values = request.form->cols * kChunk * (requantized ? sizeof(float) : sizeof(int16_t));
    for (uint64_t done = 0; done < blocks; done += kMaxGroups) {
      const uint64_t count = std::min<uint64_t>(kMaxGroups, blocks - done), at = done * block_values;
      const BufferView values(&values_, piece.values_at + at, std::min(count * block_values, piece.values_bytes - at));
      const auto dispatch = requantized ? dispatch_requantize : dispatch_pack;
      NWC_TRY(dispatch(*batch_, view, piece.row_begin / kChunk + done, count, values));
    }
  }
  if (timed_) batch_->stop_clock();
  batch_->barrier();
  return batch_->submit();
}

Status DeviceIntegers::check_counts(std::span<const DeviceIntegerRequest> requests) {
  NWC_TRY(wait());
  NWC_TRY(make_room(&readback_, requests.size() * kDeviceCounts * sizeof(uint32_t), MemoryKind::kReadback));
  NWC_TRY(batch_->begin());
  batch_->barrier();
  for (size_t i = 0; i < requests.size(); ++i) {
    const BufferView& out = requests[i].out;
    const uint64_t from = out.offset + DeviceForm(*requests[i].form).count_at;
    batch_->copy(*out.buffer, from, readback_, i * kDeviceCounts * sizeof(uint32_t), kDeviceCounts * sizeof(uint32_t));
  }
  batch_->barrier();
  NWC_TRY(batch_->submit_and_wait());
  NWC_TRY(readback_.invalidate());
  for (size_t i = 0; i < requests.size(); ++i) {
    uint32_t counts[kDeviceCounts];
    std::memcpy(counts, readback_.mapped().data() + i * sizeof counts, sizeof counts);
    const IntegerForm& form = *requests[i].form;
    if (counts[2] != form.row_blocks()) {
      return unsupported(str_cat(context_.device->info().name, ": the kernel integers_pack has left out ",
                                 form.row_blocks() - counts[2], " of ", form.row_blocks(), " row blocks"));
    }
    if (counts[1] == 0) continue;
    return limit_error(str_cat("tensor '", context_.file.tensors()[requests[i].tensor].name, "': more than ",
                               form.max_outliers, " weights are larger than the tables of the codec say"));
  }
  return {};
}

Status DeviceIntegers::decode(std::span<const DeviceIntegerRequest> requests, const DecodeValues& decode_values) {
  kernel_seconds_ = 0;
  if (requests.empty()) return {};
  if (batch_ == nullptr) {
    NWC_ASSIGN_OR_RETURN(
        batch_, CommandBatch::create(*context_.device, *context_.pipelines, &context_.device->decode_queue(0)));
  }
  if (!checked_) NWC_TRY(check_pack(*context_.device, *context_.pipelines));
  checked_ = true;
  NWC_TRY(write_heads(requests));
  const uint64_t room =
      std::min(values_budget(context_.options.max_window_bytes), context_.device->info().max_storage_range);
  std::vector<Piece> pieces;
  uint64_t used = 0;
  const auto flush = [&]() -> Status {
    if (pieces.empty()) return {};
    NWC_TRY(wait());
    NWC_TRY(make_room(&values_, used, MemoryKind::kDevice));
    std::vector<DecodeJob> values;
    for (const Piece& piece : pieces) {
      DecodeJob& job = values.emplace_back();
      job.tensor = requests[piece.request].tensor;
      job.row_begin = piece.row_begin;
      job.row_end = piece.row_end;
      job.values_only = !requests[piece.request].form->requantized;
      job.check_crc = requests[piece.request].check_crc;
      job.device = BufferView(&values_, piece.values_at, piece.values_bytes);
    }
    NWC_TRY(decode_values(values));
    NWC_TRY(pack(requests, pieces));
    pieces.clear();
    used = 0;
    return {};
  };
  for (size_t i = 0; i < requests.size(); ++i) {
    const TensorRecord& record = context_.file.tensors()[requests[i].tensor];
    const bool requantized = requests[i].form->requantized;
    const uint64_t band = values_bytes(record, requantized, record.tile_rows);
    for (uint64_t row = 0; row < record.rows();) {
      if (used != 0 && used + band > room) NWC_TRY(flush());
      const uint64_t bands = std::max<uint64_t>(1, (room - std::min(room, used)) / band);
      Piece piece;
      piece.request = i;
      piece.row_begin = row;
      piece.row_end = row = std::min(record.rows(), row + bands * record.tile_rows);
      piece.values_at = used;
      piece.values_bytes = values_bytes(record, requantized, piece.row_end - piece.row_begin);
      used = align_up(used + piece.values_bytes, kBindingAlignment);
      pieces.push_back(piece);
    }
  }
  NWC_TRY(flush());
  return check_counts(requests);
}

Status check_pack(VulkanDevice& device, PipelineCache& pipelines) {
  // 19 rows of 40 columns: neither fills its last row block or unit.
  constexpr uint64_t kRows = 19, kCols = 40;
  constexpr uint8_t kBits[][2] = {{4, 8}, {5, 6}, {6, 4}, {8, 5}};
  for (const auto& bits : kBits) {
    IntegerForm form;
    form.rows = kRows;
    form.cols = kCols;
    form.bits.assign(bits, bits + 2);
    form.max_outliers = 128;
    form.place_parts();
    const DeviceForm layout(form);
    std::vector<int16_t> values(form.row_blocks() * kChunk * kCols);
    for (size_t i = 0; i < values.size(); ++i) {
      const int32_t mixed = static_cast<int32_t>((static_cast<uint32_t>(i) * 2654435761u) >> 20);  // 12 bits
      values[i] = static_cast<int16_t>(i % 97 == 5 ? 4 * (mixed - 2048) : mixed % 15 - 7);
    }
    const uint64_t values_at = align_up(layout.bytes, kBindingAlignment), size = values_at + values.size() * 2;
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer upload, DeviceBuffer::create(device, size, MemoryKind::kUpload));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer memory, DeviceBuffer::create(device, size, MemoryKind::kDevice));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer readback, DeviceBuffer::create(device, size, MemoryKind::kReadback));
    std::memset(upload.mapped().data(), 0, size);
    const std::vector<uint32_t> units = device_units(form);
    std::memcpy(upload.mapped().data() + layout.units_at, units.data(), units.size() * sizeof units[0]);
    std::memcpy(upload.mapped().data() + values_at, values.data(), values.size() * 2);
    NWC_TRY(upload.flush());
    NWC_ASSIGN_OR_RETURN(const std::unique_ptr<CommandBatch> batch, CommandBatch::create(device, pipelines));
    NWC_TRY(batch->begin());
    batch->copy(upload, 0, memory, 0, size);
    batch->barrier();
    const DeviceFormView view(&memory, 0, form, device.info().offset_alignment);
    NWC_TRY(dispatch_pack(*batch, view, 0, form.row_blocks(), {&memory, values_at, values.size() * 2}));
    batch->barrier();
    batch->copy(memory, 0, readback, 0, size);
    batch->barrier();
    NWC_TRY(batch->submit_and_wait());
    NWC_TRY(readback.invalidate());
    const uint8_t* got = readback.mapped().data();
    const auto word = [got](uint64_t at) {
      uint32_t w;
      std::memcpy(&w, got + at, sizeof w);
      return w;
    };
    // Integers plus outliers are the values.
    bool right = word(layout.count_at + 4) == 0;
    std::vector<int32_t> sums(values.size());
    for (uint64_t block = 0; block < form.row_blocks(); ++block) {
      const uint8_t* unit = got + block * form.row_block_bytes;
      for (uint32_t u = 0; u < 2; unit += unit_bytes(bits[u]), ++u) {
        uint8_t bytes[kUnitWeights];
        unpack_unit(bits[u], unit, bytes);
        for (uint32_t i = 0; i < kUnitWeights; ++i) {
          const uint64_t column = u * kUnitCols + i / 64 * 4 + i % 4, row = i % 64 / 4;
          const int32_t q = int32_t{bytes[i]} - integer_bias(bits[u]);
          if (column < kCols) {
            sums[(block * kCols + column) * kChunk + row] += q;
          } else {
            right = right && q == 0;
          }
        }
      }
      const uint32_t begin = word(layout.ranges_at + 8 * block), end = word(layout.ranges_at + 8 * block + 4);
      right = right && begin <= end && end <= word(layout.count_at);
      for (uint32_t i = begin; right && i < end; ++i) {
        Outlier o;
        std::memcpy(&o, got + form.outliers_at + i * sizeof o, sizeof o);
        right = o.column() < kCols && block * kChunk + o.row() < kRows;
        if (right) sums[(block * kCols + o.column()) * kChunk + o.row()] += o.rest();
      }
    }
    for (size_t i = 0; i < values.size(); ++i) {
      const uint64_t row = i / (kCols * kChunk) * kChunk + i % kChunk;
      right = right && (row >= kRows || sums[i] == values[i]);
    }
    if (right) continue;
    return unsupported(str_cat(device.info().name, ": the kernel integers_pack does not compute rightly"));
  }
  return {};
}

}  // namespace nwc
