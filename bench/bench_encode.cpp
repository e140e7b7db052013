// Times the coding of a layer: factoring its Hessian, trellis search with error feedback, entropy coding.
#include <memory>

#include "bench/bench_commands.h"
#include "bench/encode_layer.h"

namespace nwc::bench {
namespace {

struct EncodeOptions : CommonOptions {
  size_t size = 4096;
};

void run_encode(const EncodeOptions& o) {
  Report report(o.json, o.repeat, o.only);
  const std::unique_ptr<Runner> runner = make_thread_pool(o.threads);
  EncodeLayer layer(o.size, *runner);
  Record r{.preset = "identity",
           .backend = "cpu",
           .device = cpu_name(),
           .threads = runner->num_workers(),
           .weights = o.size * o.size};
  r.name = "factor Hessian";
  report.measure({{r, [&] { layer.factor(); }}});
  for (const uint32_t bits : {0u, 4u, 5u, 6u, 8u, 10u, 12u}) {
    layer.choose(bits);
    r.bpw = 4;
    r.quantizer = bits == 0 ? "scalar" : "trellis, " + std::to_string(1u << bits) + " states";
    r.name = "search";
    report.measure({{r, [&] { layer.search(false); }}});
    r.name = "search with LDLQ";
    report.measure({{r, [&] { layer.search(true); }}});
    if (bits != 5) continue;
    r.name = "rANS encoding";
    if (!report.wanted(r)) continue;
    layer.search(false);
    report.measure({{r, [&] { layer.encode(); }}});
  }
  report.finish();
}

}  // namespace

void add_encode(cli::CommandLine& line) {
  const auto o = std::make_shared<EncodeOptions>();
  cli::Command command = line.add_command("encode", "Coding of a square layer at 4 bits per weight");
  o->add_to(command);
  command.add_option("--size", o->size, "Rows and columns").range(64, 16384).show_default();
  command.on_run([o] { run_encode(*o); });
}

}  // namespace nwc::bench
