// The subcommands of nwc-bench. Each adds itself with its options; CLI11 calls it back.
#pragma once

#include <CLI/CLI.hpp>

#include "bench/synthetic_model.h"

namespace nwc::bench {

/// Options that every subcommand has.
struct CommonOptions {
  bool json = false;
  uint32_t repeat = 5;
  uint32_t threads = 1;
  std::string only;

  void add_to(CLI::App* command) {
    command->add_flag("--json", json, "Print records instead of a table");
    command->add_option("--repeat", repeat, "Runs; the median counts")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
    command->add_option("--threads", threads, "With one, processor time is measured")
        ->check(CLI::Range(1, 1024))
        ->capture_default_str();
    command->add_option("--only", only, "Only what contains this text in its line of the table");
  }
};

inline void add_layer_options(CLI::App* command, SyntheticOptions* layer, std::vector<double>* bits) {
  // Two row bands of the highest tiles; one cache line.
  command->add_option("--rows", layer->rows)->check(CLI::Range(1024, 65536))->capture_default_str();
  command->add_option("--cols", layer->cols)->check(CLI::Range(64, 65536))->capture_default_str();
  command->add_option("--bits", *bits, "Bits per weight, about")->check(CLI::Range(1.0, 6.5))->capture_default_str();
}

void add_decode(CLI::App* app);
void add_fused(CLI::App* app);
void add_encode(CLI::App* app);

}  // namespace nwc::bench
