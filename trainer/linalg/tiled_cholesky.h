// The Cholesky factorization of large symmetric matrices, by tiles, on all threads.
#pragma once

#include <functional>
#include <memory>

#include "runtime/base/thread_pool.h"
#include "trainer/linalg/tile_ops.h"

namespace nwc {

/// The lower triangle of a symmetric [n][n] matrix of doubles in square tiles: half of the memory of the whole, and
/// each tile fits a core's cache.
class TiledLower {
 public:
  explicit TiledLower(size_t n);

  size_t size() const { return n_; }
  /// Element of the lower triangle: column <= row < size().
  double& at(size_t row, size_t column) { return *element(row, column); }
  double at(size_t row, size_t column) const { return *element(row, column); }

  /// Calls visit(rows, columns) for every tile, on all threads: begin and end of its rows and columns. Tiles on the
  /// diagonal are visited as a whole; of them only the lower triangle counts.
  struct Span {
    size_t begin, end;
  };
  using Visit = std::function<void(Span rows, Span columns)>;
  void for_each_tile(Runner& runner, const Visit& visit) const;

  /// A = L L^T in place. The additions follow one order, so that the result is the same at any number of threads.
  /// False: not positive definite; the content is then unspecified.
  bool factor(Runner& runner);

 private:
  static constexpr size_t kTile = 256;  ///< 512 KiB

  Tile tile(size_t i, size_t j) const;  ///< j <= i
  Span span(size_t i) const;
  double* element(size_t row, size_t column) const;

  size_t n_ = 0, tiles_ = 0;  ///< tiles of a column
  std::unique_ptr<double[]> data_;
};

}  // namespace nwc
