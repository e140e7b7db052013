// The pieces of a calibration's text, and how they are dealt out to ranks.
#pragma once

#include <span>
#include <vector>

#include "trainer/nn/matrix.h"

namespace nwc {

/// Sequences that one task takes through a block. Sums are made of whole pieces, one after another.
struct Piece {
  Eigen::Index begin = 0;  ///< first token, in the text
  Eigen::Index at = 0;     ///< the same, among the tokens of its rank
  Eigen::Index tokens = 0;
  size_t sequence = 0;  ///< number of its first sequence, in the text
  std::vector<uint32_t> lengths;
};

/// Cuts a text into pieces: whole sequences, of at least 512 tokens together where there are so many.
std::vector<Piece> cut_pieces(size_t tokens, uint32_t context);

/// What one rank takes of a text. Rounds follow one another; in each, rank 0 has the first pieces, then come those of
/// rank 1, and so on. Each rank has about as many.
struct DealtPieces {
  std::vector<Piece> pieces;
  std::vector<size_t> round_begin;  ///< number of the first piece, of each round and behind the last

  size_t rounds() const { return round_begin.size() - 1; }
  std::span<const Piece> round(size_t i) const {
    return std::span(pieces).subspan(round_begin[i], round_begin[i + 1] - round_begin[i]);
  }
};
/// most: pieces that a rank takes in a round, 1 at least
DealtPieces deal_pieces(std::span<const Piece> all, uint32_t rank, uint32_t ranks, size_t most);

}  // namespace nwc
