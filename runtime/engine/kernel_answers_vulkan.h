// What the known-answer tests of layer kernels share: buffers of known numbers, and what a kernel makes of them.
#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include "runtime/vulkan/submit.h"

namespace nwc {

struct KernelAnswers {
  VulkanDevice& device;
  CommandBatch& batch;

  /// A buffer that host and device see, with these bytes; null: with any.
  Result<DeviceBuffer> buffer(const void* bytes, uint64_t size) const {
    NWC_ASSIGN_OR_RETURN(DeviceBuffer made, DeviceBuffer::create(device, size, MemoryKind::kUpload));
    if (bytes != nullptr) std::memcpy(made.mapped().data(), bytes, static_cast<size_t>(size));
    NWC_TRY(made.flush());
    return made;
  }
  Result<DeviceBuffer> floats(const std::vector<float>& values) const {
    return buffer(values.data(), values.size() * sizeof(float));
  }

  /// Records with `record`, runs, and compares the first floats of `out` with what is expected of size e: are they
  /// within tolerance * (unit + |e|)?
  template <typename Record>
  Result<bool> match(const DeviceBuffer& out, const std::vector<float>& expected, float tolerance, float unit,
                     Record&& record) const {
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer readback, DeviceBuffer::create(device, out.size(), MemoryKind::kReadback));
    NWC_TRY(batch.begin());
    NWC_TRY(record());
    batch.barrier();
    batch.copy(out, 0, readback, 0, out.size());
    batch.barrier();
    NWC_TRY(batch.submit_and_wait());
    NWC_TRY(readback.invalidate());
    const float* got = reinterpret_cast<const float*>(readback.mapped().data());
    for (size_t i = 0; i < expected.size(); ++i) {
      if (!(std::abs(got[i] - expected[i]) <= tolerance * (unit + std::abs(expected[i])))) return false;
    }
    return true;
  }
};

}  // namespace nwc
