// The architectures of GGUF files, by llama.cpp's names: what their metadata mean, and what their tensors are called.
// To add one, add a row (doc/architecture.md).
#pragma once

#include "runtime/format/model_record.h"
#include "trainer/data/gguf_file.h"

namespace nwc {

class GgufMetadata;

/// Divisors of the rotary frequencies that llama.cpp looks for beside an architecture's tensors.
enum class GgufFactors : uint8_t {
  kNone,
  kLong,  ///< two lists, up to the trained length and beyond it
  kAny,   ///< two lists, or one (Llama 3)
};

/// Is a model of an architecture a mixture of experts?
enum class GgufExperts : uint8_t { kNever, kMay, kAlways };

/// What a file of an architecture may hold so that llama.cpp runs it.
struct GgufArchitecture {
  const char* name;
  bool rotates_neighbours = false;    ///< rows of q and k are in pairs that rotate (gguf_rotary_row)
  bool fused = false;                 ///< q, k, v are one tensor, and so are gate and up
  bool windows = false;               ///< layers may slide: other programs run the rest without their windows
  bool one_base = false;              ///< other programs rotate by one base, in layers that slide, too
  bool square = false;                ///< heads are as wide as the hidden size together
  bool whole_kv = false;              ///< as many heads of keys as of queries
  bool rounded_ramp = false;          ///< other programs round the bounds of YaRN's ramp
  bool tied = false, untied = false;  ///< the head must be the embedding, must not be it
  GgufExperts experts = GgufExperts::kNever;
  GgufFactors factors = GgufFactors::kNone;
  /// Adds the keys that this architecture alone has; nullptr: it has none.
  void (*write)(const ModelRecord& model, const std::string& prefix, GgufMetadata* metadata) = nullptr;
};
std::vector<const GgufArchitecture*> gguf_architectures();
/// nullptr: unknown.
const GgufArchitecture* find_gguf_architecture(const std::string& name);

/// llama.cpp's name for each role, q, k and v apart; the same for all families.
std::vector<TensorName> gguf_names();
/// The same as this architecture has them. fused_qkv: with q, k and v as one. experts: of a mixture.
std::vector<TensorName> gguf_names(const GgufArchitecture& architecture, bool fused_qkv, bool experts);

}  // namespace nwc
