// What a session will take in time: predicted before it is made, from rates measured on this machine
// (doc/architecture.md, "Cost prediction").
#pragma once

#include <algorithm>

#include "runtime/decoder/decode_rate.h"
#include "runtime/engine/session.h"

namespace nwc {

/// Of this machine with this file. 0: does not apply, because nothing is coded.
struct SessionRates {
  double decoded_weights = 0;  ///< per second, by the session's decoder
  double fused_weights = 0;    ///< per second, by products with coded weights
  double memory_bytes = 0;     ///< per second: decoded weights that a product with one token reads
  double read_bytes = 0;       ///< per second: experts from the file, read ahead; 0: no time is counted for reading
};
/// Takes about 0.1 s, more only where decoding 16 rows does. errors: those of decoding
Result<SessionRates> measure_session_rates(const NwcFile& file, Decoder& decoder, Runner& runner);

struct SessionCost {
  double mac_per_weight = 0;       ///< of the synthesis network
  uint64_t resident_weights = 0;   ///< coded weights that are decoded once
  uint64_t weights_per_token = 0;  ///< coded weights that are decoded or multiplied anew for every token
  double load_seconds = 0;
  double expert_hits = 1;             ///< the share of a token's experts that is taken to lie in memory
  uint64_t read_bytes_per_token = 0;  ///< of the file, for experts that do not
  double decode_seconds_per_token = 0;
  double read_seconds_per_token = 0;      ///< for those experts, which are decoded meanwhile
  double multiply_seconds_per_token = 0;  ///< with weights that are decoded
  double seconds_per_token() const {
    return std::max(decode_seconds_per_token, read_seconds_per_token) + multiply_seconds_per_token;
  }
};

/// For tokens that are generated one by one; attention and the look-up of the embedding are left out.
/// plan: mode, resident_layers, embedding_resident and head_resident count.
/// errors: those of plan_session
Result<SessionCost> session_cost(const NwcFile& file, const MemoryPlan& plan, Dtype weight_dtype,
                                 const SessionRates& rates);

}  // namespace nwc
