#include "bench/bench_commands.h"

namespace nwc::bench {

BackendDecoder open_cpu(const NwcFile& file, Runner& runner) {
  const CpuLevel level = detect_cpu_level();
  auto decoder = create_cpu_decoder(file, runner, level);
  check(decoder.status());
  return {cpu_level_name(level), cpu_name(), std::move(decoder).value()};
}

std::optional<BackendDecoder> open_vulkan(const NwcFile& file, Runner& runner, const std::string& device,
                                          const Report& report) {
  VulkanOptions options;
  options.device_name = device;
  auto decoder = create_vulkan_decoder(file, runner, options, {});
  if (!decoder.ok()) {
    report.note("Vulkan left out: " + decoder.status().message());
    return std::nullopt;
  }
  const std::string prefix = "vulkan ", name = (*decoder)->name();
  return BackendDecoder{"vulkan", name.substr(name.rfind(prefix, 0) == 0 ? prefix.size() : 0),
                        std::move(decoder).value()};
}

}  // namespace nwc::bench
