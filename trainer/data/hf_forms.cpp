#include "trainer/data/hf_forms.h"

#include "trainer/data/hf_config.h"
#include "trainer/data/hf_family.h"

namespace nwc {

std::unordered_map<std::string, HeldForm> held_forms(const ModelRecord& model, Bytes config) {
  std::unordered_map<std::string, HeldForm> forms;
  const Result<HfConfig> parsed = parse_hf_config(config, nullptr);
  if (!parsed.ok()) return forms;
  for (const TensorName& name : model.names) {
    const SourceForm form = parsed->family->form(name.role);
    if (form == SourceForm::kPlain) continue;
    for (uint32_t l = 0; l < model.num_layers; ++l) {
      const std::string held = is_stacked(form) ? stacked_name(name.pattern, l) : std::string();
      for (uint32_t e = 0; e < (of_expert(name.role) ? model.block(l).experts.num_experts : 1); ++e)
        forms.emplace(model.tensor_name(name.role, l, e),
                      HeldForm{.form = form, .heads = model.block(l).num_heads, .name = held, .expert = e});
    }
  }
  return forms;
}

}  // namespace nwc
