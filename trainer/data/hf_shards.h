// Finds the tensors of the model in a Hugging Face folder, which may be spread over several safetensors files.
#pragma once

#include "trainer/data/hf_folder.h"
#include "trainer/data/safetensors_source.h"

namespace nwc {

/// Adds the tensors of model.safetensors, or those that model.safetensors.index.json lists, or those of every
/// *.safetensors file. The index decides where a tensor is read; what it does not list is left out with a note. A
/// tensor that is not in its file is taken from another one of the index, with a note. errors: kUnrecognized (no
/// safetensors file), kCorrupt (a shard is missing; a path leads outside of the folder; without
///         an index: a name occurs in two files), those of SafetensorsSource::add_file
Status add_hf_tensors(const HfFolder& folder, SafetensorsSource* source);

}  // namespace nwc
