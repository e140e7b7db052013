#include "bench/bench_commands.h"

int main(int argc, char** argv) {
  CLI::App app{
      "Measures nwc on synthetic layers and on models. Times are medians, and a memcpy is measured in turn with "
      "everything.",
      "nwc-bench"};
  app.require_subcommand(1);
  nwc::bench::add_decode(&app);
  nwc::bench::add_fused(&app);
  nwc::bench::add_attention(&app);
  nwc::bench::add_load(&app);
  nwc::bench::add_tokens(&app);
  nwc::bench::add_encode(&app);
  nwc::bench::add_scaling(&app);
  nwc::bench::add_device(&app);
  nwc::bench::add_model(&app);
  nwc::bench::add_peer(&app);
  nwc::bench::add_mixture(&app);
  CLI11_PARSE(app, argc, argv);
  return 0;
}
