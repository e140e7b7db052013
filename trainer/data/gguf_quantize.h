// Quantizes rows to ggml's types, as llama.cpp's reference does.
#pragma once

#include "runtime/base/status.h"
#include "runtime/base/thread_pool.h"
#include "trainer/data/gguf_dequant.h"

namespace nwc {

/// Encodes whole blocks of a type with an encoder. The same bytes at any number of threads.
/// shapes: values [n * block_elements] of F32; out [n][block_bytes]
/// first: number of the first value in its tensor, for messages
/// errors: kUnsupported: a value that is not finite, or a block whose scale is beyond half floats (weights above some
/// 10^6); llama.cpp refuses both, too
Status quantize(const GgmlType& type, uint64_t first, Bytes values, Runner& runner, MutableBytes out);

}  // namespace nwc
