#include "runtime/decoder/vulkan/window_slot.h"

#include <algorithm>

#include "runtime/base/str_cat.h"

namespace nwc {
uint64_t WindowRun::result_bytes() const {
  if (layout == nullptr || out.buffer != nullptr) return 0;
  return path.values_only ? layout->num_weights() * 2 : (row_end - row_begin) * layout->width * dtype_size(path.dtype);
}

uint64_t WindowRun::slot_bytes() const {
  if (layout == nullptr) return align_up(raw_bytes, kBindingAlignment);
  return 2 * (input_bytes() + status_bytes()) + layout->num_weights() * path.scratch_bytes_per_weight() +
         result_bytes() + 9 * kBindingAlignment;
}

Result<std::unique_ptr<WindowSlot>> WindowSlot::create(VulkanDevice& device, PipelineCache& pipelines,
                                                       uint64_t budget_bytes, DeviceQueue* queue) {
  std::unique_ptr<WindowSlot> self(new WindowSlot(device, budget_bytes));
  NWC_ASSIGN_OR_RETURN(self->batch_, CommandBatch::create(device, pipelines, queue));
  return self;
}

Status WindowSlot::prepare(std::span<WindowRun> runs) {
  assert(!batch_->in_flight());
  uint64_t upload = 0, scratch = 0, readback = 0;
  const auto place = [](uint64_t bytes, uint64_t* end) {
    const uint64_t at = *end;
    *end = align_up(at + bytes, kBindingAlignment);
    return at;
  };
  // All status words, then all windows' inputs, which one command fills and one copies.
  for (WindowRun& run : runs) run.at.status = place(run.status_bytes(), &scratch);
  status_bytes_ = input_at_ = scratch;
  for (WindowRun& run : runs) {
    if (run.layout == nullptr) continue;
    run.at.upload = place(run.input_bytes(), &upload);
    run.at.input = input_at_ + run.at.upload;
  }
  window_input_bytes_ = upload;
  if (!device_.info().quirks.software) scratch += upload;
  for (WindowRun& run : runs) {
    if (run.layout == nullptr) {
      run.at.upload = place(run.input_bytes(), &upload);
      continue;
    }
    const uint64_t weights = run.layout->num_weights();
    if (run.path.has_values()) run.at.values = place(weights * 2, &scratch);
    if (run.path.has_floats()) run.at.floats = place(weights * 4, &scratch);
    if (run.path.has_halves()) run.at.halves = place(weights * 2, &scratch);
    run.at.status_back = place(run.status_bytes(), &readback);
    run.at.result_back = place(run.result_bytes(), &readback);
  }
  return reserve(upload, scratch, readback);
}

Status WindowSlot::reserve(uint64_t upload, uint64_t scratch, uint64_t readback) {
  struct Part {
    DeviceBuffer* buffer;
    uint64_t need;
    MemoryKind kind;
  };
  const Part parts[] = {{&upload_, upload, MemoryKind::kUpload},
                        {&scratch_, scratch, MemoryKind::kDevice},
                        {&readback_, readback, MemoryKind::kReadback}};
  uint64_t total = 0;
  for (const Part& part : parts) total += std::max(part.need, part.buffer->size());
  for (const Part& part : parts) {
    // Memory that other windows needed is freed first where both together would exceed the budget.
    if (total > budget_ && part.buffer->size() > part.need) {
      total -= part.buffer->size() - part.need;
      *part.buffer = DeviceBuffer();
    }
  }
  for (const Part& part : parts) {
    if (part.need == 0 || (part.buffer->handle() != VK_NULL_HANDLE && part.buffer->size() >= part.need)) continue;
    // Half as much again where the budget has it, so that a sequence of windows settles on one allocation.
    const uint64_t spare = total < budget_ ? std::min(part.need / 2, budget_ - total) : 0;
    *part.buffer = DeviceBuffer();
    Result<DeviceBuffer> made = DeviceBuffer::create(device_, part.need + spare, part.kind);
    if (!made.ok() && spare != 0) made = DeviceBuffer::create(device_, part.need, part.kind);
    if (!made.ok()) return made.status();
    *part.buffer = std::move(made).value();
    total += part.buffer->size() - part.need;
  }
  return {};
}

Status WindowSlot::begin(std::span<const WindowRun> runs) {
  NWC_TRY(upload_.flush());
  NWC_TRY(batch_->begin());
  if (status_bytes_ != 0) batch_->fill(scratch_, status_bytes_, kTileUntouched);
  if (window_input_bytes_ != 0 && !device_.info().quirks.software)
    batch_->copy(upload_, 0, scratch_, input_at_, window_input_bytes_);
  // Commands that were submitted to this queue before may still use the output.
  batch_->barrier();
  for (const WindowRun& run : runs) {
    if (run.layout != nullptr || run.raw_bytes == 0) continue;
    batch_->copy(upload_, run.at.upload, *run.out.buffer, run.out.offset, run.raw_bytes);
  }
  batch_->barrier();
  return {};
}

Status WindowSlot::submit() {
  batch_->barrier();
  return batch_->submit();
}

Status WindowSlot::wait() {
  NWC_TRY(batch_->wait());
  return readback_.invalidate();
}

BufferView WindowSlot::input_view(const WindowRun& run) const {
  // A device that is the host reads what the host has written where it is.
  if (device_.info().quirks.software) return {&upload_, run.at.upload, run.input_bytes()};
  return {&scratch_, run.at.input, run.input_bytes()};
}

std::span<const uint32_t> WindowSlot::tile_status(const WindowRun& run) const {
  const uint8_t* at = readback_.mapped().data() + run.at.status_back;
  return {reinterpret_cast<const uint32_t*>(at), run.layout == nullptr ? 0 : run.layout->tiles.size()};
}

Bytes WindowSlot::result(const WindowRun& run) const {
  return readback_.mapped().subspan(static_cast<size_t>(run.at.result_back), static_cast<size_t>(run.result_bytes()));
}

}  // namespace nwc
