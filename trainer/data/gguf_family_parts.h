// What the readers of GGUF's architectures share.
#pragma once

#include <string>

#include "runtime/format/model_record.h"
#include "trainer/data/gguf_file.h"
#include "trainer/data/gguf_model.h"

namespace nwc {

/// What an architecture's reader works with.
struct GgufContext {
  const GgufFile& file;
  std::string prefix;  ///< "gemma3."
  ModelRecord* model;
  BlockSpec block;  ///< sizes and rotary positions are read

  template <typename T>
  Status get(const char* key, T* out) const {
    return file.get(prefix + key, out);
  }
  bool has(const char* key) const { return file.has(prefix + key); }
  bool has_tensor(const char* name) const { return find_gguf_tensor(file, name) != nullptr; }
  uint32_t layers() const { return model->num_layers; }
};

/// Layers of `full`, those that slide of `local` with the window that the file names. Which slide: the list in the
/// file, or all but every n-th, where the file has the n.
Status set_sliding(const GgufContext& c, const BlockSpec& full, BlockSpec local, uint32_t n);
/// Every layer slides, unless the file says otherwise.
Status uniform(const GgufContext& c);
/// Biases that the first layer has.
void read_biases(GgufContext& c);
/// The scales of Granite.
Status read_granite_scales(GgufContext& c);

}  // namespace nwc
