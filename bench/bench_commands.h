// The subcommands of nwc-bench. Each function adds a command and its options.
#pragma once

#include <optional>

#include "bench/synthetic_model.h"
#include "host-tools/command_line.h"
#include "nwc/nwc.h"
#include "runtime/decoder/decoder.h"

namespace nwc::bench {

/// Options that every subcommand has.
struct CommonOptions {
  bool json = false;
  uint32_t repeat = 5;
  uint32_t threads = 1;
  std::string only;

  void add_to(cli::Command command) {
    command.add_flag("--json", json, "Print records instead of a table");
    command.add_option("--repeat", repeat, "Runs; the median counts").range(1, 1000).show_default();
    command.add_option("--threads", threads, "With one, processor time is measured").range(1, 1024).show_default();
    command.add_option("--only", only, "Only what contains this text in its line of the table");
  }
};

/// Which decoders are measured.
struct BackendOptions {
  std::string backend = "cpu";
  std::string device;  ///< part of a Vulkan device's name

  bool cpu() const { return backend != "vulkan"; }
  bool vulkan() const { return backend != "cpu"; }
  void add_to(cli::Command command) {
    command.add_option("--backend", backend, "What decodes: cpu, vulkan (any device, software too), all")
        .one_of({"cpu", "vulkan", "all"})
        .show_default();
    command.add_option("--device", device, "Part of the Vulkan device's name (default: the best one)");
  }
};

/// A decoder and what records say of it. Not there, with a note in the report, where the device is not.
struct BackendDecoder {
  std::string backend, device;
  std::unique_ptr<Decoder> decoder;
};
BackendDecoder open_cpu(const NwcFile& file, Runner& runner);
/// tiles: that a workgroup decodes.
std::optional<BackendDecoder> open_vulkan(const NwcFile& file, Runner& runner, const std::string& device,
                                          const Report& report, uint32_t tiles = 1);

/// The layer, or as much of it as a slow device decodes in some tenths of a second. Not there, with a note, if the
/// device is not, or takes seconds for 64 columns.
std::optional<SyntheticOptions> affordable_layer(const SyntheticOptions& layer, Runner& runner,
                                                 const std::string& device, const Report& report);

/// What sessions can be asked to hold decoded weights as.
inline std::vector<std::string> weight_forms() {
  std::vector<std::string> names;
  for (nwc_precision p = NWC_PRECISION_F32; p <= NWC_PRECISION_PACKED; ++p)
    names.emplace_back(nwc_session_precision_string(p));
  return names;
}

inline void add_preset_option(cli::Command command, std::vector<std::string>* presets) {
  command.add_option("--preset", *presets, "Synthesis networks")
      .one_of({"identity", "linear", "small", "paper"})
      .show_default();
}

inline void add_layer_options(cli::Command command, SyntheticOptions* layer, std::vector<double>* bits) {
  // Two row bands of the highest tiles; one cache line.
  command.add_option("--rows", layer->rows).range(1024, 65536).show_default();
  command.add_option("--cols", layer->cols).range(64, 65536).show_default();
  command.add_option("--bits", *bits, "Bits per weight, about").range(1.0, 6.5).show_default();
}

void add_decode(cli::CommandLine& line);
void add_fused(cli::CommandLine& line);
void add_attention(cli::CommandLine& line);
void add_load(cli::CommandLine& line);
void add_tokens(cli::CommandLine& line);
void add_encode(cli::CommandLine& line);
void add_scaling(cli::CommandLine& line);
void add_device(cli::CommandLine& line);
void add_model(cli::CommandLine& line);
void add_peer(cli::CommandLine& line);
void add_mixture(cli::CommandLine& line);

}  // namespace nwc::bench
