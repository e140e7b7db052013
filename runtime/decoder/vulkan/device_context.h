// One file on one Vulkan device: what its decoder and its products share.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "runtime/decoder/vulkan/kernel_self_test.h"

namespace nwc {

/// Kernels and self-test are used by one call at a time, which holds the mutex.
struct DeviceContext {
  /// Opens the device and, if the file has a codec, makes its kernels and passes the known answers through them. file
  /// and runner must outlive the context. Errors: those of create_vulkan_decoder.
  static Result<std::unique_ptr<DeviceContext>> create(const NwcFile& file, Runner& runner,
                                                       const VulkanOptions& options, const Logger& log);

  const NwcFile& file;
  Runner& runner;
  const VulkanOptions options;
  const Logger log;
  std::string name;  ///< of the decoder
  std::mutex mutex;
  DecodeTables tables;
  // In order of dependence: the device goes last.
  std::unique_ptr<VulkanDevice> device;
  std::unique_ptr<PipelineCache> pipelines;
  std::unique_ptr<VulkanKernels> kernels;  ///< null without a codec, as are the next two
  std::unique_ptr<WindowSlot> test_slot;   ///< the self-test's own, because it runs while other slots are in flight
  std::unique_ptr<VulkanSelfTest> self_test;

 private:
  DeviceContext(const NwcFile& f, Runner& r, const VulkanOptions& o, const Logger& l)
      : file(f), runner(r), options(o), log(l) {}
  Status make_kernels();
};

}  // namespace nwc
