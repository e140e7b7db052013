// How far a mean over a text's tokens may be off, where neighbouring tokens are alike.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nwc {

struct MeanWithError {
  double mean = 0, standard_error = 0;
  double low = 0, high = 0;  ///< bounds of the interval of 95 %: the 2.5th and 97.5th percentile of the draws' means
};

/// Tokens of a block: neighbours belong to the same sentence or paragraph, and one that is hard for a model comes with
/// others. A text of less than 32 such blocks is cut into 32 shorter ones.
constexpr uint64_t kBootstrapBlock = 256;
constexpr uint64_t kBootstrapBlocks = 32;

/// Cuts windows into blocks of consecutive tokens, none of which reaches into a second window. Returns the lengths of
/// the blocks. windows: the numbers of tokens
std::vector<uint64_t> bootstrap_blocks(std::span<const uint64_t> windows);

/// The mean of the values, and its error by the block bootstrap (Künsch 1989): 1,000 times as many blocks as there are
/// are drawn with replacement, and what their means differ by is the error. The draws follow from the number of blocks
/// alone, so that figures on the same text share them. One block has no error. blocks: sum up to values.size()
MeanWithError bootstrap_mean(std::span<const double> values, std::span<const uint64_t> blocks);

}  // namespace nwc
