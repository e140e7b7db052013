// How long coding a layer takes: factoring its Hessian, trellis search with error feedback, entropy coding.
// nwc-bench-encode [--size N] [--threads T] [--repeat R] [--json]
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "trainer/encode/rate_control.h"
#include "trainer/encode/tensor_encode.h"
#include "trainer/nn/random.h"
#include "trainer/train/identity_codec.h"

namespace {

using namespace nwc;

double seconds(const std::function<void()>& work, int repeat) {
  std::vector<double> times;
  for (int i = 0; i < repeat; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

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

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Coding of an N x N layer at 4 bits per weight: seconds, median of --repeat runs", "nwc-bench-encode"};
  size_t n = 4096;
  uint32_t threads = 0;
  int repeat = 1;
  bool json = false;
  app.add_option("--size", n, "Rows and columns")->check(CLI::Range(64, 16384))->capture_default_str();
  app.add_option("--threads", threads, "0: all")->capture_default_str();
  app.add_option("--repeat", repeat)->check(CLI::Range(1, 100))->capture_default_str();
  app.add_flag("--json", json);
  CLI11_PARSE(app, argc, argv);

  const std::unique_ptr<Runner> runner = make_thread_pool(threads);
  Random random({1});
  std::vector<float> w(n * n);
  for (float& v : w) v = static_cast<float>(random.normal());
  const std::vector<float> hessian = make_hessian(n);
  Result<FeedbackFactors> factors = factor_hessian(hessian, n, 0.005);
  nlohmann::json records = nlohmann::json::array();
  const auto report = [&](const std::string& what, uint32_t states, double s) {
    records.push_back({{"name", what},
                       {"states", states},
                       {"threads", runner->num_workers()},
                       {"weights", n * n},
                       {"seconds_median", s},
                       {"weights_per_s", static_cast<double>(n * n) / s}});
    if (!json)
      std::printf("%-38s %3u states %8.2f s %8.2f Mweight/s\n", what.c_str(), states, s,
                  1e-6 * static_cast<double>(n * n) / s);
  };
  report("factor Hessian", 0, seconds([&] { factors = factor_hessian(hessian, n, 0.005); }, repeat));
  for (const uint32_t bits : {0u, 3u, 5u, 6u, 8u}) {
    const CodecModel ladder = make_ladder(identity_codec(), {.trellis_bits = bits, .row_classes = true});
    const TableCosts costs(ladder.record);
    const StepProfile profile = profile_tensor(
        w, n, n, {.factors = &*factors, .hessian_diagonal = {}, .row_importance = {}}, Importance::kWaterfill, true);
    const TensorSteps steps = choose_steps(profile, ladder.record, profile.mean_octaves() - (bits != 0 ? 2.95 : 1.95));
    QuantizedTensor quantized;
    for (const bool feedback : {false, true}) {
      const QuantizeJob job{.codec = ladder,
                            .costs = costs,
                            .rdo_strength = 0,
                            .w = w,
                            .m = n,
                            .n = n,
                            .steps = steps,
                            .feedback = feedback ? &*factors : nullptr,
                            .row_importance = {},
                            .tile_rows = choose_tile_shape(n, n, bits != 0).rows,
                            .decoded = {}};
      report(feedback ? "search with LDLQ" : "search", bits != 0 ? 1u << bits : 1,
             seconds([&] { quantized = quantize_tensor(job, *runner, nullptr, nullptr); }, repeat));
    }
    if (bits == 5) {
      const EncodeTables tables(ladder.record);
      report("rANS", 32, seconds([&] { static_cast<void>(encode_tensor(tables, quantized, *runner)); }, repeat));
    }
  }
  if (json) std::printf("%s\n", records.dump(1).c_str());
  return 0;
}
