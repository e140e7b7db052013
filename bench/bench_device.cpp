// Lists the Vulkan devices, and times how the decoder starts on each with and without its optional features.
#include <cstdio>
#include <memory>

#include "bench/bench_commands.h"
#include "bench/device_report.h"

namespace nwc::bench {
namespace {

struct DeviceOptions {
  std::string device;
  bool list = false;
  std::vector<std::string> presets = {"identity", "linear", "small", "paper"};
};

void run_device(const DeviceOptions& o) {
  nlohmann::json json = describe_devices();
  if (o.list) {
    std::printf("%s\n", json.dump(1).c_str());
    return;
  }
  json["decoders"] = nlohmann::json::array();
  for (const std::string& preset : o.presets) {
    SyntheticOptions layer;
    layer.rows = 128;
    layer.cols = 64;
    layer.preset = preset;
    const auto model = make_synthetic(layer);
    json["decoders"].push_back(describe_decoder(*model, o.device, ""));
    if (preset != o.presets.front()) continue;
    for (const char* feature : {"ballot", "size_control", "storage16", "host_import", "all"})
      json["decoders"].push_back(describe_decoder(*model, o.device, feature));
  }
  std::printf("%s\n", json.dump(1).c_str());
}

}  // namespace

void add_device(cli::CommandLine& line) {
  const auto o = std::make_shared<DeviceOptions>();
  cli::Command command =
      line.add_command("device", "Vulkan's devices, their limits, and how decoders start on the best one, as JSON");
  command.add_option("--device", o->device, "Part of the Vulkan device's name (default: the best one)");
  command.add_flag("--list", o->list, "The devices alone");
  add_preset_option(command, &o->presets);
  command.on_run([o] { run_device(*o); });
}

}  // namespace nwc::bench
