// The options of nwc run.
#pragma once

#include <string>
#include <vector>

#include "host-tools/cli.h"
#include "host-tools/model_input.h"

namespace nwc::cli {

struct RunOptions {
  std::string model, prompt, prompt_file, mode = "auto", weights = "auto", memory;
  DeviceOptions device;
  uint32_t max_tokens = 128, context = 0, top_k = 40;  ///< context 0: not given
  float temperature = 0.8f, top_p = 0.95f, min_p = 0;
  float repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  std::vector<std::string> stop;
  uint64_t seed = 1;
  double warn_above = 5;
  bool greedy = false, ignore_eos = false, plan_only = false, no_echo = false, special = false;
  bool chat = false, system_given = false, tokens_given = false, prompt_given = false;
  std::string system;
};

void add_run_options(Command command, RunOptions* options);
/// What --weights may be, by nwc_precision.
std::vector<std::string> weight_names();

}  // namespace nwc::cli
