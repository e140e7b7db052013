// Times attention over a long context: of the last tokens to all positions before them, a layer at a time.
#include <cmath>
#include <memory>
#include <regex>

#include "bench/bench_commands.h"
#include "bench/device_attention.h"
#include "runtime/engine/attention.h"

namespace nwc::bench {
namespace {

struct AttentionOptions : CommonOptions {
  BackendOptions backend;
  std::vector<std::string> shapes = {"9x3x64", "4x1x256", "32x8x128"};
  std::vector<uint32_t> positions = {4096}, tokens = {1};
  uint32_t window = 0;
  std::string kv = "f16";
};

BlockSpec parse_shape(const std::string& text, uint32_t window) {
  std::smatch match;
  if (!std::regex_match(text, match, std::regex("([0-9]{1,4})x([0-9]{1,4})x([0-9]{1,3})"))) {
    check(invalid_argument("--shape " + text + ": write heads x KV heads x numbers of a head, as in 32x8x128"));
  }
  BlockSpec block;
  block.num_heads = static_cast<uint32_t>(std::stoul(match[1]));
  block.num_kv_heads = static_cast<uint32_t>(std::stoul(match[2]));
  block.head_dim = static_cast<uint32_t>(std::stoul(match[3]));
  block.window = window;
  if (block.num_kv_heads == 0 || block.num_heads == 0 || block.num_heads % block.num_kv_heads != 0 ||
      block.head_dim == 0 || block.head_dim % 4 != 0 || block.head_dim > 256) {
    check(invalid_argument("--shape " + text +
                           ": KV heads divide heads, and a head has a multiple of 4 numbers up to 256"));
  }
  return block;
}

/// One shape, one context, so many tokens at its end.
struct Measured {
  const BlockSpec block;
  const uint32_t positions, tokens;
  const Dtype dtype;
  uint32_t layers = 1;  ///< so many that no cache of the machine's keeps what was read a run before
  Record record{};

  Measured(const AttentionOptions& o, const std::string& shape, uint32_t positions_, uint32_t tokens_)
      : block(parse_shape(shape, o.window)),
        positions(positions_),
        tokens(std::min(tokens_, positions_)),
        dtype(o.kv == "f16" ? Dtype::kF16 : Dtype::kF32) {
    record.weights = 2 * uint64_t{positions} * block.kv_width();
    constexpr uint64_t kCacheBytes = 64u << 20;
    layers = static_cast<uint32_t>(std::clamp<uint64_t>(kCacheBytes / (record.weights * dtype_size(dtype)), 1, 8));
    record.name = "attention " + shape + ", " + std::to_string(positions) + " positions";
    if (tokens != 1) record.name += ", " + std::to_string(tokens) + " tokens";
  }
};

void measure_cpu(const Measured& m, Runner& runner, Report* report) {
  ModelLayout layout;
  layout.model.blocks = {m.block};
  layout.model.num_layers = m.layers;
  layout.layers.resize(m.layers);
  HostMemory memory;
  KvCache cache;
  check(cache.allocate(layout, m.positions, m.tokens, m.dtype, &memory));
  const size_t stride = size_t{m.block.q_width()} + 2 * m.block.kv_width();
  std::vector<float> rows(m.tokens * stride);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i % 17) / 8 - 1;
  const CpuLevel level = detect_cpu_level();
  const float* const key = rows.data() + m.block.q_width();
  for (uint32_t l = 0; l < m.layers; ++l) {
    for (uint32_t p = 0; p < m.positions; ++p) {
      cache.store(kernel_table(level), l, p, key, key + m.block.kv_width());
    }
  }
  std::vector<float> out(size_t{m.tokens} * m.block.q_width());
  const size_t scratch_stride = attention_scratch(layout, m.positions, m.tokens);
  std::vector<float> scratch(scratch_stride * runner.num_workers());
  std::vector<Job> jobs;
  uint32_t layer = 0;
  for (const CpuLevel cpu : kCpuLevels) {
    if (cpu > level) continue;
    Record r = m.record;
    r.backend = cpu_level_name(cpu);
    r.device = cpu_name();
    r.threads = runner.num_workers();
    jobs.push_back({r, [&, cpu] {
                      layer = (layer + 1) % m.layers;
                      attend(kernel_table(cpu), runner, m.block, cache, layer, m.positions - m.tokens, m.tokens,
                             rows.data(), stride, nullptr, out.data(), scratch.data(), scratch_stride);
                    }});
  }
  report->measure(jobs);
}

void measure_vulkan(const Measured& m, BackendDecoder& device, Report* report) {
  const auto attention = DeviceAttention::create(*device.decoder, m.block, m.positions, m.tokens, m.layers, m.dtype);
  if (attention == nullptr) return report->note(m.record.name + " left out: the device has too little memory");
  double seconds = 0;
  std::vector<Job> jobs;
  const auto add = [&](const std::string& how, const std::function<double()>& work) {
    Record r = m.record;
    r.name += how;
    r.backend = device.backend;
    r.device = device.device;
    jobs.push_back({r, [&seconds, work] { seconds = work(); }, true, {}, [&seconds] { return seconds; }});
  };
  add(", device copy", [&] { return attention->copy(); });
  add(", one piece", [&] { return attention->attend(false); });
  if (attention->pieces() != 1) {
    add(", " + std::to_string(attention->pieces()) + " pieces", [&] { return attention->attend(true); });
  }
  report->measure(jobs, Against{0, "ratio_device_copy"});
}

void run_attention(const AttentionOptions& o) {
  Report report(o.json, o.repeat, o.only);
  const auto runner = make_thread_pool(o.threads);
  SyntheticOptions small;  // a decoder has a file
  small.rows = 128;
  small.cols = 64;
  const auto model = make_synthetic(small);
  auto device = o.backend.vulkan() ? open_vulkan(*model->file, *runner, o.backend.device, report) : std::nullopt;
  for (const std::string& shape : o.shapes) {
    for (const uint32_t positions : o.positions) {
      for (const uint32_t tokens : o.tokens) {
        const Measured m(o, shape, positions, tokens);
        if (o.backend.cpu()) measure_cpu(m, *runner, &report);
        if (device) measure_vulkan(m, *device, &report);
      }
    }
  }
  report.finish();
}

}  // namespace

void add_attention(cli::CommandLine& line) {
  const auto o = std::make_shared<AttentionOptions>();
  cli::Command command = line.add_command(
      "attention", "Attention of the last tokens to all positions, a layer at a time; weights are keys and values");
  o->add_to(command);
  o->backend.add_to(command);
  command.add_option("--shape", o->shapes, "Heads x KV heads x numbers of a head").show_default();
  command.add_option("--positions", o->positions, "Length of the context").range(1, 131072).show_default();
  command.add_option("--tokens", o->tokens, "Tokens at a time").range(1, 1024).show_default();
  command.add_option("--window", o->window, "Positions that a token sees; 0: all").range(0, 131072).show_default();
  command.add_option("--kv", o->kv, "Numbers of keys and values").one_of({"f16", "f32"}).show_default();
  command.on_run([o] { run_attention(*o); });
}

}  // namespace nwc::bench
