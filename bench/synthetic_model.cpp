#include "bench/synthetic_model.h"

#include <cmath>
#include <map>

#include "tests/codec/reference_encoder.h"
#include "trainer/search/tensor_encode.h"

namespace nwc::bench {
namespace {

constexpr uint32_t kLevels = 8, kTables = 16;
constexpr uint32_t kStateBits = 3;  // states make no difference to a decoder

}  // namespace

CodecRecord synthetic_codec(const SyntheticOptions& o) {
  reference::CodecOptions c;
  c.levels = kLevels;
  c.tables = kTables;
  c.varied = false;
  // Entropy of a Gaussian of deviation sigma, log2(sigma sqrt(2 pi e)); the tables' are 1 to 1.35 times as wide.
  c.sigma = std::exp2(o.bits - 2.047) / 1.17;
  c.alphabet = o.bits > 4.5 ? 128 : 64;
  if (o.fitted) c.alphabet = std::min(c.alphabet, 2 * static_cast<uint32_t>(5 * c.sigma) + 2);
  c.shrink = 0.02;
  c.trellis_bits = o.trellis ? kStateBits : 0;
  c.row_classes = o.row_classes;
  if (o.preset == "small" || o.preset == "paper") {
    c.width = o.preset == "small" ? 64 : 512;
    c.blocks = o.preset == "small" ? 2 : 4;
    c.activation = Activation::kRelu;
  }
  CodecRecord codec = reference::make_codec(c, 1);
  if (c.width != 0) {
    // Tables and context map do not depend on the preset, so that all presets have the same symbols.
    c.width = c.blocks = 0;
    c.activation = Activation::kNone;
    CodecRecord linear = reference::make_codec(c, 1);
    codec.tables = std::move(linear.tables);
    codec.context_map = std::move(linear.context_map);
  }
  for (uint32_t i = 0; o.preset == "identity" && i < kChunk * kChunk; ++i)
    codec.synthesis.skip_weight[i] = i % (kChunk + 1) == 0 ? 1.0f : 0.0f;
  codec.codec_id = compute_codec_id(codec);
  return codec;
}

namespace {

// The tensor of the last call with the same symbols: drawing and coding them is what takes time.
const reference::TestTensor& symbols(const CodecRecord& codec, const SyntheticOptions& o) {
  static std::map<std::tuple<uint64_t, uint64_t, double, bool, bool, bool>, reference::TestTensor> cache;
  const auto key = std::tuple(o.rows, o.cols, o.bits, o.trellis, o.mixed_levels, o.row_classes);
  if (const auto found = cache.find(key); found != cache.end()) return found->second;
  const TileShape tile = choose_tile_shape(o.rows, o.cols, o.trellis);
  reference::TensorOptions t;
  t.shape = {o.rows, o.cols};
  t.tile_rows = tile.rows;
  t.tile_cols = tile.cols;
  t.one_level = !o.mixed_levels;
  t.row_classes = o.row_classes;
  t.wrapping = false;
  return cache.emplace(key, reference::make_tensor(codec, t, 2)).first->second;
}

}  // namespace

std::unique_ptr<SyntheticModel> make_synthetic(const SyntheticOptions& o, uint32_t copies) {
  auto m = std::make_unique<SyntheticModel>();
  m->codec = synthetic_codec(o);
  std::vector<reference::TestTensor> tensors = {symbols(m->codec, o)};
  tensors[0].k.clear(), tensors[0].values.clear();
  for (uint32_t i = 1; i < copies; ++i) {
    tensors.push_back(tensors[0]);
    tensors.back().record.name += "." + std::to_string(i);
  }
  m->record.preset = o.preset;
  m->record.quantizer = std::string(o.trellis ? "trellis" : "scalar") + (o.row_classes ? ", row classes" : "") +
                        (o.mixed_levels ? ", mixed levels" : "");
  m->record.weights = o.rows * o.cols;
  m->record.bpw = 8.0 * static_cast<double>(tensors[0].blob.size()) / static_cast<double>(o.rows * o.cols);
  m->bytes = reference::make_file(m->codec, &tensors);
  auto file = NwcFile::open(make_memory_reader(m->bytes));
  check(file.status());
  m->file = std::move(file).value();
  m->tables = build_decode_tables(m->codec);
  return m;
}

}  // namespace nwc::bench
