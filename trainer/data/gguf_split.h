// A GGUF model in several files, as llama.cpp's gguf-split makes them.
#pragma once

#include <string>

#include "trainer/data/gguf_file.h"

namespace nwc {

/// Opens the file. If its metadata say that it is one of several parts (split.count), all of them are opened, whichever
/// was given: their names end in "-00001-of-00003.gguf", and the first has the metadata of the model.
/// safety: untrusted input
/// errors: those of GgufFile::open; kIo (a part is missing: names it); kUnsupported (the name is not of that form);
///         kCorrupt (parts that do not belong together)
Result<GgufFile> open_gguf_parts(const std::string& path);

}  // namespace nwc
