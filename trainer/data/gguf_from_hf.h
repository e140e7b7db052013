// Makes the GGUF metadata that go beyond model and vocabulary from the files of a Hugging Face folder.
#pragma once

#include <string>
#include <vector>

#include "runtime/format/model_record.h"
#include "trainer/data/gguf_write.h"
#include "trainer/data/source_record.h"

namespace nwc {

/// Adds name, license, chat templates and padding token, as far as the files have them. `name` is used
/// if config.json has none, and may be empty. `notes` receives a sentence for each file that cannot be read.
void add_gguf_extras(const SourceRecord& source, const TokenizerRecord& tokenizer, const std::string& name,
                     GgufMetadata* metadata, std::vector<std::string>* notes);

}  // namespace nwc
