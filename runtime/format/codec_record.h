// The CODEC section: synthesis network g_s, levels, frozen integer tables (doc/format.md, section 4).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "runtime/base/bytes.h"
#include "runtime/format/constants.h"

namespace nwc {

enum class Preset : uint8_t { kLinear = 0, kSmall = 1, kPaper = 2, kOther = 3 };
enum class Quantizer : uint8_t { kScalar = 0, kTrellis = 1 };
/// The second index of the context map: what besides level and bank selects a symbol's table.
enum class ContextKind : uint8_t { kChannel = 0, kRowClass = 1 };
enum class Activation : uint8_t { kNone = 0, kRelu = 1, kSilu = 2 };

/// One frozen frequency table. Symbol n-1 is the escape; symbol s < n-1 stands for the values
/// ((s + min) << raw_bits) + raw, raw in [0, 2^raw_bits).
struct FrequencyTable {
  uint8_t raw_bits = 0;
  int16_t min = 0;
  std::vector<uint16_t> freq;  ///< n entries, 1..4096, sum 4096
};

/// The numbers of a synthesis or analysis network, as f32 (f16 numbers are widened). Weights are matrices [out][in],
/// row-major. The names are those of doc/format.md, section 4.
struct NetworkBlock {
  std::vector<float> weight, bias;          ///< [w][w], [w]
  std::vector<float> norm_gain, norm_bias;  ///< [w] each; empty without LayerNorm
};
struct Network {
  uint32_t width = 0;  ///< w; 0: there is nothing but skip_weight
  Activation activation = Activation::kNone;
  bool layer_norm = false;
  std::vector<float> input_weight, input_bias;  ///< [w][16], [w]
  std::vector<NetworkBlock> blocks;
  std::vector<float> output_weight, output_bias;  ///< [16][w], [16]
  std::vector<float> skip_weight;                 ///< [16][16]
  std::vector<float> level_embedding;             ///< [blocks][K][w]

  /// Multiply-accumulates per weight of the chunk, with the first block's weight folded into 16 columns (doc/format.md,
  /// section 5.5): (16 w + 16 w + (B - 1) w^2 + 16 w + 256) / 16 with B > 0 blocks.
  double mac_per_weight() const;
  /// Whether the synthesis leaves its input as it is: there is no network, and skip_weight is the identity matrix.
  bool is_identity() const;
};

struct CodecRecord {
  Preset preset = Preset::kLinear;
  Quantizer quantizer = Quantizer::kScalar;
  uint8_t trellis_bits = 0;  ///< v, kTrellis only: 2^v states; see find_trellis()
  ContextKind context_kind = ContextKind::kChannel;
  bool f16_weights = false;  ///< the network's numbers are stored as f16 (they are exactly representable then)
  uint32_t num_levels = 0;   ///< K
  uint64_t codec_id = 0;
  std::vector<float> step, shrink, rate;  ///< [K] each
  Network synthesis;                      ///< g_s
  std::vector<uint16_t> context_map;      ///< [K][16][num_banks()]
  std::vector<FrequencyTable> tables;

  uint32_t num_banks() const { return quantizer == Quantizer::kTrellis ? 2 : 1; }
  /// context: channel or row class, below 16
  uint16_t table_of(uint32_t level, uint32_t context, uint32_t bank = 0) const {
    return context_map[(size_t{level} * kChunk + context) * num_banks() + bank];
  }
};

/// Everything section 4 demands. The message names the field.
Status validate(const CodecRecord& record);
/// Parses and validates.
Result<CodecRecord> parse_codec_record(Bytes section, uint64_t file_offset);
std::vector<uint8_t> serialize(const CodecRecord& record);
/// FNV-1a of the serialized record with a zero id.
uint64_t compute_codec_id(CodecRecord record);

/// One network as section 4 item 4 lays it out; used by CODEC and, in the trainer, by ANALYSIS. `num_levels` sizes
/// level_embedding.
Status parse_network(ByteReader* reader, uint32_t width, uint32_t num_blocks, Activation activation, bool layer_norm,
                     bool f16, uint32_t num_levels, Network* out);
void write_network(ByteWriter* writer, const Network& network, bool f16);

}  // namespace nwc
