// The forms in which a Hugging Face checkpoint holds a model's tensors, for those who write one.
#pragma once

#include <string>
#include <unordered_map>

#include "runtime/format/model_record.h"
#include "trainer/data/source_form.h"

namespace nwc {

struct HeldForm {
  SourceForm form = SourceForm::kPlain;
  uint32_t heads = 0;  ///< of kQkvByHead
  /// That the checkpoint has; empty: the model's own. Tensors that have the same one lie in one: experts, and gate and
  /// up, which come one below the other before the form changes.
  std::string name = {};
  uint32_t expert = 0;     ///< place in the one tensor
  uint32_t part = 0;       ///< of a matrix that several tensors make: 0 is the uppermost
  bool minus_one = false;  ///< a norm's gain, of which the checkpoint holds what is added to 1, in F32
};

/// By name: tensors of `model` that a checkpoint with this config.json holds in another form than the plain one. Empty
/// for a configuration that is not understood.
std::unordered_map<std::string, HeldForm> held_forms(const ModelRecord& model, Bytes config);

}  // namespace nwc
