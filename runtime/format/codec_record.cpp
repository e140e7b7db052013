#include "runtime/format/codec_record.h"

#include <cmath>
#include <string>

#include "runtime/base/half.h"
#include "runtime/base/str_cat.h"
#include "runtime/format/trellis.h"

namespace nwc {
namespace {

constexpr uint32_t kRecordVersion = 1;
constexpr size_t kIdOffset = 16;

Status bad(const std::string& field, const std::string& why) { return corrupt(str_cat("codec.", field, ": ", why)); }

std::string indexed(const char* name, size_t i) { return str_cat(name, "[", i, "]"); }

Status check_numbers(const std::vector<float>& v, size_t size, bool f16, const char* field) {
  if (v.size() != size) return bad(field, str_cat(v.size(), " numbers instead of ", size));
  for (size_t i = 0; i < size; ++i) {
    if (!std::isfinite(v[i])) return bad(indexed(field, i), "not finite");
    if (f16 && f16_to_f32(f32_to_f16(v[i])) != v[i]) return bad(indexed(field, i), "is not an f16 number");
  }
  return {};
}

Status validate_network(const Network& g, uint32_t num_levels, bool f16) {
  const size_t w = g.width;
  if (w > kMaxWidth || w % 16 != 0) return bad("width", str_cat(w, " is not a multiple of 16 up to 1024"));
  if (g.blocks.size() > kMaxBlocks) return bad("blocks", str_cat(g.blocks.size(), ", at most 8 are allowed"));
  if ((w == 0) != g.blocks.empty()) return bad("blocks", "must be 0 if and only if the width is 0");
  if ((g.activation == Activation::kNone) != (w == 0))
    return bad("activation", "must be 0 with width 0, 1 or 2 otherwise");
  if (w == 0 && g.layer_norm) return bad("layer_norm", "is set without blocks");
  NWC_TRY(check_numbers(g.input_weight, w * kChunk, f16, "input_weight"));
  NWC_TRY(check_numbers(g.input_bias, w, f16, "input_bias"));
  for (const NetworkBlock& b : g.blocks) {
    const size_t norm = g.layer_norm ? w : 0;
    NWC_TRY(check_numbers(b.weight, w * w, f16, "block.weight"));
    NWC_TRY(check_numbers(b.bias, w, f16, "block.bias"));
    NWC_TRY(check_numbers(b.norm_gain, norm, f16, "block.norm_gain"));
    NWC_TRY(check_numbers(b.norm_bias, norm, f16, "block.norm_bias"));
  }
  NWC_TRY(check_numbers(g.output_weight, kChunk * w, f16, "output_weight"));
  NWC_TRY(check_numbers(g.output_bias, w == 0 ? 0 : kChunk, f16, "output_bias"));
  NWC_TRY(check_numbers(g.skip_weight, kChunk * kChunk, f16, "skip_weight"));
  return check_numbers(g.level_embedding, g.blocks.size() * num_levels * w, f16, "level_embedding");
}

Status validate_table(const FrequencyTable& t, const std::string& who) {
  const size_t n = t.freq.size();
  if (t.raw_bits > kMaxRawBits) return bad(str_cat(who, ".raw_bits"), str_cat(t.raw_bits, ", at most 7 are allowed"));
  if (n < 1 || n > kMaxAlphabet) return bad(str_cat(who, ".n"), str_cat(n, ", allowed are 1 to 128"));
  uint32_t sum = 0;
  for (const uint16_t f : t.freq) {
    if (f < 1 || f > kProbScale) return bad(str_cat(who, ".freq"), str_cat(f, ", allowed are 1 to 4096"));
    sum += f;
  }
  if (sum != kProbScale) return bad(str_cat(who, ".freq"), str_cat("adds up to ", sum, " instead of 4096"));
  if (n >= 2) {
    const int32_t unit = 1 << t.raw_bits;
    const int32_t lowest = t.min * unit;
    const int32_t highest = (t.min + static_cast<int32_t>(n) - 2) * unit + unit - 1;
    if (lowest < INT16_MIN || highest > INT16_MAX) return bad(str_cat(who, ".min"), "its values do not fit in 16 bits");
  }
  return {};
}

Status read_numbers(ByteReader* in, uint64_t count, bool f16, const char* field, std::vector<float>* out) {
  if (!f16) return in->read_array(out, count, field);
  std::vector<uint16_t> half;
  NWC_TRY(in->read_array(&half, count, field));
  out->resize(half.size());
  for (size_t i = 0; i < half.size(); ++i) (*out)[i] = f16_to_f32(half[i]);
  return {};
}

void write_numbers(ByteWriter* out, const std::vector<float>& v, bool f16) {
  if (!f16) return out->write_array<float>(v);
  for (const float x : v) out->write(f32_to_f16(x));
}

uint64_t fnv1a(Bytes bytes) {
  uint64_t h = 0xcbf29ce484222325u;
  for (const uint8_t b : bytes) h = (h ^ b) * 0x100000001b3u;
  return h;
}

}  // namespace

double Network::mac_per_weight() const {
  const double w = width;
  const double linear = kChunk * kChunk;
  // The first block's weight is folded into a matrix of kChunk columns.
  const double inner = blocks.empty() ? 0.0 : kChunk * w + static_cast<double>(blocks.size() - 1) * w * w;
  return (2.0 * kChunk * w + inner + linear) / kChunk;
}

bool Network::is_identity() const {
  if (width != 0) return false;
  for (size_t i = 0; i < skip_weight.size(); ++i) {
    if (skip_weight[i] != (i % (kChunk + 1) == 0 ? 1.0f : 0.0f)) return false;
  }
  return true;
}

Status validate(const CodecRecord& r) {
  if (static_cast<uint8_t>(r.preset) > 3) return bad("preset", "unknown");
  if (r.quantizer != Quantizer::kScalar && r.quantizer != Quantizer::kTrellis)
    return unsupported("codec.quantizer: unknown; use a newer version");
  if (r.quantizer == Quantizer::kScalar ? r.trellis_bits != 0 : find_trellis(r.trellis_bits) == nullptr)
    return bad("trellis_bits", str_cat(r.trellis_bits, ", allowed are 0 (scalar), 2 to 6, 8, 10 and 12 (trellis)"));
  if (static_cast<uint8_t>(r.context_kind) > 1) return bad("context", "unknown");
  if (r.num_levels < 1 || r.num_levels > kMaxLevels)
    return bad("levels", str_cat(r.num_levels, ", allowed are 1 to 64"));
  if (r.tables.empty() || r.tables.size() > kMaxTables)
    return bad("tables", str_cat(r.tables.size(), ", allowed are 1 to 1024"));
  const size_t k = r.num_levels;
  NWC_TRY(check_numbers(r.step, k, false, "step"));
  NWC_TRY(check_numbers(r.shrink, k, false, "shrink"));
  NWC_TRY(check_numbers(r.rate, k, false, "rate"));
  for (size_t i = 0; i < k; ++i) {
    if (r.step[i] <= 0) return bad(indexed("step", i), "must be positive");
    if (r.shrink[i] < 0 || r.shrink[i] >= 1) return bad(indexed("shrink", i), "must be in [0, 1)");
    if (r.rate[i] < 0) return bad(indexed("rate", i), "must not be negative");
  }
  NWC_TRY(validate_network(r.synthesis, r.num_levels, r.f16_weights));
  if (r.context_map.size() != k * kChunk * r.num_banks()) return bad("context_map", "wrong size");
  for (size_t i = 0; i < r.context_map.size(); ++i) {
    if (r.context_map[i] >= r.tables.size())
      return bad(indexed("context_map", i), str_cat("names table ", r.context_map[i], " of ", r.tables.size()));
  }
  for (size_t i = 0; i < r.tables.size(); ++i) NWC_TRY(validate_table(r.tables[i], indexed("table", i)));
  return {};
}

Status parse_network(ByteReader* in, uint32_t width, uint32_t num_blocks, Activation activation, bool layer_norm,
                     bool f16, uint32_t num_levels, Network* out) {
  const uint64_t w = width;
  *out = Network{};
  out->width = width;
  out->activation = activation;
  out->layer_norm = layer_norm;
  if (w != 0) {
    NWC_TRY(read_numbers(in, w * kChunk, f16, "codec.input_weight", &out->input_weight));
    NWC_TRY(read_numbers(in, w, f16, "codec.input_bias", &out->input_bias));
  }
  out->blocks = std::vector<NetworkBlock>(num_blocks);
  for (NetworkBlock& b : out->blocks) {
    NWC_TRY(read_numbers(in, w * w, f16, "codec.block.weight", &b.weight));
    NWC_TRY(read_numbers(in, w, f16, "codec.block.bias", &b.bias));
    if (!layer_norm) continue;
    NWC_TRY(read_numbers(in, w, f16, "codec.block.norm_gain", &b.norm_gain));
    NWC_TRY(read_numbers(in, w, f16, "codec.block.norm_bias", &b.norm_bias));
  }
  if (w != 0) {
    NWC_TRY(read_numbers(in, kChunk * w, f16, "codec.output_weight", &out->output_weight));
    NWC_TRY(read_numbers(in, kChunk, f16, "codec.output_bias", &out->output_bias));
  }
  NWC_TRY(read_numbers(in, kChunk * kChunk, f16, "codec.skip_weight", &out->skip_weight));
  return read_numbers(in, uint64_t{num_blocks} * num_levels * w, f16, "codec.level_embedding", &out->level_embedding);
}

void write_network(ByteWriter* out, const Network& g, bool f16) {
  write_numbers(out, g.input_weight, f16);
  write_numbers(out, g.input_bias, f16);
  for (const NetworkBlock& b : g.blocks) {
    write_numbers(out, b.weight, f16);
    write_numbers(out, b.bias, f16);
    write_numbers(out, b.norm_gain, f16);
    write_numbers(out, b.norm_bias, f16);
  }
  write_numbers(out, g.output_weight, f16);
  write_numbers(out, g.output_bias, f16);
  write_numbers(out, g.skip_weight, f16);
  write_numbers(out, g.level_embedding, f16);
}

Result<CodecRecord> parse_codec_record(Bytes section, uint64_t file_offset) {
  ByteReader in(section, file_offset);
  Bytes b;
  NWC_TRY(in.read_bytes(&b, 32, "codec header"));
  const uint32_t version = load_le<uint32_t>(b.data());
  if (version != kRecordVersion)
    return Status(StatusCode::kUnsupportedVersion, str_cat("codec.version is ", version, ", known is 1"));
  if (b[4] != kChunk) return unsupported(str_cat("codec.chunk is ", b[4], ", known is 16"));
  if (b[5] > 3) return unsupported(str_cat("codec.preset is ", b[5], ", known are 0 to 3"));
  if (b[6] > 1) return unsupported(str_cat("codec.quantizer is ", b[6], ", known are 0 and 1"));
  const uint16_t width = load_le<uint16_t>(b.data() + 8);
  // Checked here too: they size the arrays that follow.
  if (width > kMaxWidth || width % 16 != 0) return bad("width", std::to_string(width));
  if (b[10] > kMaxBlocks) return bad("blocks", std::to_string(b[10]));
  if (b[11] > 2) return unsupported(str_cat("codec.activation is ", b[11], ", known are 0 to 2"));
  if (b[12] > 1) return unsupported(str_cat("codec.layer_norm is ", b[12], ", known are 0 and 1"));
  if (b[13] > 1) return unsupported(str_cat("codec.number_type is ", b[13], ", known are 0 and 1"));
  if (b[14] < 1 || b[14] > kMaxLevels) return bad("levels", str_cat(b[14], ", allowed are 1 to 64"));
  if (b[15] != b[6] + 1)
    return unsupported(str_cat("codec.banks is ", b[15], ", known are 1 (scalar) and 2 (trellis)"));
  const uint16_t num_tables = load_le<uint16_t>(b.data() + 24);
  if (num_tables < 1 || num_tables > kMaxTables) return bad("tables", std::to_string(num_tables));
  if (b[26] > 1) return unsupported(str_cat("codec.context is ", b[26], ", known are 0 and 1"));
  for (size_t i = 27; i < 32; ++i) {
    if (b[i] != 0) return unsupported(str_cat("codec: reserved bytes at offset ", file_offset + 27, " are set"));
  }

  CodecRecord r;
  r.preset = static_cast<Preset>(b[5]);
  r.quantizer = static_cast<Quantizer>(b[6]);
  r.trellis_bits = b[7];
  r.context_kind = static_cast<ContextKind>(b[26]);
  r.num_levels = b[14];
  r.codec_id = load_le<uint64_t>(b.data() + kIdOffset);
  r.f16_weights = b[13] == 1;
  NWC_TRY(in.read_array(&r.step, r.num_levels, "codec.step"));
  NWC_TRY(in.read_array(&r.shrink, r.num_levels, "codec.shrink"));
  NWC_TRY(in.read_array(&r.rate, r.num_levels, "codec.rate"));
  NWC_TRY(parse_network(&in, width, b[10], static_cast<Activation>(b[11]), b[12] == 1, r.f16_weights, r.num_levels,
                        &r.synthesis));
  NWC_TRY(in.read_array(&r.context_map, uint64_t{r.num_levels} * kChunk * r.num_banks(), "codec.context_map"));
  r.tables = std::vector<FrequencyTable>(num_tables);
  for (size_t i = 0; i < r.tables.size(); ++i) {
    FrequencyTable& t = r.tables[i];
    uint8_t reserved = 0;
    uint16_t n = 0;
    NWC_TRY(in.read(&t.raw_bits, "codec.table.raw_bits"));
    NWC_TRY(in.read(&reserved, "codec.table.reserved"));
    NWC_TRY(in.read(&t.min, "codec.table.min"));
    NWC_TRY(in.read(&n, "codec.table.n"));
    if (reserved != 0) return unsupported(str_cat("codec.", indexed("table", i), ": reserved byte is not zero"));
    if (n < 1 || n > kMaxAlphabet) return bad(str_cat(indexed("table", i), ".n"), std::to_string(n));
    NWC_TRY(in.read_array(&t.freq, n, "codec.table.freq"));
    for (uint16_t& f : t.freq) {
      if (f >= kProbScale) return bad(str_cat(indexed("table", i), ".freq"), "above 4096");
      f = static_cast<uint16_t>(f + 1);
    }
  }
  NWC_TRY(in.expect_end("section CODEC"));
  NWC_TRY(validate(r));
  return r;
}

std::vector<uint8_t> serialize(const CodecRecord& r) {
  assert(validate(r).ok());
  const Network& g = r.synthesis;
  ByteWriter out;
  out.write(kRecordVersion);
  out.write(static_cast<uint8_t>(kChunk));
  out.write(static_cast<uint8_t>(r.preset));
  out.write(static_cast<uint8_t>(r.quantizer));
  out.write(r.trellis_bits);
  out.write(static_cast<uint16_t>(g.width));
  out.write(static_cast<uint8_t>(g.blocks.size()));
  out.write(static_cast<uint8_t>(g.activation));
  out.write(static_cast<uint8_t>(g.layer_norm));
  out.write(static_cast<uint8_t>(r.f16_weights));
  out.write(static_cast<uint8_t>(r.num_levels));
  out.write(static_cast<uint8_t>(r.num_banks()));
  out.write(r.codec_id);
  out.write(static_cast<uint16_t>(r.tables.size()));
  out.write(static_cast<uint8_t>(r.context_kind));
  for (int i = 0; i < 5; ++i) out.write(uint8_t{0});
  out.write_array<float>(r.step);
  out.write_array<float>(r.shrink);
  out.write_array<float>(r.rate);
  write_network(&out, g, r.f16_weights);
  out.write_array<uint16_t>(r.context_map);
  for (const FrequencyTable& t : r.tables) {
    out.write(t.raw_bits);
    out.write(uint8_t{0});
    out.write(t.min);
    out.write(static_cast<uint16_t>(t.freq.size()));
    for (const uint16_t f : t.freq) out.write(static_cast<uint16_t>(f - 1));
  }
  return out.take();
}

uint64_t compute_codec_id(CodecRecord record) {
  record.codec_id = 0;
  return fnv1a(serialize(record));
}

}  // namespace nwc
