// Times decoding, fused products and encoding by the number of weights, from a million to a thousand million.
#include <cmath>
#include <memory>

#include "bench/bench_commands.h"
#include "bench/encode_layer.h"
#include "runtime/codec/fused_product.h"

namespace nwc::bench {
namespace {

constexpr uint64_t kLargestTensor = 1u << 24;  // more weights are several tensors
constexpr uint64_t kLargestCoded = 1u << 24;   // encoding takes a second or two of them
constexpr uint32_t kCopies = 4;                // different bytes that several tensors take in turn
constexpr double kLongestRun = 4;              // seconds

struct ScalingOptions : CommonOptions {
  BackendOptions backend;
  std::vector<std::string> presets = {"linear"};
  double bits = 4;
  uint64_t most = 1u << 30;
};

/// `tensors` tensors of n x n weights each.
struct Scale {
  uint64_t n = 0, tensors = 0;
  uint64_t weights() const { return n * n * tensors; }
};

/// 2^20, 2^22, ... weights.
std::vector<Scale> scales(uint64_t most) {
  std::vector<Scale> list;
  for (uint64_t weights = 1u << 20; weights <= most; weights *= 4) {
    const uint64_t one = std::min(weights, kLargestTensor);
    list.push_back({static_cast<uint64_t>(std::sqrt(static_cast<double>(one))), weights / one});
  }
  return list;
}

class Scaling {
 public:
  Scaling(const ScalingOptions& options, Report* report)
      : o_(options), report_(report), runner_(make_thread_pool(options.threads)) {}

  void run() {
    for (const std::string& preset : o_.presets) {
      slow_.clear();
      for (const Scale& scale : scales(o_.most)) measure_model(preset, scale);
    }
    for (const Scale& scale : scales(std::min(o_.most, kLargestCoded))) measure_encoding(scale.n);
  }

 private:
  /// False, with a note, if a quarter of it says that it would take too long.
  bool affordable(const Record& r) {
    if (!report_->wanted(r)) return false;
    const auto found = slow_.find(r.name + r.backend);
    if (found == slow_.end() || 4 * found->second < kLongestRun) return true;
    report_->note(describe(r) + ": " + std::to_string(r.weights) + " weights left out, they would take " +
                  std::to_string(4 * found->second) + " s");
    found->second *= 4;
    return false;
  }

  void measure(const Record& r, bool wall_clock, const std::function<void()>& work) {
    if (!affordable(r)) return;
    slow_[r.name + r.backend] = seconds_of(false, work);
    report_->measure({{.record = r, .work = work, .wall_clock = wall_clock}});
  }

  void measure_model(const std::string& preset, const Scale& scale) {
    SyntheticOptions layer;
    layer.rows = layer.cols = scale.n;
    layer.bits = o_.bits;
    layer.preset = preset;
    const uint32_t copies = static_cast<uint32_t>(std::min<uint64_t>(scale.tensors, kCopies));
    const auto m = make_synthetic(layer, copies);
    std::vector<uint8_t> out(2 * scale.n * scale.n);
    const auto decode_with = [&](const BackendDecoder& d) {
      Record r = m->record;
      r.name = "decode";
      r.backend = d.backend;
      r.device = d.device;
      r.threads = runner_->num_workers();
      r.weights = scale.weights();
      measure(r, d.decoder->on_device() != nullptr, [&] {
        for (uint64_t i = 0; i < scale.tensors; ++i) {
          DecodeRequest request;
          request.tensor = i % copies;
          request.row_end = scale.n;
          request.out = out;
          check(d.decoder->decode(request));
        }
      });
      return r;
    };
    if (o_.backend.vulkan())
      if (const auto d = open_vulkan(*m->file, *runner_, o_.backend.device, *report_)) decode_with(*d);
    if (!o_.backend.cpu()) return;
    Record r = decode_with(open_cpu(*m->file, *runner_));
    FusedProduct product(*m->file, m->tables);
    const std::vector<float> x(scale.n, 1.0f);
    std::vector<float> y(scale.n);
    TensorDecodeOptions options;
    options.cpu = detect_cpu_level();
    r.name = "fused product";
    measure(r, false, [&] {
      for (uint64_t i = 0; i < scale.tensors; ++i) check(product.multiply(i % copies, 1, x, y, *runner_, options));
    });
  }

  void measure_encoding(uint64_t n) {
    Record r{.name = "encode: search, 8 states, with LDLQ",
             .preset = "identity",
             .quantizer = "trellis",
             .bpw = 4,
             .backend = "cpu",
             .device = cpu_name(),
             .threads = runner_->num_workers(),
             .weights = n * n};
    if (!affordable(r)) return;
    EncodeLayer layer(n, *runner_);
    layer.choose(3);
    measure(r, false, [&] { layer.search(true); });
    r.name = "encode: rANS";
    measure(r, false, [&] { layer.encode(); });
    r.name = "encode: factor Hessian";
    measure(r, false, [&] { layer.factor(); });
  }

  const ScalingOptions& o_;
  Report* report_;
  const std::unique_ptr<Runner> runner_;
  std::map<std::string, double> slow_;  ///< seconds of the last size, by name and backend
};

void run_scaling(const ScalingOptions& o) {
  Report report(o.json, o.repeat, o.only);
  Scaling(o, &report).run();
  report.finish();
}

}  // namespace

void add_scaling(cli::CommandLine& line) {
  const auto o = std::make_shared<ScalingOptions>();
  cli::Command command = line.add_command(
      "scaling", "Decoding, fused products and encoding by number of weights, in tensors of at most 16 million");
  o->add_to(command);
  o->backend.add_to(command);
  add_preset_option(command, &o->presets);
  command.add_option("--bits", o->bits, "Bits per weight, about").range(1.0, 6.5).show_default();
  command.add_option("--most", o->most, "Most weights").range(uint64_t{1} << 20, uint64_t{1} << 34).show_default();
  command.on_run([o] { run_scaling(*o); });
}

}  // namespace nwc::bench
