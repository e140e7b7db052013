// Families of mixtures of experts, and the one whose dense models have the same configuration.
#pragma once

#include "trainer/data/hf_family.h"

namespace nwc {

Status read_mixtral(ConfigReader& c, ModelRecord* m);
Status read_qwen2_moe(ConfigReader& c, ModelRecord* m);
Status read_qwen3_moe(ConfigReader& c, ModelRecord* m);
Status read_olmoe(ConfigReader& c, ModelRecord* m);
Status read_granite_dense(ConfigReader& c, ModelRecord* m);
Status read_granite_moe(ConfigReader& c, ModelRecord* m);
Status read_granite_moe_shared(ConfigReader& c, ModelRecord* m);
Status read_gpt_oss(ConfigReader& c, ModelRecord* m);

/// The forms of tensors of a layer whose experts are stacked, as Granite has them and as GPT-OSS has them.
SourceForm stacked_form(Role role);
SourceForm gpt_oss_form(Role role);

}  // namespace nwc
