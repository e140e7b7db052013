// What a session can hold decoded weights as: the one table that engine, C API and tools read.
#pragma once

#include <string_view>

#include "runtime/engine/session.h"

namespace nwc {

/// Numbered like nwc_precision (runtime/include/nwc/nwc.h).
enum class WeightType : uint8_t { kAuto = 0, kF32 = 1, kF16 = 2, kBf16 = 3, kQ8 = 4, kPacked = 5 };

struct WeightTypeInfo {
  const char* name;         ///< as in --weights
  IntegerWeights integers;  ///< what coded weights become; kNone: floats
  Dtype floats;             ///< what all weights become where none are integers
};
inline constexpr WeightTypeInfo kWeightTypes[] = {
    {"auto", IntegerWeights::kAuto, Dtype::kF16}, {"f32", IntegerWeights::kNone, Dtype::kF32},
    {"f16", IntegerWeights::kNone, Dtype::kF16},  {"bf16", IntegerWeights::kNone, Dtype::kBf16},
    {"q8", IntegerWeights::kQ8, Dtype::kF16},     {"packed", IntegerWeights::kPacked, Dtype::kF16},
};
inline constexpr size_t kNumWeightTypes = std::size(kWeightTypes);

constexpr const WeightTypeInfo& info_of(WeightType type) { return kWeightTypes[static_cast<size_t>(type)]; }

/// The type that floats of a dtype (kF32, kF16, kBf16), or else integers, are.
constexpr WeightType weight_type(IntegerWeights integers, Dtype floats) {
  size_t type = 0;
  while (kWeightTypes[type].integers != integers ||
         (integers == IntegerWeights::kNone && kWeightTypes[type].floats != floats))
    ++type;
  return static_cast<WeightType>(type);
}
inline WeightType weight_type(const MemoryPlan& plan) { return weight_type(plan.integers, plan.weight_dtype); }

/// name: one of the table's.
inline WeightType weight_type_named(std::string_view name) {
  size_t type = 0;
  while (kWeightTypes[type].name != name) ++type;
  return static_cast<WeightType>(type);
}

/// Asks for a type. Floats that are not asked for by name may become bf16.
inline void ask_for(WeightType type, SessionParams* params) {
  params->integers = info_of(type).integers;
  params->weight_dtype = info_of(type).floats;
  params->fit_weight_dtype = info_of(type).integers != IntegerWeights::kNone;
}

}  // namespace nwc
