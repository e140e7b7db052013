// The families of models that a config.json may describe: which architecture has which kind of blocks, and what its
// tensors are called. To add an architecture, add a row (doc/architecture.md).
#pragma once

#include <span>

#include "runtime/format/model_record.h"
#include "trainer/data/config_reader.h"
#include "trainer/data/source_form.h"

namespace nwc {

struct Family {
  const char* architecture;  ///< in "architectures"
  const char* model_type;    ///< in "model_type"
  std::vector<TensorName> (*names)();
  Status (*read)(ConfigReader& config, ModelRecord* model);
  /// The form of a role's tensors in a Hugging Face checkpoint.
  SourceForm (*form)(Role role);
};

std::span<const Family> hf_families();
/// nullptr: unknown. Either name may be empty.
const Family* find_family(const std::string& architecture, const std::string& model_type);
/// "LlamaForCausalLM, MistralForCausalLM, ...", for messages.
std::string known_architectures();

/// Gives each layer its spec: equal ones become one kind.
Status set_layers(const std::vector<BlockSpec>& layers, ModelRecord* model);

}  // namespace nwc
