// A slow and simple encoder for tests: written from doc/format.md alone, sharing no code with the decoder's tables nor
// with the trainer's encoder, so that either can be wrong only where the document is unclear.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "runtime/codec/decode_tables.h"
#include "runtime/format/nwc_file.h"

namespace nwc::reference {

/// Slot of each (symbol, rank) of one table: section 5.4, inverted.
class SlotMap {
 public:
  explicit SlotMap(const std::vector<uint16_t>& freq) : slots_(freq.size()) {
    std::vector<int> f(128, 0), cutoff, alias(128), offset(128, 0), under, over;
    std::copy(freq.begin(), freq.end(), f.begin());
    cutoff = f;
    for (int i = 0; i < 128; ++i) {
      alias[static_cast<size_t>(i)] = i;
      if (cutoff[static_cast<size_t>(i)] < 32) under.push_back(i);
      if (cutoff[static_cast<size_t>(i)] > 32) over.push_back(i);
    }
    while (!over.empty()) {
      const size_t o = static_cast<size_t>(over.back()), u = static_cast<size_t>(under.back());
      over.pop_back();
      under.pop_back();
      cutoff[o] -= 32 - cutoff[u];
      alias[u] = static_cast<int>(o);
      offset[u] = cutoff[o];
      if (cutoff[o] < 32) under.push_back(static_cast<int>(o));
      if (cutoff[o] > 32) over.push_back(static_cast<int>(o));
    }
    for (size_t s = 0; s < freq.size(); ++s) slots_[s].assign(freq[s], 0);
    for (uint32_t slot = 0; slot < 4096; ++slot) {
      const size_t i = slot / 32;
      const int p = static_cast<int>(slot % 32);
      const bool own = p < cutoff[i];
      const size_t symbol = own ? i : static_cast<size_t>(alias[i]);
      const int rank = own ? p : offset[i] + p - cutoff[i];
      slots_[symbol][static_cast<size_t>(rank)] = slot;
    }
  }
  uint32_t slot(size_t symbol, size_t rank) const { return slots_[symbol][rank]; }

 private:
  std::vector<std::vector<uint32_t>> slots_;
};

/// Section 5.6: the trellis of one column of a tile. Without a trellis (v = 0) the bank stays 0.
class ColumnTrellis {
 public:
  explicit ColumnTrellis(uint32_t v) : v_(v) {
    const std::map<uint32_t, std::pair<uint32_t, uint32_t>> polynomials = {
        {2, {2, 1}},   {3, {5, 2}},     {4, {9, 2}},      {5, {18, 4}},
        {6, {33, 10}}, {8, {166, 121}}, {10, {794, 487}}, {12, {3166, 1367}}};
    if (v != 0) std::tie(a_, b_) = polynomials.at(v);
  }
  uint32_t bank() const { return state_ % 2; }
  /// The reconstruction index of value k, after which the state moves on.
  int16_t push(int16_t k) {
    if (v_ == 0) return k;
    const int sign = k == 0 ? 0 : k > 0 ? 1 : -1;
    const int q = 2 * k - static_cast<int>(bank()) * sign;
    state_ = state_ / 2 ^ (state_ % 2 == 1 ? a_ : 0) ^ (k % 2 != 0 ? b_ : 0);
    return static_cast<int16_t>(q);
  }

 private:
  uint32_t v_, a_ = 0, b_ = 0, state_ = 0;
};

/// One tile: values k[(row_block * width + column) * 16 + channel] -> payload. row_class: [height], or null: all 0.
class TileEncoder {
 public:
  explicit TileEncoder(const CodecRecord& codec) : codec_(codec) {
    for (const FrequencyTable& t : codec.tables) maps_.emplace_back(t.freq);
  }

  std::vector<uint8_t> encode(const TileGeometry& g, const uint8_t* level, const int16_t* values,
                              const uint8_t* row_class = nullptr) const {
    const std::vector<uint8_t> bank = banks(g, values);
    std::vector<uint32_t> from(g.lanes(), g.free_states ? 0 : 1u << 16), at_first_word;
    for (bool raised = g.free_states; raised;) {
      encode_from(from, g, level, values, row_class, bank, true, &at_first_word);
      raised = false;
      if (at_first_word.empty()) break;
      for (uint32_t l = 0; l < g.lanes(); ++l) {
        if (at_first_word[l] >= 1u << 16) continue;
        from[l] = std::min(1u << 16, from[l] + std::max(1u, from[l] / 4));  // slow, and close to the smallest
        raised = true;
      }
    }
    return encode_from(from, g, level, values, row_class, bank, false, &at_first_word);
  }

 private:
  /// Of each value the bank of the trellis.
  std::vector<uint8_t> banks(const TileGeometry& g, const int16_t* values) const {
    std::vector<uint8_t> bank(size_t{g.row_blocks()} * g.width * 16);
    for (uint32_t column = 0; column < g.width; ++column) {
      ColumnTrellis trellis(codec_.trellis_bits);
      for (uint32_t row = 0; row < 16 * g.row_blocks(); ++row) {
        const size_t at = (size_t{row / 16} * g.width + column) * 16 + row % 16;
        bank[at] = static_cast<uint8_t>(trellis.bank());
        trellis.push(values[at]);
      }
    }
    return bank;
  }

  /// *at_first_word: the states when the first word comes; none: there is no word. until_word: that is all that is
  /// wanted.
  std::vector<uint8_t> encode_from(std::vector<uint32_t> state, const TileGeometry& g, const uint8_t* level,
                                   const int16_t* values, const uint8_t* row_class, const std::vector<uint8_t>& bank,
                                   bool until_word, std::vector<uint32_t>* at_first_word) const {
    at_first_word->clear();
    std::vector<uint16_t> words;  // last one first
    const auto push = [&](uint32_t word) {
      if (words.empty()) *at_first_word = state;
      words.push_back(static_cast<uint16_t>(word));
    };
    const auto push_low_word = [&](uint32_t* s) {
      push(*s);
      *s >>= 16;
    };
    for (uint32_t r = g.row_blocks(); r-- > 0;) {
      for (uint32_t j = g.slots(); j-- > 0;) {
        const uint32_t lanes = std::min(32u, g.width - 32 * j);
        for (uint32_t c = 16; c-- > 0;) {
          if (until_word && !words.empty()) return {};
          const auto index_of = [&](uint32_t l) { return (size_t{r} * g.width + 32 * j + l) * 16 + c; };
          const auto table_of = [&](uint32_t l) {
            const bool by_class = codec_.context_kind == ContextKind::kRowClass;
            const uint32_t row = 16 * r + c;
            const uint32_t second = !by_class ? c : row_class != nullptr && row < g.height ? row_class[row] : 0;
            const uint32_t context = level[32 * j + l] * 16u + second;
            return codec_.quantizer == Quantizer::kTrellis ? codec_.context_map[context * 2 + bank[index_of(l)]]
                                                           : codec_.context_map[context];
          };
          const auto value_of = [&](uint32_t l) { return static_cast<int>(values[index_of(l)]); };
          const auto symbol_of = [&](uint32_t l) {  // the escape, if nothing else does
            const FrequencyTable& t = codec_.tables[table_of(l)];
            const int escape = static_cast<int>(t.freq.size()) - 1;
            const int s = (value_of(l) >> t.raw_bits) - t.min;
            return s < 0 || s >= escape ? escape : s;
          };
          const auto escapes = [&](uint32_t l) {
            return symbol_of(l) == static_cast<int>(codec_.tables[table_of(l)].freq.size()) - 1;
          };
          for (uint32_t l = lanes; l-- > 0;) {  // pass 3
            if (escapes(l)) push(static_cast<uint32_t>(value_of(l)));
          }
          for (uint32_t l = lanes; l-- > 0;) {  // pass 2
            const uint32_t bits = codec_.tables[table_of(l)].raw_bits;
            if (bits == 0 || escapes(l)) continue;
            if (state[l] >= 1u << (32 - bits)) push_low_word(&state[l]);
            state[l] = state[l] << bits | (static_cast<uint32_t>(value_of(l)) & ((1u << bits) - 1));
          }
          for (uint32_t l = lanes; l-- > 0;) {  // pass 1
            const size_t s = static_cast<size_t>(symbol_of(l));
            const uint32_t f = codec_.tables[table_of(l)].freq[s];
            if (state[l] >= uint64_t{f} << 20) push_low_word(&state[l]);
            state[l] = state[l] / f << 12 | maps_[table_of(l)].slot(s, state[l] % f);
          }
        }
      }
    }
    std::reverse(words.begin(), words.end());
    ByteWriter out;
    out.write_array<uint32_t>(state);
    out.write_array<uint16_t>(words);
    return out.take();
  }

  const CodecRecord& codec_;
  std::vector<SlotMap> maps_;
};

struct CodecOptions {
  uint32_t levels = 3, tables = 5, width = 0, blocks = 0;
  Activation activation = Activation::kNone;
  bool layer_norm = false, f16 = false;
  uint32_t max_raw_bits = 0;
  double sigma = 5;  ///< of the tables' symbols (about 4.4 bits)
  uint32_t alphabet = 64;
  bool varied = true;  ///< tables of other shapes among them: one symbol, two symbols, all 128
  double shrink = 0.05;
  uint32_t trellis_bits = 0;
  bool row_classes = false;
};

/// Frequencies of a discretised Gaussian around the middle, normalised to 4096; the last symbol is the escape.
inline std::vector<uint16_t> gaussian_frequencies(uint32_t n, double sigma) {
  std::vector<double> p(n);
  double sum = 0;
  for (uint32_t s = 0; s + 1 < n; ++s) {
    const double x = (s - (n - 2) / 2.0) / sigma;
    sum += p[s] = std::exp(-x * x / 2);
  }
  std::vector<uint16_t> freq(n, 1);
  uint32_t used = n;
  for (uint32_t s = 0; s + 1 < n; ++s) {
    const uint32_t extra = static_cast<uint32_t>(p[s] / sum * (4096 - n));
    freq[s] = static_cast<uint16_t>(freq[s] + extra);
    used += extra;
  }
  const size_t middle = n < 2 ? 0 : (n - 2) / 2;
  freq[middle] = static_cast<uint16_t>(freq[middle] + 4096 - used);
  return freq;
}

inline CodecRecord make_codec(const CodecOptions& o, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  const auto below = [&](uint32_t n) { return static_cast<uint32_t>(rng() % n); };
  const auto fill = [&](size_t count, double sigma, double mean, std::vector<float>* to) {
    to->resize(count);
    for (float& x : *to) {
      x = static_cast<float>(mean) + static_cast<float>(sigma) * normal(rng);
      if (o.f16) x = std::round(x * 256) / 256;
    }
  };
  CodecRecord r;
  r.preset = o.width == 0 ? Preset::kLinear : Preset::kOther;
  r.quantizer = o.trellis_bits == 0 ? Quantizer::kScalar : Quantizer::kTrellis;
  r.trellis_bits = static_cast<uint8_t>(o.trellis_bits);
  r.context_kind = o.row_classes ? ContextKind::kRowClass : ContextKind::kChannel;
  r.num_levels = o.levels;
  r.f16_weights = o.f16;
  for (uint32_t i = 0; i < o.levels; ++i) {
    r.step.push_back(0.1f * static_cast<float>(1 + i % 7));
    r.shrink.push_back(static_cast<float>(i % 2 == 0 ? o.shrink : 0));
    r.rate.push_back(4);
  }
  Network& g = r.synthesis;
  const size_t w = o.width;
  g.width = o.width;
  g.activation = o.activation;
  g.layer_norm = o.layer_norm;
  fill(256, 0.25, 0, &g.skip_weight);
  if (w != 0) {
    fill(w * 16, 0.25, 0, &g.input_weight);
    fill(w, 0.1, 0, &g.input_bias);
    fill(16 * w, 1 / std::sqrt(static_cast<double>(w)), 0, &g.output_weight);
    fill(16, 0.1, 0, &g.output_bias);
  }
  g.blocks.resize(o.blocks);
  for (NetworkBlock& b : g.blocks) {
    fill(w * w, 0.7 / std::sqrt(static_cast<double>(w)), 0, &b.weight);
    fill(w, 0.1, 0, &b.bias);
    if (!o.layer_norm) continue;
    fill(w, 0.1, 0.5, &b.norm_gain);
    fill(w, 0.1, 0, &b.norm_bias);
  }
  fill(o.blocks * o.levels * w, 0.2, 0.8, &g.level_embedding);
  for (uint32_t t = 0; t < o.tables; ++t) {
    FrequencyTable table;
    const uint32_t shape = o.varied ? t % 5 : 0;
    const uint32_t n = shape == 1 ? 1 : shape == 2 ? 2 : shape == 3 ? 128 : o.alphabet;
    table.freq = gaussian_frequencies(n, o.sigma * (shape == 3 ? 4 : 1 + 0.05 * (t % 8)));
    table.min = static_cast<int16_t>(-static_cast<int>(n - 1) / 2);
    table.raw_bits = static_cast<uint8_t>(o.max_raw_bits == 0 ? 0 : below(o.max_raw_bits + 1));
    r.tables.push_back(table);
  }
  for (uint32_t i = 0; i < o.levels * 16 * (o.trellis_bits == 0 ? 1 : 2); ++i)
    r.context_map.push_back(static_cast<uint16_t>((i + below(2)) % o.tables));
  r.codec_id = compute_codec_id(r);
  return r;
}

struct TensorOptions {
  std::string name = "layer.weight";
  std::vector<uint64_t> shape = {128, 256};
  uint32_t tile_rows = 128, tile_cols = 256;
  bool row_scales = false;
  bool one_level = false;
  bool row_classes = false;
  bool free_states = false;
  bool wrapping = true;       ///< escaped values whose index in a trellis does not fit into an i16
  int escapes_below = 32769;  ///< in magnitude
  float scale_base = 1e-3f, row_scale_base = 0.5f;
};

/// A coded tensor and what it should decode to.
struct TestTensor {
  TensorRecord record;
  std::vector<uint8_t> level, scale_code, row_scale_code, row_class;
  std::vector<int16_t> k, values;  ///< [(row_block * n + column) * 16 + channel]: values k and reconstruction indices q
  std::vector<uint8_t> blob;
};

/// Fills in the blob, and what the record says about it, from all else.
inline void encode_blob(const TileEncoder& encoder, TestTensor* tensor) {
  TestTensor& t = *tensor;
  TensorRecord& r = t.record;
  const TileGrid grid = tile_grid(r);
  ByteWriter directory, payloads;
  for (uint64_t i = 0; i < grid.num_tiles(); ++i) {
    const TileGeometry g = grid.tile(i);
    std::vector<int16_t> tile;
    for (uint32_t rb = 0; rb < g.row_blocks(); ++rb) {
      const auto first = t.k.begin() + static_cast<ptrdiff_t>(((g.row / 16 + rb) * grid.n + g.col) * 16);
      tile.insert(tile.end(), first, first + g.width * 16);
    }
    const uint8_t* row_class = r.row_classes ? t.row_class.data() + g.row : nullptr;
    const std::vector<uint8_t> payload = encoder.encode(g, t.level.data() + g.col, tile.data(), row_class);
    directory.write(static_cast<uint32_t>(payload.size()));
    directory.write(crc32(payload));
    payloads.write_bytes(payload);
  }
  ByteWriter side;
  side.write_bytes(t.level);
  side.write_bytes(t.scale_code);
  side.write_bytes(t.row_scale_code);
  side.write_bytes(t.row_class);
  const std::vector<uint8_t> deflated = deflate_bytes(side.bytes());
  ByteWriter blob;
  blob.write_bytes(deflated);
  blob.write_bytes(directory.bytes());
  r.side_size = static_cast<uint32_t>(deflated.size());
  r.crc = crc32(blob.bytes());
  blob.write_bytes(payloads.bytes());
  t.blob = blob.take();
  r.size = t.blob.size();
}

/// Values drawn from the tables of their context.
inline TestTensor make_tensor(const CodecRecord& codec, const TensorOptions& o, uint32_t seed) {
  std::mt19937 rng(seed);
  TestTensor t;
  TensorRecord& r = t.record;
  r.name = o.name;
  r.storage = Storage::kCoded;
  r.dtype = Dtype::kF16;
  r.row_scales = o.row_scales;
  r.row_classes = o.row_classes;
  r.free_states = o.free_states;
  r.shape = o.shape;
  r.tile_rows = o.tile_rows;
  r.tile_cols = o.tile_cols;
  r.scale_base = o.scale_base;
  r.row_scale_base = o.row_scales ? o.row_scale_base : 0;
  const TileGrid grid = tile_grid(r);
  for (uint64_t i = 0; i < grid.n; ++i) {
    t.level.push_back(static_cast<uint8_t>(o.one_level ? 0 : rng() % codec.num_levels));
    t.scale_code.push_back(static_cast<uint8_t>(rng() % 40));
  }
  for (uint64_t i = 0; o.row_scales && i < grid.m; ++i)
    t.row_scale_code.push_back(static_cast<uint8_t>(1 + rng() % 12));
  for (uint64_t i = 0; o.row_classes && i < grid.m; ++i) t.row_class.push_back(static_cast<uint8_t>(rng() % 16));
  // slot -> symbol of a table: drawing a slot draws a symbol with its frequency
  std::vector<std::vector<uint8_t>> draw;
  for (const FrequencyTable& f : codec.tables) {
    draw.emplace_back();
    for (size_t s = 0; s < f.freq.size(); ++s)
      draw.back().insert(draw.back().end(), f.freq[s], static_cast<uint8_t>(s));
  }
  const uint64_t row_blocks = (grid.m + 15) / 16;
  t.k.reserve(row_blocks * grid.n * 16);
  t.values.reserve(row_blocks * grid.n * 16);
  const size_t banks = codec.quantizer == Quantizer::kTrellis ? 2 : 1;
  std::vector<ColumnTrellis> trellis;
  for (uint64_t chunk = 0; chunk < row_blocks * grid.n; ++chunk) {
    const size_t column = chunk % grid.n;
    const uint64_t row = chunk / grid.n * 16;
    if (column == 0 && row % o.tile_rows == 0) trellis.assign(grid.n, ColumnTrellis(codec.trellis_bits));
    for (uint32_t c = 0; c < 16; ++c) {
      const uint32_t row_class = row + c < t.row_class.size() ? t.row_class[row + c] : 0;
      const uint32_t second = codec.context_kind == ContextKind::kChannel ? c : row_class;
      const uint16_t id = codec.context_map[(t.level[column] * 16u + second) * banks + trellis[column].bank()];
      const FrequencyTable& f = codec.tables[id];
      const uint32_t symbol = draw[id][rng() % 4096];
      const int raw = static_cast<int>(rng() & ((1u << f.raw_bits) - 1));
      const bool escape = symbol + 1 == f.freq.size();
      const int value = escape ? (static_cast<int>(rng() % 65536) - 32768) % o.escapes_below / (o.wrapping ? 1 : 2)
                               : (static_cast<int>(symbol) + f.min) * (1 << f.raw_bits) + raw;
      t.k.push_back(static_cast<int16_t>(value));
      t.values.push_back(trellis[column].push(t.k.back()));
    }
  }

  encode_blob(TileEncoder(codec), &t);
  return t;
}

struct Section {
  SectionType type;
  std::vector<uint8_t> bytes;
  bool deflated = false;
  bool optional = false;  ///< may be ignored by a reader that does not know the type
};

/// Sections 2 and 3: header, table, sections one after another.
inline std::vector<uint8_t> make_container(FileKind kind, const std::vector<Section>& sections) {
  std::vector<std::vector<uint8_t>> stored;
  ByteWriter table;
  uint64_t offset = 64 + 48 * sections.size();
  for (const Section& s : sections) {
    stored.push_back(s.deflated ? deflate_bytes(s.bytes) : s.bytes);
    table.write(static_cast<uint32_t>(s.type));
    table.write((s.deflated ? kSectionDeflated : 0) | (s.optional ? kSectionOptional : 0));
    table.write(offset);
    table.write(uint64_t{stored.back().size()});
    table.write(uint64_t{s.bytes.size()});
    table.write(s.type == SectionType::kData ? 0u : crc32(stored.back()));
    table.write(uint32_t{0});
    table.write(uint64_t{0});
    offset += stored.back().size();
  }
  ByteWriter out;
  out.write_bytes(kMagic);
  out.write(kVersionMajor);
  out.write(kVersionMinor);
  out.write(static_cast<uint32_t>(kind));
  out.write(offset);
  out.write(static_cast<uint32_t>(sections.size()));
  out.write(crc32(table.bytes()));
  for (int i = 0; i < 7; ++i) out.write(uint32_t{0});
  out.write(crc32(out.bytes()));
  out.write_bytes(table.bytes());
  for (const auto& s : stored) out.write_bytes(s);
  return out.take();
}

/// A raw tensor of `bytes`, stored deflated or not.
inline TestTensor make_raw_tensor(const std::string& name, std::vector<uint8_t> bytes, bool deflated) {
  TestTensor t;
  t.record.name = name;
  t.record.storage = deflated ? Storage::kRawDeflated : Storage::kRaw;
  t.record.dtype = Dtype::kU8;
  t.record.shape = {bytes.size()};
  t.blob = deflated ? deflate_bytes(bytes) : std::move(bytes);
  t.record.size = t.blob.size();
  t.record.crc = crc32(t.blob);
  return t;
}

/// A whole model file; tensors get their offsets here, each in a group of its own.
inline std::vector<uint8_t> make_file(const CodecRecord& codec, std::vector<TestTensor>* tensors) {
  ByteWriter data;
  std::vector<TensorRecord> records;
  for (TestTensor& t : *tensors) {
    while (data.size() % 64 != 0) data.write(uint8_t{0});
    t.record.group = static_cast<uint32_t>(records.size());
    t.record.offset = data.size();
    data.write_bytes(t.blob);
    records.push_back(t.record);
  }
  return make_container(FileKind::kModel, {{SectionType::kCodec, serialize(codec)},
                                           {SectionType::kTensors, serialize(records), true},
                                           {SectionType::kProvenance, serialize(Metadata{{"encoder", "reference"}})},
                                           {SectionType::kData, data.take()},
                                           {SectionType::kQuality, serialize(Metadata{{"tokens", "0"}})}});
}

/// A file in memory, opened, and what it was made of.
struct TestModel {
  CodecRecord codec;
  std::vector<TestTensor> tensors;
  std::vector<uint8_t> bytes;
  std::unique_ptr<NwcFile> file;
  DecodeTables tables;
};

inline Result<TestModel> make_model(CodecRecord codec, std::vector<TestTensor> tensors) {
  TestModel m{.codec = std::move(codec), .tensors = std::move(tensors), .bytes = {}, .file = nullptr, .tables = {}};
  m.bytes = make_file(m.codec, &m.tensors);
  NWC_ASSIGN_OR_RETURN(m.file, NwcFile::open(make_memory_reader(m.bytes)));
  m.tables = build_decode_tables(*m.file->codec());
  return m;
}

}  // namespace nwc::reference
