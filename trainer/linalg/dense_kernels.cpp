#define NWC_KERNELS kDenseKernelsCompiledFor
#define NWC_KERNELS_LEVEL CpuLevel::kScalar
#include "trainer/linalg/dense_kernels.inc"

namespace nwc {

extern const DenseKernels kDenseKernelsAvx512;

const DenseKernels& dense_kernels([[maybe_unused]] CpuLevel most) {
#ifdef NWC_TRAINER_AVX512
  if (most >= CpuLevel::kAvx512) return kDenseKernelsAvx512;
#endif
  return kDenseKernelsCompiledFor;
}

const DenseKernels& dense_kernels() {
  static const DenseKernels& of_this_machine = dense_kernels(detect_cpu_level());
  return of_this_machine;
}

}  // namespace nwc
