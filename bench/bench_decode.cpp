// Decoding: rANS alone, synthesis alone, CRC-32 alone and whole tensors to f16, at every level that the machine runs,
// and whole tensors on a Vulkan device.
#include <algorithm>
#include <fstream>
#include <memory>

#include "bench/bench_commands.h"
#include "bench/coded_file.h"
#include "bench/device_layer.h"
#include "bench/synthetic_model.h"
#include "runtime/codec/integer_decode.h"
#include "runtime/codec/synthesis_plan.h"
#include "runtime/codec/tensor_decode.h"
#include "runtime/codec/tile_stream.h"

namespace nwc::bench {
namespace {

struct DecodeOptions : CommonOptions {
  SyntheticOptions layer;
  BackendOptions backend;
  std::vector<double> bits = {4};
  std::vector<std::string> presets = {"identity", "linear", "small", "paper"};
  std::string symbols, file;
  uint32_t tiles = 1;
};

/// Output as tensor libraries allocate it.
class AlignedBytes {
 public:
  explicit AlignedBytes(uint64_t size) : lines_(size / sizeof(Line)) {}
  MutableBytes bytes() { return {lines_.data()->bytes, lines_.size() * sizeof(Line)}; }

 private:
  struct alignas(64) Line {
    uint8_t bytes[64];
  };
  std::vector<Line> lines_;
};

void synthesize(const SyntheticModel& m, CpuLevel cpu, uint64_t groups) {
  const LaneKernels kernels = lane_kernels(cpu);
  const SynthesisPlan plan(m.codec);
  SynthesisScratch scratch(m.codec.synthesis.width);
  std::vector<ColumnGroup> group;
  std::vector<uint8_t> level(kNumLanes);
  for (uint32_t l = 0; l < kNumLanes; ++l) level[l] = static_cast<uint8_t>(l % m.codec.num_levels);
  build_column_groups(m.tables, &m.codec, level.data(), nullptr, kNumLanes, ~0u, &group);
  LaneValues values{};
  for (uint32_t l = 0; l < kNumLanes; ++l) values.q[l % kChunk][l] = static_cast<int16_t>(l);
  LaneWeights weights;
  for (uint64_t i = 0; i < groups; ++i) kernels.synthesize(plan.view(), group[0], values, scratch.data(), &weights);
}

void measure_model(const DecodeOptions& o, const SyntheticModel& m, CpuLevel cpu, Runner& runner, Report* report) {
  constexpr uint64_t kGroup = uint64_t{kChunk} * kNumLanes;
  // Slow combinations get fewer weights.
  const double cost = m.codec.synthesis.mac_per_weight() * (cpu == CpuLevel::kScalar ? 16 : 1);
  const uint64_t rows = cost > 1e4 ? 128 : cost > 500 ? std::min<uint64_t>(o.layer.rows, 1024) : o.layer.rows;
  const uint64_t groups = std::max<uint64_t>(1, static_cast<uint64_t>(4e9 / cost) / kGroup);
  AlignedBytes output(rows * o.layer.cols * 2);
  const MutableBytes out = output.bytes();
  TensorDecodeOptions options;
  options.cpu = cpu;

  Record r = m.record;
  r.backend = cpu_level_name(cpu);
  r.device = cpu_name();
  const auto named = [&](const std::string& name, uint64_t weights, uint32_t threads) {
    Record copy = r;
    copy.name = name;
    copy.weights = weights;
    copy.threads = threads;
    return copy;
  };
  std::vector<Job> jobs;
  if (m.codec.synthesis.width == 0)
    jobs.push_back({named("rANS", m.record.weights, runner.num_workers()),
                    [&] { decode_symbols(*m.file, m.tables, 0, cpu, runner); }});
  jobs.push_back({named("synthesis", groups * kGroup, 1), [&] { synthesize(m, cpu, groups); }});
  if (cost < 1e5) {
    jobs.push_back({named("tensor to f16", rows * o.layer.cols, runner.num_workers()), [&] {
                      check(decode_tensor_rows(*m.file, m.tables, 0, 0, rows, Dtype::kF16, out, runner, options));
                    }});
  }
  report->measure(jobs);
}

void measure_vulkan(const DecodeOptions& o, const SyntheticOptions& wanted, Runner& runner, Report* report) {
  const auto layer = affordable_layer(wanted, runner, o.backend.device, *report);
  if (!layer) return;
  const auto m = make_synthetic(*layer);
  const auto device = open_vulkan(*m->file, runner, o.backend.device, *report, o.tiles);
  if (!device) return;
  Record r = m->record;
  r.name = "tensor to f16";
  r.backend = device->backend;
  r.device = device->device;
  r.threads = runner.num_workers();
  AlignedBytes output(2 * r.weights);
  DecodeRequest request;
  request.out = output.bytes();
  request.row_end = m->file->tensors()[0].rows();
  const auto on_device = DeviceLayer::create(*m, *device->decoder);
  double seconds = 0;  // by the device's clock
  if (on_device != nullptr) {
    std::vector<Job> jobs;
    r.name = "tensor to f16 in device memory, upload included";
    jobs.push_back({.record = r, .work = [&] { on_device->decode(); }, .wall_clock = true});
    r.name = "tensor to f16 in device memory";
    jobs.push_back({r, [&] { seconds = on_device->decode(); }, true, {}, [&] { return seconds; }});
    r.name = "device copy of the decoded bytes";
    jobs.push_back({r, [&] { seconds = on_device->copy(); }, true, {}, [&] { return seconds; }});
    for (const IntegerWeights which : {IntegerWeights::kQ8, IntegerWeights::kPacked}) {
      if (!on_device->has_integers()) continue;
      r.name = which == IntegerWeights::kQ8 ? "tensor to q8 in device memory" : "tensor to packed in device memory";
      const auto work = [&, which] { seconds = on_device->decode_integers(which); };
      jobs.push_back({r, work, true, {}, [&] { return seconds; }});
    }
    report->measure(jobs, Against{2, "ratio_device_copy"});
  }
  // Not in turn with the others: a decoder that switches between outputs in host and in device memory makes its buffers
  // anew each time, which took longer than decoding.
  r.name = "tensor to f16";
  report->measure({{.record = r, .work = [&] { check(device->decoder->decode(request)); }, .wall_clock = true}});
}

/// The values of a layer, scalar, a byte each, for decoders of others.
void write_symbols(const DecodeOptions& o) {
  const auto m = make_synthetic(o.layer.with(o.bits[0], "identity", false, false, false));
  const auto runner = make_thread_pool(0);
  std::vector<int16_t> values(m->record.weights);
  check(decode_tensor_values(*m->file, m->tables, 0, values, *runner, {.cpu = detect_cpu_level(), .progress = {}}));
  std::ofstream file(o.symbols, std::ios::binary);
  for (const int16_t v : values) file.put(static_cast<char>(std::clamp<int>(v, -128, 127)));
  if (!file.flush()) check(io_error(o.symbols + ": cannot be written"));
}

/// The coded tensors of a file in one of the forms that sessions hold integers in.
std::vector<IntegerForm> integer_forms(const CodedFile& f, IntegerWeights which) {
  std::vector<IntegerForm> forms;
  const IntegerForms choice(*f.file);
  for (const size_t t : f.coded) {
    auto form = choice.choose(t, which, false);
    check(form.status());
    forms.push_back(std::move(form).value());
  }
  return forms;
}

void measure_file(const DecodeOptions& o, Runner& runner, Report* report) {
  const CodedFile f = open_coded_file(o.file);
  const std::pair<std::string, std::vector<IntegerForm>> integers[] = {
      {"tensor to q8", integer_forms(f, IntegerWeights::kQ8)},
      {"tensor to packed", integer_forms(f, IntegerWeights::kPacked)}};
  uint64_t most = 2 * f.largest;
  for (const auto& of_kind : integers) {
    for (const IntegerForm& form : of_kind.second) most = std::max(most, form.bytes);
  }
  AlignedBytes output(most + 63);
  for (const CpuLevel cpu : kCpuLevels) {
    if (cpu > detect_cpu_level()) continue;
    TensorDecodeOptions options;
    options.cpu = cpu;
    Record r = f.record_with(cpu, runner);
    TensorDecoder decoder(*f.file, f.tables);
    std::vector<Job> jobs;
    r.name = "rANS";
    jobs.push_back({r, [&] {
                      for (const size_t t : f.coded) decode_symbols(*f.file, f.tables, t, cpu, runner);
                    }});
    r.name = "tensor to f16";
    jobs.push_back({r, [&] {
                      for (const size_t t : f.coded) {
                        const uint64_t rows = f.file->tensors()[t].rows();
                        check(decoder.decode_rows(t, 0, rows, Dtype::kF16, output.bytes(), runner, options));
                      }
                    }});
    for (const auto& of_kind : integers) {
      const std::vector<IntegerForm>* forms = &of_kind.second;
      r.name = of_kind.first;
      jobs.push_back({r, [&, forms] {
                        for (size_t i = 0; i < f.coded.size(); ++i) {
                          const IntegerForm& form = (*forms)[i];
                          const IntegerRequest request{f.coded[i], &form, 0, form.rows, output.bytes(), true};
                          check(decode_integers(decoder, {&request, 1}, runner, options));
                        }
                      }});
    }
    report->measure(jobs);
  }
}

void run_decode(const DecodeOptions& o) {
  if (!o.symbols.empty()) return write_symbols(o);
  Report report(o.json, o.repeat, o.only);
  const auto runner = make_thread_pool(o.threads);
  if (!o.file.empty()) {
    measure_file(o, *runner, &report);
    return report.finish();
  }
  std::vector<uint8_t> payload(8u << 20, 3);
  volatile uint32_t sink = 0;
  if (o.backend.cpu())
    report.measure(
        {{{.name = "CRC-32 of 4 bits a weight", .backend = "cpu", .device = cpu_name(), .weights = 2 * payload.size()},
          [&] { sink = crc32(payload); }}});
  for (const double bits : o.bits) {
    for (const std::string& preset : o.presets) {
      // The hard cases for lookups are measured once, with the preset that costs least.
      for (const auto& [trellis, row_classes, mixed] :
           {std::tuple(false, false, false), std::tuple(true, false, false), std::tuple(false, false, true),
            std::tuple(true, false, true), std::tuple(true, true, true)}) {
        if (preset != "identity" && (mixed || (preset == "paper" && !trellis))) continue;
        const SyntheticOptions layer = o.layer.with(bits, preset, trellis, row_classes, mixed);
        if (o.backend.vulkan()) measure_vulkan(o, layer, *runner, &report);
        if (!o.backend.cpu()) continue;
        const auto m = make_synthetic(layer);
        for (const CpuLevel cpu : kCpuLevels) {
          if (cpu <= detect_cpu_level()) measure_model(o, *m, cpu, *runner, &report);
        }
      }
    }
  }
  report.finish();
}

}  // namespace

void add_decode(cli::CommandLine& line) {
  const auto o = std::make_shared<DecodeOptions>();
  cli::Command command = line.add_command("decode", "Whole tensors to f16, and what that consists of");
  o->add_to(command);
  add_layer_options(command, &o->layer, &o->bits);
  add_preset_option(command, &o->presets);
  o->backend.add_to(command);
  command.add_option("--tiles", o->tiles, "Tiles that a workgroup of a Vulkan device decodes, which share its tables")
      .range(1, 4)
      .show_default();
  command.add_option("--file", o->file, "Measure the coded tensors of this model file, on the CPU");
  command.add_option("--symbols", o->symbols, "Write the values of a layer, a byte each, to this file and end");
  command.on_run([o] { run_decode(*o); });
}

}  // namespace nwc::bench
