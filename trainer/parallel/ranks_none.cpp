// join_ranks of a build without MPI.
#include "trainer/parallel/launch.h"
#include "trainer/parallel/ranks.h"

namespace nwc {

Result<std::unique_ptr<Ranks>> join_ranks(std::function<bool()>) {
  // Several commands would each do all of the work, and replace each other's output.
  if (launched_ranks() > 1)
    return unsupported("this build has no MPI and cannot share work with other ranks; configure with -DNWC_MPI=ON");
  return std::make_unique<Ranks>();
}

}  // namespace nwc
