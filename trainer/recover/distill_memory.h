// What a distillation (distill_norms.h) holds in memory.
#pragma once

#include "trainer/llm/model_graph.h"
#include "trainer/recover/distill_norms.h"

namespace nwc {

/// Whether all layers are kept as floats; those of larger models are decoded for every pass.
bool keeps_layers(const ModelGraph& model);

/// About what distill_norms needs for so many tokens, whatever choices.tokens holds. errors: as distill_norms
Result<uint64_t> distill_memory_bytes(const ModelSource& source, const DistillChoices& choices, uint64_t tokens,
                                      uint32_t workers);

}  // namespace nwc
