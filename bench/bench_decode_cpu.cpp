// Single-thread decoding on the CPU: rANS alone, synthesis alone, CRC-32 alone, and whole tensors to f16, at every
// level that the machine runs, against a memcpy of the decoded bytes timed in between (ratios survive a busy machine).
//   nwc-bench-decode [--json FILE] [--rows N] [--repeat N]
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "runtime/codec/synthesis_plan.h"
#include "runtime/codec/tensor_decode.h"
#include "runtime/codec/tile_stream.h"
#include "tests/codec/reference_encoder.h"

namespace {

using namespace nwc;

constexpr uint64_t kCols = 4096;

double cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double seconds_of(const auto& work) {
  const double start = cpu_seconds();
  work();
  return cpu_seconds() - start;
}

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

void check(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.message().c_str());
  std::exit(1);
}

struct Line {
  std::string what, level;
  double weights_per_second, memcpy_ratio;
};

class Bench {
 public:
  Bench(uint32_t repeat, std::string only)
      : repeat_(repeat), only_(std::move(only)), from_(32u << 20, 1), to_(32u << 20, 2) {}

  // Times `work`, which yields `weights`, and a copy of as many f16 weights, in turns.
  void measure(const std::string& what, const std::string& level, uint64_t weights, const auto& work) {
    if ((what + " " + level).find(only_) == std::string::npos) return;
    std::vector<double> times, ratios;
    work();
    for (uint32_t i = 0; i < repeat_; ++i) {
      const double copy = seconds_of([&] { std::memcpy(to_.data(), from_.data(), to_.size()); }) /
                          static_cast<double>(to_.size()) * 2.0 * static_cast<double>(weights);
      times.push_back(seconds_of(work));
      ratios.push_back(times.back() / copy);
    }
    lines_.push_back({what, level, static_cast<double>(weights) / median(times), median(ratios)});
    const Line& l = lines_.back();
    std::printf("%-44s %-7s %10.1f Mweight/s %10.2f x memcpy\n", l.what.c_str(), l.level.c_str(),
                l.weights_per_second * 1e-6, l.memcpy_ratio);
    std::fflush(stdout);
  }

  void write_json(const char* path) const {
    std::FILE* f = std::fopen(path, "w");
    if (f == nullptr) {
      std::perror(path);
      std::exit(1);
    }
    std::fprintf(f, "[\n");
    for (size_t i = 0; i < lines_.size(); ++i) {
      const Line& l = lines_[i];
      std::fprintf(f, "  {\"what\": \"%s\", \"cpu\": \"%s\", \"weights_per_second\": %.6g, \"memcpy_ratio\": %.4g}%s\n",
                   l.what.c_str(), l.level.c_str(), l.weights_per_second, l.memcpy_ratio,
                   i + 1 < lines_.size() ? "," : "");
    }
    std::fprintf(f, "]\n");
    std::fclose(f);
  }

 private:
  uint32_t repeat_;
  std::string only_;
  std::vector<uint8_t> from_, to_;
  std::vector<Line> lines_;
};

struct Model {
  std::string what;
  bool entropy_coding_alone;  // measured, too; the same as another model's if false
  CodecRecord codec;
  std::vector<uint8_t> bytes;
  std::unique_ptr<NwcFile> file;
  DecodeTables tables;
};

std::unique_ptr<Model> make_model(const std::string& what, bool entropy_coding_alone, const CodecRecord& codec,
                                  reference::TestTensor tensor) {
  auto m = std::make_unique<Model>();
  m->what = what;
  m->entropy_coding_alone = entropy_coding_alone;
  m->codec = codec;
  std::vector<reference::TestTensor> tensors = {std::move(tensor)};
  m->bytes = reference::make_file(codec, &tensors);
  auto file = NwcFile::open(make_memory_reader(m->bytes));
  check(file.status());
  m->file = std::move(file).value();
  m->tables = build_decode_tables(codec);
  return m;
}

// The symbols of all tiles, two tiles at a time as the tensor decoder does.
void decode_symbols(const Model& m, const CodedTensor& coded, CpuLevel cpu) {
  const LaneKernels kernels = lane_kernels(cpu);
  const TileGrid grid = tile_grid(m.file->tensors()[0]);
  TileStream streams[2];
  LaneStates* lanes[2] = {streams[0].lanes(), streams[1].lanes()};
  std::vector<ColumnGroup> groups;
  LaneValues values[2];
  for (uint64_t column = 0; column < grid.tiles_per_row(); ++column) {
    const TileGeometry g = grid.tile(column);
    build_column_groups(m.tables, nullptr, coded.level.data() + g.col, nullptr, g.width, &groups);
    for (uint64_t band = 0; band + 1 < grid.row_bands(); band += 2) {
      for (uint64_t i = 0; i < 2; ++i) {
        const CodedTensor::Tile& tile = coded.tiles[(band + i) * grid.tiles_per_row() + column];
        const MutableBytes to = *streams[i].prepare(g, tile.size);
        check(m.file->reader().read(tile.offset, to));
        check(streams[i].begin());
      }
      for (uint32_t r = 0; r < g.row_blocks(); ++r) {
        for (uint64_t i = 0; i < 2; ++i) {
          const uint64_t row = (band + i) * grid.tile_rows + uint64_t{r} * kChunk;
          streams[i].begin_row_block(m.codec.context_kind, coded.row_class, row);
        }
        for (const ColumnGroup& group : groups) kernels.decode(lookup_tables(m.tables), group, lanes, 2, values);
      }
      for (TileStream& s : streams) check(s.finish());
    }
  }
}

void synthesize(const Model& m, CpuLevel cpu, uint64_t groups) {
  const LaneKernels kernels = lane_kernels(cpu);
  const SynthesisPlan plan(m.codec);
  SynthesisScratch scratch(m.codec.synthesis.width);
  std::vector<ColumnGroup> group;
  std::vector<uint8_t> level(kNumLanes);
  for (uint32_t l = 0; l < kNumLanes; ++l) level[l] = static_cast<uint8_t>(l % m.codec.num_levels);
  build_column_groups(m.tables, &m.codec, level.data(), nullptr, kNumLanes, &group);
  LaneValues values{};
  for (uint32_t l = 0; l < kNumLanes; ++l) values.q[l % 16][l] = static_cast<int16_t>(l);
  LaneWeights weights;
  for (uint64_t i = 0; i < groups; ++i) kernels.synthesize(plan.view(), group[0], values, scratch.data(), &weights);
}

}  // namespace

int main(int argc, char** argv) {
  const char* json = nullptr;
  std::string only;
  uint64_t rows = 4096;
  uint32_t repeat = 5;
  for (int i = 1; i < argc; i += 2) {
    const std::string option = argv[i];
    if (i + 1 == argc || (option != "--json" && option != "--rows" && option != "--repeat" && option != "--only")) {
      std::fprintf(stderr, "usage: nwc-bench-decode [--json FILE] [--rows N] [--repeat N] [--only TEXT]\n");
      return 2;
    }
    if (option == "--only") only = argv[i + 1];
    if (option == "--json") json = argv[i + 1];
    if (option == "--rows") rows = std::max<uint64_t>(256, std::strtoull(argv[i + 1], nullptr, 10) / 256 * 256);
    if (option == "--repeat") repeat = static_cast<uint32_t>(std::max(1, std::atoi(argv[i + 1])));
  }

  reference::CodecOptions options;
  options.levels = 8;
  options.tables = 16;
  options.varied = false;
  options.sigma = 3.4;
  options.shrink = 0.02;
  const CodecRecord linear = reference::make_codec(options, 1);
  reference::TensorOptions shape;
  shape.shape = {rows, kCols};
  shape.one_level = true;
  const reference::TestTensor tensor = reference::make_tensor(linear, shape, 2);
  const double weights = static_cast<double>(rows * kCols);
  std::printf("%llu x %llu, %.3f bits per weight, tiles of 128 x 256, one thread\n",
              static_cast<unsigned long long>(rows), static_cast<unsigned long long>(kCols),
              8.0 * static_cast<double>(tensor.blob.size()) / weights);

  std::vector<std::unique_ptr<Model>> models;
  // Of one level and, the hard case for lookups, with adjacent columns of any of 8 levels: many tables in every step.
  const auto add_linear = [&](const std::string& what, const CodecRecord& codec) {
    for (const bool one_level : {true, false}) {
      shape.one_level = one_level;
      models.push_back(
          make_model(what + (one_level ? "" : ", mixed levels"), true, codec, reference::make_tensor(codec, shape, 2)));
    }
  };
  add_linear("linear", linear);
  options.trellis_bits = 3;
  add_linear("trellis", reference::make_codec(options, 1));
  options.row_classes = shape.row_classes = true;
  add_linear("trellis, row classes", reference::make_codec(options, 1));
  options.trellis_bits = 0;
  options.row_classes = false;
  for (const auto& [preset, width, blocks] : {std::tuple("small", 64u, 2u), std::tuple("paper", 512u, 4u)}) {
    options.width = width;
    options.blocks = blocks;
    options.activation = Activation::kRelu;
    CodecRecord codec = reference::make_codec(options, 3);
    codec.tables = linear.tables;
    codec.context_map = linear.context_map;
    models.push_back(make_model(preset, false, codec, tensor));
  }

  Bench bench(repeat, only);
  const auto runner = make_thread_pool(1);
  volatile uint32_t sink = 0;
  bench.measure("crc32", "-", rows * kCols, [&] { sink = crc32(tensor.blob); });
  for (const CpuLevel cpu : {CpuLevel::kScalar, CpuLevel::kAvx2, CpuLevel::kAvx512}) {
    if (cpu > detect_cpu_level()) continue;
    const char* name = cpu_level_name(cpu);
    for (const auto& m : models) {
      if (!m->entropy_coding_alone) continue;
      const CodedTensor coded = *m->file->load_coded(0, true);
      bench.measure("rANS, " + m->what, name, rows * kCols, [&] { decode_symbols(*m, coded, cpu); });
    }
    for (const auto& m : models) {
      // Slow combinations get fewer weights.
      const double cost = m->codec.synthesis.mac_per_weight() * (cpu == CpuLevel::kScalar ? 16 : 1);
      const uint64_t groups = std::max<uint64_t>(1, static_cast<uint64_t>(4e9 / cost / 512));
      if (m == models[0] || !m->entropy_coding_alone)
        bench.measure("synthesis " + m->what, name, groups * 512, [&] { synthesize(*m, cpu, groups); });
      if (cost > 1e5) continue;
      const uint64_t part = cost > 1e4 ? 128 : cost > 500 ? std::min<uint64_t>(rows, 1024) : rows;
      struct alignas(64) CacheLine {  // output as tensor libraries allocate it
        uint8_t bytes[64];
      };
      std::vector<CacheLine> lines(part * kCols * 2 / sizeof(CacheLine));
      const MutableBytes out(lines.data()->bytes, lines.size() * sizeof(CacheLine));
      TensorDecodeOptions decode_options;
      decode_options.cpu = cpu;
      bench.measure("tensor to f16, " + m->what, name, part * kCols, [&] {
        check(decode_tensor_rows(*m->file, m->tables, 0, 0, part, Dtype::kF16, out, *runner, decode_options));
      });
    }
  }
  if (json != nullptr) bench.write_json(json);
  return 0;
}
