#include <cstdio>

#include "bench/bench_commands.h"

int main(int argc, char** argv) {
  nwc::cli::CommandLine line(
      "Measures nwc on synthetic layers and on models. Times are medians, and a memcpy is measured in turn with "
      "everything.",
      "nwc-bench");
  nwc::bench::add_decode(line);
  nwc::bench::add_fused(line);
  nwc::bench::add_attention(line);
  nwc::bench::add_load(line);
  nwc::bench::add_tokens(line);
  nwc::bench::add_encode(line);
  nwc::bench::add_scaling(line);
  nwc::bench::add_device(line);
  nwc::bench::add_model(line);
  nwc::bench::add_peer(line);
  nwc::bench::add_mixture(line);
  const nwc::cli::CommandLine::Outcome outcome = line.run(argc, argv);
  std::fputs(outcome.text.c_str(), outcome.usage_error ? stderr : stdout);
  return outcome.usage_error ? 2 : 0;
}
