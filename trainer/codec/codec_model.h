// A codec as the encoder sees it: the decoder's half (CodecRecord) and the analysis network g_a.
// doc/format.md section 4 and doc/format_codec.md.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "runtime/base/reader.h"
#include "runtime/format/codec_record.h"
#include "runtime/format/container.h"

namespace nwc {

/// Non-parametric fully factorized density of Balle et al. 2018 (arXiv:1802.01436, appendix 6.1), one per channel,
/// over latents in units of the signal (not of the step). Only training and the fitting of tables use it.
struct EntropyParameters {
  static constexpr uint32_t kFilters[5] = {1, 3, 3, 3, 1};  ///< widths of the monotone network
  std::vector<float> matrix, bias, factor;                  ///< all channels, all layers; layout in format_codec.md
  std::vector<float> quantiles;                             ///< [16][3]: lower, median, upper
  std::vector<float> level_scale;                           ///< [K]: latents of level l are multiplied by it first
};

struct CodecModel {
  CodecRecord record;  ///< numbers of g_s already rounded to the stored type
  Network analysis;    ///< g_a, f32, same family as g_s: 16 -> 16
  EntropyParameters entropy;
  std::vector<float> lambda;  ///< [K] training trade-off of each level
  Metadata provenance;
  std::string name;  ///< file name without folder and suffix
};

/// kind must be kCodec. Errors name the file and field.
Result<CodecModel> load_codec(const std::string& path);
/// Atomic: temporary name, then rename.
Status save_codec(const CodecModel& model, const std::string& path);

/// Latents in units of the level's step, before quantization: u = g_a(x, level) / step[level].
/// shapes: x, u [num_chunks][16]; level [num_chunks]. x is normalised to unit deviation.
/// The integer value nearest to u (adjusted by rate-distortion decisions) is what rANS codes.
void analyze_chunks(const CodecModel& model, std::span<const float> x, const uint8_t* level, std::span<float> u);

}  // namespace nwc
