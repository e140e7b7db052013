#include "runtime/base/str_cat.h"
#include "runtime/decoder/decoder.h"

namespace nwc {

Result<std::unique_ptr<Decoder>> create_auto_decoder(const NwcFile& file, Runner& runner, VulkanOptions options,
                                                     const Logger& log) {
  options.software_renderers = false;
  Result<std::unique_ptr<Decoder>> decoder = create_vulkan_decoder(file, runner, options, log);
  if (decoder.ok()) {
    log.log(LogLevel::kInfo, str_cat("backend auto: ", (*decoder)->name()));
    return make_fallback_decoder(std::move(decoder).value(), file, runner, log);
  }
  // A machine without a GPU is no reason to warn. A GPU that fails is one, and one that the caller has named.
  const bool named = options.device_index >= 0 || !options.device_name.empty() || options.borrowed;
  const bool expected = decoder.status().code() == StatusCode::kNoDevice && !named;
  const LogLevel level = expected ? LogLevel::kInfo : LogLevel::kWarning;
  log.log(level, str_cat("backend auto: the CPU decodes, since ", decoder.status().message()));
  return create_cpu_decoder(file, runner, detect_cpu_level());
}

Result<std::unique_ptr<Decoder>> create_decoder(Backend backend, const NwcFile& file, Runner& runner,
                                                const VulkanOptions& options, const Logger& log) {
  switch (backend) {
    case Backend::kAuto: return create_auto_decoder(file, runner, options, log);
    case Backend::kCpu: return create_cpu_decoder(file, runner, detect_cpu_level());
    case Backend::kVulkan: return create_vulkan_decoder(file, runner, options, log);
  }
  return invalid_argument(str_cat("backend ", static_cast<uint32_t>(backend), " does not exist"));
}

}  // namespace nwc
