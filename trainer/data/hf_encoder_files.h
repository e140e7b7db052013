// What files beside config.json say of an encoder: how texts are pooled (sentence-transformers), how large images are.
#pragma once

#include "trainer/data/hf_folder.h"
#include "trainer/data/safetensors_source.h"

namespace nwc {

/// Completes the description of an encoder by the tensors that the source has, and by the folder's modules.json,
/// *_Pooling/config.json, sentence_bert_config.json and preprocessor_config.json. Nothing for other models.
/// errors: kUnsupported (a module or a kind of pooling that the engine does not run), kCorrupt
Status settle_encoder(const HfFolder& folder, SafetensorsSource* source, ModelRecord* model);

}  // namespace nwc
