#include "trainer/calib/pieces.h"

#include "runtime/base/checked.h"
#include "trainer/llm/feature_stream.h"

namespace nwc {
namespace {

constexpr Eigen::Index kPieceTokens = 512;

}  // namespace

std::vector<Piece> cut_pieces(size_t tokens, uint32_t context) {
  std::vector<Piece> pieces;
  Eigen::Index at = 0;
  size_t sequence = 0;
  for (const uint32_t length : cut_sequences(tokens, context)) {
    if (pieces.empty() || pieces.back().tokens >= kPieceTokens) {
      Piece& piece = pieces.emplace_back();
      piece.begin = piece.at = at;
      piece.sequence = sequence;
    }
    pieces.back().lengths.push_back(length);
    pieces.back().tokens += length;
    at += length;
    ++sequence;
  }
  return pieces;
}

DealtPieces deal_pieces(std::span<const Piece> all, uint32_t rank, uint32_t ranks, size_t most) {
  DealtPieces out;
  const size_t rounds = ceil_div(all.size(), ranks * most);
  Eigen::Index at = 0;
  for (size_t round = 0; round < rounds; ++round) {
    out.round_begin.push_back(out.pieces.size());
    const size_t first = all.size() * round / rounds, count = all.size() * (round + 1) / rounds - first;
    for (size_t i = first + count * rank / ranks; i < first + count * (rank + 1) / ranks; ++i) {
      Piece& piece = out.pieces.emplace_back(all[i]);
      piece.at = at;
      at += piece.tokens;
    }
  }
  out.round_begin.push_back(out.pieces.size());
  return out;
}

}  // namespace nwc
