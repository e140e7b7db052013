// Makes the tensors of a GGUF file, for files and for programs that take them as they come.
#pragma once

#include "runtime/base/thread_pool.h"
#include "trainer/inspect/gguf_plan.h"
#include "trainer/inspect/tensor_output.h"

namespace nwc {

class GgufTensors {
 public:
  /// All outlive this. Progress is in weights.
  GgufTensors(const NwcFile& file, Decoder& decoder, Runner& runner, const GgufPlan& plan, const Progress& progress)
      : file_(file), runner_(runner), plan_(plan), output_(file, decoder, plan.weights, progress) {}

  /// Bytes of plan.tensors[index], as its type has them. What it takes besides is a band of rows as F32 where they are
  /// quantized, and a tensor of the compressed file where that is only a part of it.
  /// out: as many bytes as make_gguf_header says. errors: those of the decoder, kUnsupported (a weight beyond the range
  /// of F16, or that quantize refuses), kInvalidArgument (size of `out`), kCancelled
  Status make(size_t index, MutableBytes out);

 private:
  Status decode(size_t index, MutableBytes out);

  const NwcFile& file_;
  Runner& runner_;
  const GgufPlan& plan_;
  TensorOutput output_;
};

}  // namespace nwc
