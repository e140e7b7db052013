// What llama.cpp calls a file's type: the type of most matrices, and the rules by which some get another.
#pragma once

#include <string>
#include <vector>

#include "trainer/data/gguf_file.h"
#include "trainer/data/gguf_write.h"

namespace nwc {

struct GgufFileType {
  const char* name;      ///< "q4_k_m", as in options
  uint32_t id;           ///< value of general.file_type
  const char* matrices;  ///< "Q4_K": the type of matrices that no rule speaks of

  const GgmlType& type() const { return *find_ggml_type(matrices); }
  /// Of matrices before the rules: themselves, or F32.
  Dtype plain_dtype() const { return type().dtype; }
  bool quantized() const { return type().quantized(); }
};

/// f32, f16, bf16, q8_0, q6_k, q5_k_m and q4_k_m; nullptr for other names.
const GgufFileType* find_gguf_file_type(const std::string& name);

/// The version of the quantized formats, value of general.quantization_version.
inline constexpr uint32_t kGgufQuantizationVersion = 2;

/// Gives tensors the types that llama.cpp's llama-quantize gives those of the same file, without an importance matrix:
/// by name, place among the layers, shape, architecture and number of experts. tensors: as a file of type f32 has them.
/// `notes` receives a sentence for each type that rows have instead of another, because they are not whole blocks of
/// it. Source of the rules: llama.cpp, src/llama-quant.cpp of October 2026.
/// type: a quantized one. metadata: of the same file. errors: kCorrupt (keys of another type than llama.cpp's)
Status choose_gguf_types(const GgufFileType& type, const GgufFile& metadata, std::span<GgufTensorSpec> tensors,
                         std::vector<std::string>* notes);

}  // namespace nwc
