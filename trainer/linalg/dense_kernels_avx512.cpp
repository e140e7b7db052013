// Compiled for AVX-512. Eigen gets another namespace: else the linker would take its templates from here for files that
// have to run on other processors.
#define Eigen EigenAvx512
#define NWC_KERNELS kDenseKernelsAvx512
#define NWC_KERNELS_LEVEL CpuLevel::kAvx512
#include "trainer/linalg/dense_kernels.inc"
