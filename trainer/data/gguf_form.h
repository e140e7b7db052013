// A model as an architecture of GGUF: which one describes it, its metadata, and the form of its tensors.
#pragma once

#include <string>
#include <vector>

#include "trainer/data/gguf_family.h"
#include "trainer/data/gguf_write.h"

namespace nwc {

/// What a tensor of a GGUF file takes of a tensor of a model: all of it, or the first or the second half of each of
/// `groups` equal groups of its elements (gate and up of a tensor that has both).
struct GgufPart {
  enum class Half : uint8_t { kWhole, kFirst, kSecond };
  std::string tensor;  ///< the model's name for it
  Half half = Half::kWhole;
  uint32_t groups = 1;
};

/// A tensor of a GGUF file: parts of the model's, one behind the other.
struct GgufPlace {
  std::string name;
  std::vector<GgufPart> parts = {};
  bool stacked = false;          ///< a part is an expert's; the experts are the first dimension
  bool f32 = false;              ///< whatever the type of other matrices: llama.cpp has no other form of it
  bool plus_one = false;         ///< a norm's gain, of which the model uses 1 + what it stores
  uint32_t rotary_head_dim = 0;  ///< rows of a head that are put in the order of gguf_rotary_row; 0: none
};

struct GgufForm {
  const GgufArchitecture* architecture = nullptr;
  std::vector<GgufPlace> tensors;
  std::vector<std::string> factors;  ///< tensors of rotary factors (rope_factors)
  std::vector<std::string> notes;    ///< what llama.cpp does otherwise, a sentence each
};

/// Of the architectures that say everything, in the order of gguf_architectures, the first: what is written is read
/// back and compared with the model. errors: kUnsupported, naming what the architecture that comes closest cannot say
Result<GgufForm> find_gguf_form(const ModelRecord& model);

/// The keys of a model as `architecture`, without what no architecture has a key for. Of the tokens that end a text the
/// first kMaxGgufEndTokens are taken.
void add_gguf_model(const ModelRecord& model, const GgufArchitecture& architecture, GgufMetadata* metadata);

/// GGUF names the end of a text, of a turn and of a message, no more.
inline constexpr size_t kMaxGgufEndTokens = 3;

}  // namespace nwc
