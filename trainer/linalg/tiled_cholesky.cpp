#include "trainer/linalg/tiled_cholesky.h"

#include <algorithm>
#include <cassert>
#include <utility>
#include <vector>

namespace nwc {

// The caller writes the content before it is read.
TiledLower::TiledLower(size_t n)
    : n_(n),
      tiles_((n + kTile - 1) / kTile),
      data_(std::make_unique_for_overwrite<double[]>(tiles_ * (tiles_ + 1) / 2 * kTile * kTile)) {}

TiledLower::Span TiledLower::span(size_t i) const { return {i * kTile, std::min(n_, (i + 1) * kTile)}; }

// Tiles lie one row of them after another. Those at the ends are padded: all have the same stride.
Tile TiledLower::tile(size_t i, size_t j) const {
  const Span rows = span(i), columns = span(j);
  return {data_.get() + (i * (i + 1) / 2 + j) * kTile * kTile, rows.end - rows.begin, columns.end - columns.begin,
          kTile};
}

double* TiledLower::element(size_t row, size_t column) const {
  assert(column <= row && row < n_);
  const Tile t = tile(row / kTile, column / kTile);
  return t.data + column % kTile * kTile + row % kTile;
}

void TiledLower::for_each_tile(Runner& runner, const Visit& visit) const {
  std::vector<std::pair<size_t, size_t>> all;
  for (size_t i = 0; i < tiles_; ++i) {
    for (size_t j = 0; j <= i; ++j) all.emplace_back(i, j);
  }
  parallel_for(runner, static_cast<uint32_t>(all.size()),
               [&](uint32_t t, uint32_t) { visit(span(all[t].first), span(all[t].second)); });
}

// Right-looking: once a column of tiles is final, all that lie behind it are free of each other. Each of these takes
// one product for each column in front of it, in their order.
bool TiledLower::factor(Runner& runner) {
  std::vector<std::pair<size_t, size_t>> behind;
  for (size_t k = 0; k < tiles_; ++k) {
    const Tile diagonal = tile(k, k);
    if (!tile_potrf(diagonal)) return false;
    parallel_for(runner, static_cast<uint32_t>(tiles_ - k - 1),
                 [&](uint32_t i, uint32_t) { tile_trsm(diagonal, tile(k + 1 + i, k)); });
    behind.clear();
    for (size_t i = k + 1; i < tiles_; ++i) {
      for (size_t j = k + 1; j <= i; ++j) behind.emplace_back(i, j);
    }
    parallel_for(runner, static_cast<uint32_t>(behind.size()), [&](uint32_t t, uint32_t) {
      const auto [i, j] = behind[t];
      if (i == j) {
        tile_syrk(tile(i, k), tile(i, i));
      } else {
        tile_gemm(tile(i, k), tile(j, k), tile(i, j));
      }
    });
  }
  return true;
}

}  // namespace nwc
