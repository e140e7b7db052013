// A square layer of Gaussian weights with a Hessian, and the steps of coding it.
#pragma once

#include "trainer/plan/rate_control.h"
#include "trainer/search/tensor_encode.h"

namespace nwc::bench {

class EncodeLayer {
 public:
  /// n x n; the runner must outlive it. Factors the Hessian.
  EncodeLayer(size_t n, Runner& runner);

  void factor();
  /// For the steps below: a trellis of 2^state_bits states (0: scalar), 4 bits per weight.
  void choose(uint32_t state_bits);
  /// feedback: LDLQ.
  void search(bool feedback);
  /// rANS, of what the last search found.
  void encode();

 private:
  const size_t n_;
  Runner& runner_;
  std::vector<float> w_, hessian_;
  Result<FeedbackFactors> factors_;
  CodecModel ladder_;
  TensorSteps steps_;
  uint32_t state_bits_ = 0;
  std::unique_ptr<TableCosts> costs_;
  std::unique_ptr<EncodeTables> tables_;
  QuantizedTensor quantized_;
};

}  // namespace nwc::bench
