// An uncompressed model as the encoder, the trainer and the evaluation see it: a Hugging Face directory, a GGUF file,
// or a bare safetensors file. Input is untrusted: everything is checked, nothing is loaded before it is asked for.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/base/reader.h"
#include "runtime/base/status.h"
#include "runtime/format/dtype.h"
#include "runtime/format/model_record.h"
#include "trainer/data/source_notes.h"
#include "trainer/data/source_record.h"

namespace nwc {

struct SourceTensor {
  std::string name;             ///< Hugging Face naming, GGUF names translated
  Dtype dtype = Dtype::kF32;    ///< of the bytes that read_raw returns (dequantized GGUF tensors: kF32)
  std::string stored_type;      ///< as in the file: "BF16", "Q4_1", ...
  std::vector<uint64_t> shape;  ///< row-major, outermost first
  uint64_t stored_bytes = 0;    ///< in the source file
  uint64_t num_elements() const {
    uint64_t n = 1;
    for (uint64_t d : shape) n *= d;  // the loaders have checked that this does not overflow
    return n;
  }
  uint64_t num_bytes() const { return dtype_bytes(dtype, num_elements()); }
};

/// Thread-safe for reading.
class ModelSource {
 public:
  virtual ~ModelSource() = default;
  virtual const std::vector<SourceTensor>& tensors() const = 0;
  /// row-major bytes in SourceTensor::dtype, SourceTensor::num_bytes. GGUF q/k projections are returned in
  /// Hugging Face row order (rotate-half RoPE).
  virtual Status read_raw(size_t tensor, MutableBytes out) const = 0;
  /// The model's description, where the source has one (config.json, GGUF metadata).
  virtual const std::optional<ModelRecord>& model() const = 0;
  virtual const std::optional<TokenizerRecord>& tokenizer() const = 0;
  /// Bytes of the tensors as stored in the source file(s).
  virtual uint64_t stored_bytes() const = 0;
  /// Why model() or tokenizer() is missing, what was left out of tensors(), and what was guessed or repaired. Commands
  /// show them; the encoder keeps them in the file.
  virtual const SourceNotes& notes() const;

  /// What describes the model beside its weights, as the source has it; nothing by default. Reads the files.
  virtual Result<SourceFiles> source_files() const;

  /// num_elements floats, from any dtype that dtype_is_float names. NaN or infinity: kCorrupt naming tensor and
  /// element.
  Result<std::vector<float>> read_f32(size_t tensor) const;
  /// The same, but NaN and infinity are delivered.
  Result<std::vector<float>> read_any_f32(size_t tensor) const;
  /// Index by name, or nullopt.
  std::optional<size_t> find(const std::string& name) const;
};

/// path: a directory with config.json and *.safetensors (sharded through model.safetensors.index.json too), a .gguf
/// file, or a .safetensors file (bare tensors, no model description). Errors name file, field, tensor and byte offset.
Result<std::unique_ptr<ModelSource>> open_model_source(const std::string& path);

}  // namespace nwc
