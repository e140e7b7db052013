// Times matrix-vector products: with the coded weights, by decoding and then multiplying, and with f16 weights that are
// decoded already.
#include <memory>

#include "bench/bench_commands.h"
#include "bench/coded_file.h"
#include "bench/device_layer.h"
#include "bench/synthetic_model.h"
#include "runtime/codec/fused_product.h"
#include "runtime/engine/kernels_cpu.h"

namespace nwc::bench {
namespace {

struct FusedOptions : CommonOptions {
  SyntheticOptions layer;
  BackendOptions backend;
  std::vector<double> bits = {4};
  std::vector<uint32_t> batches = {1};
  std::vector<std::string> presets = {"identity", "linear", "small"};
  std::string file;
};

void measure_model(const SyntheticModel& m, CpuLevel cpu, uint32_t batch, Runner& runner, Report* report) {
  const TensorRecord& tensor = m.file->tensors()[0];
  const uint32_t rows = static_cast<uint32_t>(tensor.rows()), cols = static_cast<uint32_t>(tensor.cols());
  std::vector<float> x(uint64_t{batch} * cols), y(uint64_t{batch} * rows);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 17) - 8;
  std::vector<uint16_t> weights(uint64_t{rows} * cols);
  std::vector<float> scratch(runner.num_workers() * kMatmulScratch);
  const KernelTable& kernels = kernel_table(cpu);
  FusedProduct product(*m.file, m.tables);
  TensorDecodeOptions options;
  options.cpu = cpu;

  const auto decode = [&] {
    const MutableBytes out(reinterpret_cast<uint8_t*>(weights.data()), weights.size() * sizeof(uint16_t));
    check(decode_tensor_rows(*m.file, m.tables, 0, 0, rows, Dtype::kF16, out, runner, options));
  };
  const auto multiply = [&] {
    matmul(kernels, runner, batch, x.data(), cols, {weights.data(), Dtype::kF16, rows, cols}, y.data(), rows,
           scratch.data());
  };
  Record r = m.record;
  r.backend = cpu_level_name(cpu);
  r.device = cpu_name();
  r.threads = runner.num_workers();
  const std::string of = batch == 1 ? "" : " of " + std::to_string(batch);
  const auto named = [&](const std::string& name) {
    Record copy = r;
    copy.name = name + of;
    return copy;
  };
  report->measure({{named("fused product"), [&] { check(product.multiply(0, batch, x, y, runner, options)); }},
                   {named("decode, then multiply"), [&] { decode(), multiply(); }},
                   {named("f16 product"), multiply}},
                  Against{2, "ratio_f16_product"});
}

void measure_vulkan(const FusedOptions& o, const SyntheticOptions& wanted, Runner& runner, Report* report) {
  const auto part = affordable_layer(wanted, runner, o.backend.device, *report);
  if (!part) return;
  const auto m = make_synthetic(*part);
  const auto device = open_vulkan(*m->file, runner, o.backend.device, *report);
  const auto layer = device ? DeviceLayer::create(*m, *device->decoder) : nullptr;
  if (layer == nullptr) return;
  std::vector<uint32_t> batches = o.batches;
  if (layer->has_integers()) batches.push_back(DeviceLayer::kMostVectors);  // a prompt's
  for (const uint32_t batch : batches) {
    double seconds = 0;  // by the device's clock
    std::vector<Job> jobs;
    const auto add = [&](const std::string& name, const std::function<double()>& work) {
      Record r = m->record;
      r.name = name + (batch == 1 ? "" : " of " + std::to_string(batch));
      r.backend = device->backend;
      r.device = device->device;
      r.threads = runner.num_workers();
      jobs.push_back({r, [&seconds, work] { seconds = work(); }, true, {}, [&seconds] { return seconds; }});
    };
    add("f16 product", [&] { return layer->product(batch); });
    if (batch <= kMaxFusedBatch) {
      add("decode, then multiply", [&] { return layer->decode() + layer->product(batch); });
      if (layer->can_fuse()) add("fused product", [&] { return layer->fused(batch); });
    }
    for (const IntegerWeights which : {IntegerWeights::kQ8, IntegerWeights::kPacked}) {
      if (!layer->has_integers()) continue;
      layer->decode_integers(which);
      for (const bool dots : {false, true}) {
        if (dots && !layer->has_dots()) continue;
        const std::string name = which == IntegerWeights::kQ8 ? "q8 product" : "packed product";
        add(name + (dots ? " by dots" : ""),
            [&layer, which, batch, dots] { return layer->integer_product(which, batch, dots); });
      }
    }
    report->measure(jobs, Against{0, "ratio_f16_product"});
  }
}

void measure_file(const FusedOptions& o, Runner& runner, Report* report) {
  const CodedFile f = open_coded_file(o.file);
  FusedProduct product(*f.file, f.tables);
  for (const CpuLevel cpu : kCpuLevels) {
    if (cpu > detect_cpu_level()) continue;
    TensorDecodeOptions options;
    options.cpu = cpu;
    Record r = f.record_with(cpu, runner);
    for (const uint32_t batch : o.batches) {
      r.name = "fused product" + (batch == 1 ? "" : " of " + std::to_string(batch));
      std::vector<float> x, y;
      const auto multiply = [&] {
        for (const size_t t : f.coded) {
          const TensorRecord& tensor = f.file->tensors()[t];
          x.resize(batch * tensor.cols(), 0.5f);
          y.resize(batch * tensor.rows());
          check(product.multiply(t, batch, x, y, runner, options));
        }
      };
      report->measure({{r, multiply}});
    }
  }
}

void run_fused(const FusedOptions& o) {
  Report report(o.json, o.repeat, o.only);
  const auto runner = make_thread_pool(o.threads);
  if (!o.file.empty()) {
    measure_file(o, *runner, &report);
    return report.finish();
  }
  for (const double bits : o.bits) {
    for (const std::string& preset : o.presets) {
      for (const auto& [trellis, row_classes, mixed] :
           {std::tuple(false, false, false), std::tuple(true, false, false), std::tuple(true, true, true)}) {
        const bool network = preset == "small" || preset == "paper";
        if (preset != "identity" && (mixed || (network && !trellis))) continue;
        SyntheticOptions layer = o.layer.with(bits, preset, trellis, row_classes, mixed);
        if (network) layer.rows = std::min<uint64_t>(layer.rows, 1024);
        if (preset == "paper") layer.cols = std::min<uint64_t>(layer.cols, 64);
        if (o.backend.vulkan())
          measure_vulkan(o, o.layer.with(bits, preset, trellis, row_classes, mixed), *runner, &report);
        if (!o.backend.cpu()) continue;
        const auto m = make_synthetic(layer);
        for (const CpuLevel cpu : kCpuLevels) {
          if (cpu > detect_cpu_level() || (cpu == CpuLevel::kScalar && network)) continue;
          for (const uint32_t batch : o.batches) measure_model(*m, cpu, batch, *runner, &report);
        }
      }
    }
  }
  report.finish();
}

}  // namespace

void add_fused(cli::CommandLine& line) {
  const auto o = std::make_shared<FusedOptions>();
  cli::Command command = line.add_command("fused", "Products from the payload against products with decoded weights");
  o->add_to(command);
  add_layer_options(command, &o->layer, &o->bits);
  add_preset_option(command, &o->presets);
  o->backend.add_to(command);
  command.add_option("--file", o->file, "Measure the coded tensors of this model file, on the CPU");
  command.add_option("--batch", o->batches, "Vectors at a time").range(1u, kMaxFusedBatch).show_default();
  command.on_run([o] { run_fused(*o); });
}

}  // namespace nwc::bench
