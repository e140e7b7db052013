#include "bench/bench_commands.h"

int main(int argc, char** argv) {
  CLI::App app{"Measures nwc on synthetic layers. Times are medians; memcpy is measured in turn with everything else.",
               "nwc-bench"};
  app.require_subcommand(1);
  nwc::bench::add_decode(&app);
  nwc::bench::add_fused(&app);
  nwc::bench::add_encode(&app);
  CLI11_PARSE(app, argc, argv);
  return 0;
}
