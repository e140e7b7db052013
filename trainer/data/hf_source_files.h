// The files of a Hugging Face folder that a .nwc file keeps.
#pragma once

#include <string>

#include "trainer/data/source_record.h"

namespace nwc {

/// Configurations, tokenizers, chat templates, preprocessors, the code that config.json may name, model card and
/// license, as far as they lie in the folder itself; never weights, and no file whose name is not known. In order of
/// names. errors: kIo
Result<SourceFiles> collect_hf_files(const std::string& folder);

}  // namespace nwc
