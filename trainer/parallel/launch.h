// How launchers tell a process that it is one of several.
#pragma once

#include <cstdint>

namespace nwc {

/// Returns how many processes mpirun, mpiexec or srun has started together with this one, by their environment
/// variables; 1: none of them has. MPI_Init without a launcher takes time and may fail.
uint32_t launched_ranks();

}  // namespace nwc
