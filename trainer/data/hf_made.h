// A Hugging Face folder for a model that has none: which family describes it, its config.json, and the form of its
// tensors. The inverse of hf_config.h.
#pragma once

#include "runtime/format/dtype.h"
#include "trainer/data/hf_family.h"
#include "trainer/data/hf_forms.h"

namespace nwc {

struct HfMade {
  const Family* family = nullptr;
  std::unordered_map<std::string, HeldForm> tensors;  ///< by the model's name for them
};

/// Of the families that say everything, in the order of hf_family.h, the first: what is written is read back and
/// compared with the model. errors: kUnsupported, naming what the family that comes closest cannot say
Result<HfMade> find_hf_family(const ModelRecord& model);

/// config.json of a family. tokenizer: nullptr where there is none.
std::string make_hf_config(const ModelRecord& model, const Family& family, const TokenizerRecord* tokenizer,
                           Dtype dtype);

}  // namespace nwc
