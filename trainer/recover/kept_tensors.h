// Files of floats in which unfinished work is kept, so that an interrupted run can go on. Each says whose it is, and
// has a CRC-32.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/status.h"

namespace nwc {

struct KeptTensor {
  std::string name;
  std::vector<uint64_t> shape;
  std::span<float> values;
};

/// What is kept beside the tensors, by key. "recovery" and "crc32" are taken.
using KeptNotes = std::map<std::string, std::string>;

/// A safetensors file, all F32. owner: names everything that the values depend on. errors: kIo
Status write_kept_tensors(const std::string& path, const std::string& owner, std::span<const KeptTensor> tensors,
                          const KeptNotes& notes);
/// safety: untrusted input; what *tensors refers to is of no use after an error. notes: those wanted, by their keys
/// errors: kCorrupt (of another owner, other tensors or notes, values that are not finite), kChecksum, kIo
Status read_kept_tensors(const std::string& path, const std::string& owner, std::span<const KeptTensor> tensors,
                         KeptNotes* notes);

}  // namespace nwc
