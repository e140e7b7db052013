// How much the rows of an embedding or a head count against each other: how often their tokens occur, in the text of a
// calibration and beyond it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nwc {

/// Share of what the model will read that is taken to be unlike the text of the calibration: there every token is as
/// frequent as any other. Measured (doc/measurements.md, Calibration): it costs 3 % on text like the calibration's, and
/// saves 40 % on other text.
constexpr double kForeignShare = 0.1;

/// Returns how often each token occurs, relative to the mean. Tokens that the text lacks share what Good and Turing
/// found to be the probability of a token not seen before: the share of those that occur once. A vocabulary may be
/// larger than the text, so that no count of their own would do. They get the share of half an occurrence at least,
/// and half of everything at most. tokens: below `vocab`
std::vector<double> token_frequencies(std::span<const uint32_t> tokens, uint32_t vocab);

/// Brings values to the mean 1, kForeignShare of it the same for all. All zero: all are 1.
void add_foreign_share(std::span<double> importance);

}  // namespace nwc
