// What `nwc info` knows of a file, as JSON, for it and for `nwc report`.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "host-tools/model_input.h"
#include "runtime/engine/session_cost.h"
#include "trainer/inspect/info.h"

namespace nwc::cli {

/// What the file costs on this device.
struct Prediction {
  std::string device;
  double mac_per_weight = 0;
  SessionRates rates;
  double decode_seconds = 0;  ///< of all coded tensors
  struct Mode {
    SessionMode mode;
    SessionCost cost;
  };
  std::vector<Mode> modes;  ///< without a description of the network: none
};

/// Measures rates for about 0.1 s each. errors: those of the decoder
Result<Prediction> predict(const NwcFile& file, const DecoderHandle& decoder, uint64_t coded_weights);

/// The names that a user sees.
const char* system_name(ChatSystem system);
std::string storage_name(const TensorInfo& t);
/// By how much these bytes exceed an ideal code, in percent; 0 if that is not known.
double percent_over(double bytes, double ideal_bits);
/// Why a section that is there cannot be used; empty where it can, or is not there.
std::string unusable(const NwcFile& file, SectionType type, const Status& status);

nlohmann::json codec_json(const CodecRecord& codec);
/// compressed: it is a .nwc file, not the image of an uncompressed model
nlohmann::json info_json(const std::string& path, const NwcFile& file, const ModelInfo& info,
                         const std::optional<Prediction>& prediction, bool compressed);

}  // namespace nwc::cli
