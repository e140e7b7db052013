// ggml's tensor types and their values as f32.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "runtime/base/bytes.h"
#include "runtime/format/dtype.h"

namespace nwc {

struct GgmlType {
  uint32_t id;              ///< as in the file
  const char* name;         ///< "Q4_1"
  uint32_t block_elements;  ///< consecutive elements of a row that are stored together; 1 for plain types
  uint32_t block_bytes;
  Dtype dtype;  ///< of the decoded elements: the type itself for plain types, kF32 for quantized ones
  void (*decode)(const uint8_t* block, float* out);  ///< a block of a quantized type; nullptr for plain types
  void (*encode)(const float* values, uint8_t* block) = nullptr;  ///< nullptr where nothing is written in this type

  bool quantized() const { return decode != nullptr; }
};

/// The type with this number, or nullptr where it cannot be read.
const GgmlType* find_ggml_type(uint32_t id);

/// The plain type of these elements, or nullptr where ggml has none.
const GgmlType* find_ggml_type(Dtype dtype);
/// Of the table, by its name.
const GgmlType* find_ggml_type(std::string_view name);

/// Name of any type that ggml has had, for messages; "type 99" for others.
std::string ggml_type_name(uint32_t id);

/// Decodes whole blocks of a quantized type.
/// shapes: blocks [n][block_bytes]; out [n * block_elements]
/// safety: any bytes decode to something; scales may hold NaN or infinity, and so may the output
void dequantize(const GgmlType& type, Bytes blocks, std::span<float> out);

}  // namespace nwc
