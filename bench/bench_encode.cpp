// How long coding a layer takes: factoring its Hessian, trellis search with error feedback, entropy coding.
#include <memory>

#include "bench/bench_commands.h"
#include "bench/bench_report.h"
#include "trainer/encode/rate_control.h"
#include "trainer/encode/tensor_encode.h"
#include "trainer/nn/random.h"
#include "trainer/train/identity_codec.h"

namespace nwc::bench {
namespace {

struct EncodeOptions : CommonOptions {
  size_t size = 4096;
};

/// Inputs whose neighbours are correlated and whose power falls off.
std::vector<float> make_hessian(size_t n) {
  std::vector<float> h(n * n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      const double distance = std::abs(static_cast<double>(i) - static_cast<double>(j));
      const double power = std::exp2(-3.0 * static_cast<double>(i + j) / static_cast<double>(n));
      h[i * n + j] = static_cast<float>(power * std::exp(-distance / 8));
    }
  }
  return h;
}

void run_encode(const EncodeOptions& o) {
  Report report(o.json, o.repeat, o.only);
  const std::unique_ptr<Runner> runner = make_thread_pool(o.threads);
  const size_t n = o.size;
  Random random({1});
  std::vector<float> w(n * n);
  for (float& v : w) v = static_cast<float>(random.normal());
  const std::vector<float> hessian = make_hessian(n);
  Result<FeedbackFactors> factors = factor_hessian(hessian, n, 0.005);
  Record r{
      .preset = "identity", .backend = "cpu", .device = cpu_name(), .threads = runner->num_workers(), .weights = n * n};
  r.name = "factor Hessian";
  report.measure({{r, [&] { factors = factor_hessian(hessian, n, 0.005); }}});
  for (const uint32_t bits : {0u, 3u, 5u, 6u, 8u}) {
    const CodecModel ladder = make_ladder(identity_codec(), {.trellis_bits = bits, .row_classes = true});
    const TableCosts costs(ladder.record);
    TensorImportance importance;
    importance.diagonal = factors->diagonal;
    const StepProfile profile = profile_tensor(w, n, n, importance, Importance::kWaterfill, true);
    const TensorSteps steps = choose_steps(profile, ladder.record, profile.mean_octaves() - (bits != 0 ? 2.95 : 1.95));
    QuantizedTensor quantized;
    r.bpw = 4;
    r.quantizer = bits == 0 ? "scalar" : "trellis, " + std::to_string(1u << bits) + " states";
    const auto search = [&](const FeedbackFactors* feedback) {
      const QuantizeJob job{.codec = ladder,
                            .costs = costs,
                            .rdo_strength = 0,
                            .w = w,
                            .m = n,
                            .n = n,
                            .steps = steps,
                            .feedback = feedback,
                            .row_importance = {},
                            .tile_rows = choose_tile_shape(n, n, bits != 0).rows,
                            .decoded = {}};
      quantized = quantize_tensor(job, *runner, nullptr, nullptr);
    };
    r.name = "search";
    report.measure({{r, [&] { search(nullptr); }}});
    r.name = "search with LDLQ";
    report.measure({{r, [&] { search(&*factors); }}});
    if (bits != 5) continue;
    r.name = "rANS encoding";
    if (!report.wanted(r)) continue;
    search(nullptr);
    const EncodeTables tables(ladder.record);
    report.measure({{r, [&] { static_cast<void>(encode_tensor(tables, quantized, *runner)); }}});
  }
  report.finish();
}

}  // namespace

void add_encode(CLI::App* app) {
  const auto o = std::make_shared<EncodeOptions>();
  CLI::App* command = app->add_subcommand("encode", "Coding of a square layer at 4 bits per weight");
  o->add_to(command);
  command->add_option("--size", o->size, "Rows and columns")->check(CLI::Range(64, 16384))->capture_default_str();
  command->callback([o] { run_encode(*o); });
}

}  // namespace nwc::bench
