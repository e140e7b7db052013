#include "runtime/decoder/vulkan/device_context.h"

#include <algorithm>

#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

Result<std::unique_ptr<VulkanDevice>> open_device(const VulkanOptions& options, const Logger& log) {
  const DeviceChoice choice{options.device_index, options.device_name, options.software_renderers,
                            options.disabled_features, options.forced_features};
  DeviceInfo info;
  std::unique_ptr<VulkanInstance> instance;
  if (options.borrowed) {
    NWC_ASSIGN_OR_RETURN(instance, VulkanInstance::borrow(options.borrowed, log));
    NWC_ASSIGN_OR_RETURN(const FeatureChoice features, feature_choice(choice));
    NWC_ASSIGN_OR_RETURN(info, inspect_borrowed(*instance, options.borrowed, features));
  } else {
    NWC_ASSIGN_OR_RETURN(instance, VulkanInstance::create(options.validation, log));
    NWC_ASSIGN_OR_RETURN(info, choose_device(*instance, choice));
  }
  info.max_storage_range = std::min(info.max_storage_range, options.storage_range_limit);
  return options.borrowed ? VulkanDevice::borrow(std::move(instance), info, options.borrowed)
                          : VulkanDevice::create(std::move(instance), info);
}

}  // namespace

Result<std::unique_ptr<DeviceContext>> DeviceContext::create(const NwcFile& file, Runner& runner,
                                                             const VulkanOptions& options, const Logger& log) {
  std::unique_ptr<DeviceContext> self(new DeviceContext(file, runner, options, log));
  NWC_ASSIGN_OR_RETURN(self->device, open_device(options, log));
  self->device->set_allocation_limit(options.allocation_limit);
  NWC_ASSIGN_OR_RETURN(self->pipelines, PipelineCache::create(*self->device, options.cache_directory));
  self->name = str_cat("vulkan ", self->device->info().name);
  if (file.codec()) NWC_TRY(self->make_kernels());
  return self;
}

Status DeviceContext::make_kernels() {
  const CodecRecord& codec = *file.codec();
  const DeviceInfo& info = device->info();
  tables = build_decode_tables(codec);
  NWC_ASSIGN_OR_RETURN(
      kernels, VulkanKernels::create(*device, *pipelines, codec, tables, VulkanSelfTest::extra_tables(), options));
  NWC_ASSIGN_OR_RETURN(test_slot, WindowSlot::create(*device, *pipelines, 0));
  self_test = std::make_unique<VulkanSelfTest>(*kernels, *test_slot, *device, codec,
                                               static_cast<uint32_t>(tables.alias.size()), options, log);
  const std::optional<RansVariant> variant = self_test->choose(tables.alias.size(), Consumer::kValues);
  if (!variant) {
    return Status(StatusCode::kNoDevice,
                  str_cat(info.name, ": no rANS kernel decodes the known tiles rightly: decode on the CPU"));
  }
  NWC_TRY(kernels->synthesis().check(*self_test, *variant));
  NWC_TRY(self_test->check_conversion());
  pipelines->save();
  log.log(LogLevel::kInfo, str_cat(name, " (", info.driver, "), subgroups of ", info.subgroup_size,
                                   ", features: ", feature_names(info.features()), ", rANS kernel: ", variant->name()));
  return {};
}

}  // namespace nwc
