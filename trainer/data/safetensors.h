// The safetensors format: u64 header length, JSON header, tensors back to back.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/reader.h"
#include "runtime/format/dtype.h"
#include "trainer/data/source_notes.h"

namespace nwc {

struct SafetensorsTensor {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<uint64_t> shape;
  uint64_t offset = 0;      ///< from the start of the file
  uint64_t size_bytes = 0;  ///< product of shape * element size
};

struct SafetensorsHeader {
  std::vector<SafetensorsTensor> tensors;  ///< in file order
  std::map<std::string, std::string> metadata;
  SourceNotes notes;  ///< what is odd and costs no weights: a tensor without a name, metadata that is no text
};

/// Reads and checks the header; tensor data is not touched.
/// safety: untrusted input; every returned range lies in the file and no two overlap
/// A tensor without a name gets one, and metadata that is no text is left out; the notes say so.
/// errors: kTruncated, kCorrupt (JSON, duplicate names, ranges that overlap, leave holes, or disagree with the shape),
///         kUnsupported (element type, names the tensor), kLimit (header over 100 MB, tensor_limits.h)
Result<SafetensorsHeader> read_safetensors_header(const Reader& reader);

/// Fills `bytes` (any previous content, to be resized) with tensor `index`.
using TensorProducer = std::function<Status(size_t index, std::vector<uint8_t>* bytes)>;

/// Writes tensors in the given order (name, dtype and shape are used), one in memory at a time. The file appears under
/// its name only when it is complete. Same input, same bytes.
/// errors: the producer's, kInvalidArgument (duplicate or empty name, wrong number of bytes), kIo
Status write_safetensors(const std::string& path, std::span<const SafetensorsTensor> tensors,
                         const std::map<std::string, std::string>& metadata, const TensorProducer& produce);

/// The same in several files where one would hold more than `max_bytes` of tensors (0: one file): "m.safetensors"
/// becomes "m-00001-of-00003.safetensors" and so on, and "m.safetensors.index.json" says which file holds a tensor, as
/// transformers and huggingface_hub write and read it. A tensor that is larger has a file of its own. All files are
/// written before the first appears under its name, the index last. path: ends in ".safetensors" with max_bytes.
/// errors: as write_safetensors; kInvalidArgument (path)
Status write_safetensors_shards(const std::string& path, std::span<const SafetensorsTensor> tensors,
                                const std::map<std::string, std::string>& metadata, uint64_t max_bytes,
                                const TensorProducer& produce);

}  // namespace nwc
