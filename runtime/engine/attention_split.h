// How a device's attention is divided among workgroups (shaders/attention.comp).
#pragma once

#include "runtime/graph/model_layout.h"

namespace nwc {

/// Positions that a workgroup has in hand at a time; pieces are multiples of it.
inline constexpr uint32_t kSplitBlock = 64;

/// A workgroup takes tile_heads * tile_tokens queries of one KV head, and `piece` of the positions.
struct AttentionSplit {
  uint32_t tile_heads = 1, head_tiles = 1;    ///< of a KV head's group, and how many of them
  uint32_t tile_tokens = 1, token_tiles = 1;  ///< of the batch, and how many of them
  uint32_t queries = 1;                       ///< the kernel's variant: a power of two, at least those of a tile
  uint32_t origin = 0;                        ///< the first position that any token sees: of the first piece
  uint32_t piece = 0, pieces = 1;             ///< positions of a piece, and how many of them

  /// Bytes of partial results, of several pieces; the statistics follow the sums.
  uint64_t partial_bytes(const BlockSpec& block, uint32_t tokens) const;
};

/// Of tokens at positions position, position + 1, ...; not more pieces than partial_bytes have room for.
AttentionSplit split_attention(const BlockSpec& block, uint32_t tokens, uint32_t position, uint64_t partial_bytes);

/// What split_attention() asks for at most; 0 where nothing is split.
uint64_t attention_partial_bytes(const BlockSpec& block, uint32_t context, uint32_t batch);

}  // namespace nwc
