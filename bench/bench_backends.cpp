#include "bench/bench_commands.h"

namespace nwc::bench {
namespace {

/// Seconds of decoding all of `m`, after a first time, which compiles.
double probe(const SyntheticModel& m, Decoder& decoder) {
  std::vector<uint8_t> out(2 * m.record.weights);
  DecodeRequest request;
  request.row_end = m.file->tensors()[0].rows();
  request.out = out;
  check(decoder.decode(request));
  return seconds_of(false, [&] { check(decoder.decode(request)); });
}

}  // namespace

BackendDecoder open_cpu(const NwcFile& file, Runner& runner) {
  const CpuLevel level = detect_cpu_level();
  auto decoder = create_cpu_decoder(file, runner, level);
  check(decoder.status());
  return {cpu_level_name(level), cpu_name(), std::move(decoder).value()};
}

std::optional<BackendDecoder> open_vulkan(const NwcFile& file, Runner& runner, const std::string& device,
                                          const Report& report, uint32_t tiles) {
  VulkanOptions options;
  options.device_name = device;
  options.tiles_per_workgroup = tiles;
  auto decoder = create_vulkan_decoder(file, runner, options, {});
  if (!decoder.ok()) {
    report.note("Vulkan left out: " + decoder.status().message());
    return std::nullopt;
  }
  const std::string prefix = "vulkan ", name = (*decoder)->name();
  return BackendDecoder{"vulkan", name.substr(name.rfind(prefix, 0) == 0 ? prefix.size() : 0),
                        std::move(decoder).value()};
}

std::optional<SyntheticOptions> affordable_layer(const SyntheticOptions& layer, Runner& runner,
                                                 const std::string& device, const Report& report) {
  constexpr double kSeconds = 0.1, kTooLong = 5;
  SyntheticOptions part = layer;
  part.rows = std::min<uint64_t>(layer.rows, 1024);
  // A device that works in parallel takes hardly longer for four times as many columns.
  for (part.cols = 64; part.cols < layer.cols; part.cols *= 4) {
    const auto m = make_synthetic(part);
    const auto d = open_vulkan(*m->file, runner, device, report);
    if (!d) return std::nullopt;
    const double seconds = probe(*m, *d->decoder);
    if (seconds > kTooLong) {
      report.note(layer.preset + " on " + d->device + " left out: " + std::to_string(m->record.weights) +
                  " weights take " + std::to_string(seconds) + " s");
      return std::nullopt;
    }
    if (seconds > kSeconds) return part;
  }
  return layer;
}

}  // namespace nwc::bench
