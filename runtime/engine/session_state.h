// A sequence and what its tokens left in the KV cache, as bytes: kept by one session, taken up by another one of the
// same file (doc/architecture.md, "A sequence kept").
#pragma once

#include <vector>

#include "runtime/format/nwc_file.h"
#include "runtime/graph/model_layout.h"

namespace nwc {

/// Where the keys and values lie in these bytes that a token at position `length` sees: layer after layer, of each
/// position from the oldest on first keys, then values, [num_kv_heads][head_dim] each.
class KeptCache {
 public:
  struct Layer {
    uint64_t at = 0;              ///< bytes in front of it
    uint32_t begin = 0, end = 0;  ///< positions
    uint32_t kv_heads = 0;        ///< rows of keys of a position, and as many of values
    uint32_t row_bytes = 0;       ///< of one head's key or value
    uint64_t half() const { return uint64_t{kv_heads} * row_bytes; }
    /// Of a position's keys (half 0) or values (half 1).
    uint64_t offset(uint32_t position, uint32_t half_number = 0) const {
      return at + (uint64_t{position - begin} * 2 + half_number) * half();
    }
  };
  KeptCache(const ModelLayout& layout, uint32_t length, Dtype kv_dtype);
  const std::vector<Layer>& layers() const { return layers_; }
  uint64_t bytes() const { return bytes_; }

 private:
  std::vector<Layer> layers_;
  uint64_t bytes_ = 0;
};

struct SequenceState {
  uint32_t file_identity = 0;  ///< the sections' types, sizes and checksums, but for what may be added later
  Dtype kv_dtype = Dtype::kF16;
  uint32_t cached = 0;  ///< tokens whose keys and values are there; the others come first when it goes on
  std::vector<uint32_t> tokens;
  Bytes cache;  ///< KeptCache of `cached` tokens; a view
};

uint32_t file_identity(const NwcFile& file);

/// Bytes of a state of so many tokens, of which so many are cached.
uint64_t state_bytes(const ModelLayout& layout, size_t tokens, uint32_t cached, Dtype kv_dtype);
/// Writes all but the cache, of which it gives the place in out. out: of state_bytes()
MutableBytes begin_state(const SequenceState& state, MutableBytes out);
/// Writes the checksum over what is there.
void end_state(MutableBytes out);
/// Believes nothing. errors: kUnrecognized (no state), kUnsupportedVersion, kTruncated, kChecksum, kCorrupt (sizes or
/// tokens that the model cannot have), kInvalidArgument (of another file, or with keys of another type)
Result<SequenceState> parse_state(Bytes bytes, const ModelLayout& layout, uint32_t identity, Dtype kv_dtype);

}  // namespace nwc
