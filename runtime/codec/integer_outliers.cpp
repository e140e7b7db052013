#include "runtime/codec/integer_outliers.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <utility>

#include "runtime/base/checked.h"

namespace nwc {
void FoundOutliers::add(const LaneValues& values, uint32_t bits, const uint32_t* over, uint64_t first_column,
                        uint32_t worker, uint32_t i) {
  List& list = lists_[size_t{kTilesAtOnce} * worker + i];
  if (list.outliers.size() > most_) return;  // an error in the end
  const int32_t bias = integer_bias(bits);
  uint32_t columns = 0;
  for (uint32_t r = 0; r < kChunk; ++r) columns |= over[r];
  for (; columns != 0; columns &= columns - 1) {
    const uint32_t l = static_cast<uint32_t>(std::countr_zero(columns));
    for (uint32_t r = 0; r < kChunk; ++r) {
      if ((over[r] >> l & 1u) == 0) continue;
      const int32_t q = values.q[r][l];
      for (int32_t rest = q - std::clamp(q, -bias, bias - 1); rest != 0;) {
        const int32_t part = std::clamp(rest, -kMostRest, kMostRest);
        list.outliers.emplace_back(static_cast<uint32_t>(first_column) + l, r, part);
        ++list.in_run;
        rest -= part;
      }
    }
  }
}

void FoundOutliers::end_run(uint64_t row_block, uint32_t worker, uint32_t i) {
  List& list = lists_[size_t{kTilesAtOnce} * worker + i];
  if (list.in_run == 0) return;
  list.runs.push_back({static_cast<uint32_t>(row_block), list.in_run});
  count_ += list.in_run;
  list.in_run = 0;
}

void FoundOutliers::place(uint64_t first, uint64_t end, uint32_t* begin, Outlier* out) const {
  std::fill(begin + first + 1, begin + end + 1, 0u);
  for (const List& list : lists_) {
    for (const Run& run : list.runs) begin[uint64_t{run.row_block} + 1] += run.count;
  }
  uint32_t at = begin[first];
  for (uint64_t b = first; b < end; ++b) at += std::exchange(begin[b + 1], at);
  // Entry b + 1 is where the next one of row block b goes, and in the end where block b + 1 begins.
  for (const List& list : lists_) {
    auto next = list.outliers.begin();
    for (const Run& run : list.runs) {
      uint32_t& to = begin[uint64_t{run.row_block} + 1];
      std::copy_n(next, run.count, out + to);
      next += run.count;
      to += run.count;
    }
  }
}

namespace {

/// Of a row block, in order of columns.
bool sums_are_exact(const Outlier* outlier, const Outlier* end) {
  while (outlier != end) {
    uint32_t rest[kChunk] = {};
    const uint32_t end_column = outlier->column() / kExactCols * kExactCols + kExactCols;
    for (; outlier != end && outlier->column() < end_column; ++outlier) {
      uint32_t& of_row = rest[outlier->row()];
      of_row += static_cast<uint32_t>(std::abs(outlier->rest()));
      if (of_row > kMostRestOfRow) return false;
    }
  }
  return true;
}

}  // namespace

bool FoundOutliers::sort(uint64_t first, uint64_t end, const uint32_t* begin, Outlier* out) {
  const auto key = [](const Outlier& o) {
    return o.column() << 16 | o.row() << 12 | static_cast<uint32_t>(o.rest() + kMostRest + 1);
  };
  const auto less = [&](const Outlier& a, const Outlier& b) { return key(a) < key(b); };
  for (uint64_t b = first; b < end; ++b) {  // those of one worker are in order already
    if (!std::is_sorted(out + begin[b], out + begin[b + 1], less)) std::sort(out + begin[b], out + begin[b + 1], less);
    if (!sums_are_exact(out + begin[b], out + begin[b + 1])) return false;
  }
  return true;
}

uint64_t FoundOutliers::bytes(const IntegerForm& form, uint64_t tile_cols, uint32_t num_workers) {
  // Pieces of a deque and what the allocator and the list of pieces add to one, and one more for each deque.
  constexpr uint64_t kPiece = 512, kPieceBytes = kPiece + 32, kFirst = 2 * kPieceBytes + 128;
  const uint64_t runs = std::min(form.max_outliers, form.row_blocks() * ceil_div(form.cols, tile_cols));
  const uint64_t pieces = ceil_div(form.max_outliers * sizeof(Outlier), kPiece) + ceil_div(runs * sizeof(Run), kPiece);
  return pieces * kPieceBytes + uint64_t{kTilesAtOnce} * num_workers * (sizeof(List) + 2 * kFirst);
}

}  // namespace nwc
