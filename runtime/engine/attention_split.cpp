#include "runtime/engine/attention_split.h"

#include <algorithm>
#include <bit>

#include "runtime/base/checked.h"

namespace nwc {
namespace {

/// Workgroups that fill a device. Vulkan does not say how many compute units there are: the largest devices have below
/// 200, and each hides the latency of memory behind several workgroups of 64. What a smaller device pays for more
/// pieces than it needs is little: partial results of the shortest ones, written and read, are an eighth of the bytes
/// of keys and values with four heads to a KV head.
constexpr uint32_t kFillingGroups = 1024;
/// Shorter ranges stay whole: what they would gain is less than the second dispatch and the barrier before it take.
constexpr uint32_t kLeastSplitBlocks = 4;

/// Queries of a tile: with heads of 256 numbers they take 8 KiB of shared memory, and a variant of 16 would take
/// drivers twice as long to compile.
constexpr uint32_t kMostQueries = 8;

uint64_t bytes_of_piece(const BlockSpec& block, uint32_t tokens) {
  return uint64_t{tokens} * block.num_heads * (block.head_dim + 2) * sizeof(float);
}

/// The tiles alone.
AttentionSplit tile(const BlockSpec& block, uint32_t tokens) {
  const uint32_t group = block.num_heads / block.num_kv_heads;
  AttentionSplit split;
  split.head_tiles = static_cast<uint32_t>(ceil_div(group, kMostQueries));
  split.tile_heads = static_cast<uint32_t>(ceil_div(group, split.head_tiles));
  split.tile_tokens = std::clamp(kMostQueries / split.tile_heads, 1u, tokens);
  split.token_tiles = static_cast<uint32_t>(ceil_div(tokens, split.tile_tokens));
  split.queries = std::bit_ceil(split.tile_heads * split.tile_tokens);
  return split;
}

/// Pieces that are wanted of so many positions.
uint64_t most_pieces(const BlockSpec& block, const AttentionSplit& split, uint64_t positions) {
  const uint64_t blocks = ceil_div(positions, kSplitBlock);
  if (blocks < kLeastSplitBlocks) return 1;
  const uint64_t groups = uint64_t{block.num_kv_heads} * split.head_tiles * split.token_tiles;
  return std::clamp<uint64_t>(kFillingGroups / groups, 1, blocks);
}

}  // namespace

uint64_t AttentionSplit::partial_bytes(const BlockSpec& block, uint32_t tokens) const {
  return pieces == 1 ? 0 : pieces * bytes_of_piece(block, tokens);
}

AttentionSplit split_attention(const BlockSpec& block, uint32_t tokens, uint32_t position, uint64_t partial_bytes) {
  AttentionSplit split = tile(block, tokens);
  split.origin = oldest_seen(block, position);
  const uint64_t positions = uint64_t{position} + tokens - split.origin;
  const uint64_t blocks = ceil_div(positions, kSplitBlock);
  const uint64_t room = std::max<uint64_t>(1, partial_bytes / bytes_of_piece(block, tokens));
  const uint64_t blocks_of_piece = ceil_div(blocks, std::min(most_pieces(block, split, positions), room));
  split.piece = static_cast<uint32_t>(blocks_of_piece * kSplitBlock);
  split.pieces = static_cast<uint32_t>(ceil_div(blocks, blocks_of_piece));
  return split;
}

uint64_t attention_partial_bytes(const BlockSpec& block, uint32_t context, uint32_t batch) {
  uint64_t most = 0;
  for (uint32_t tokens = 1; tokens <= batch; ++tokens) {
    const uint64_t positions =
        block.window == 0 ? context : std::min<uint64_t>(context, uint64_t{block.window} - 1 + tokens);
    const uint64_t pieces = most_pieces(block, tile(block, tokens), positions);
    if (pieces > 1) most = std::max(most, pieces * bytes_of_piece(block, tokens));
    if (tile(block, tokens).token_tiles > kFillingGroups) break;
  }
  return most;
}

}  // namespace nwc
