// Decoded weights as the small integers that entropy decoding gives, for products after loading (doc/architecture.md,
// "Integer weights").
//
// Where the synthesis is the identity, weight (i, j) is row_scale_i * factor_j * (q_ij - sign(q_ij) * shrink_j) with an
// integer q: y_i = row_scale_i * (sum_j q_ij * (factor_j * x_j) - sum_j sign(q_ij) * (shrink_j * factor_j * x_j)),
// where most codecs do not shrink, and the second sum is left out. So integers hold the weights exactly, in a byte or
// less.
//
// What another synthesis makes of the integers is rounded once more: a block of one row and a unit's 32 columns has a
// scale of its own, and weight (i, j) is row_scale_i * factor_j * block_scale_ij * q_ij with |q_ij| <= 127
// (integer_requantize.h). Such forms are called requantized.
#pragma once

#include <array>
#include <iterator>
#include <vector>

#include "runtime/base/status.h"
#include "runtime/format/codec_record.h"
#include "runtime/format/nwc_file.h"

namespace nwc {

/// Columns of a unit, which is a chunk of rows of them: what the decoder hands over at a time.
inline constexpr uint32_t kUnitCols = kNumLanes;
inline constexpr uint32_t kUnitWeights = kChunk * kUnitCols;
/// Bits of an integer in a unit. Units of 4, 5 and 6 bits are bit planes (integer_decode.h).
inline constexpr uint8_t kIntegerBits[] = {4, 5, 6, 8};
constexpr uint32_t unit_bytes(uint32_t bits) { return kUnitWeights / 8 * bits; }
/// Added to an integer, it makes one without a sign.
constexpr int32_t integer_bias(uint32_t bits) { return 1 << (bits - 1); }

/// An integer beyond the bits of its unit: the unit holds the nearest one that fits, this the rest.
class Outlier {
 public:
  Outlier() = default;
  /// column: below kMaxIntegerCols; row: of the chunk's; rest: at most kMostRest either way
  Outlier(uint32_t column, uint32_t row, int32_t rest)
      : bits_(column | row << 16 | static_cast<uint32_t>(rest) << 20) {}
  uint32_t column() const { return bits_ & 0xffffu; }
  uint32_t row() const { return bits_ >> 16 & 15u; }
  int32_t rest() const { return static_cast<int32_t>(bits_) >> 20; }

 private:
  uint32_t bits_ = 0;
};
/// What an outlier costs in bytes that are read: its entry, and the time that a product takes for it, about as long as
/// memory needs for 20 bytes.
inline constexpr double kOutlierBytes = sizeof(Outlier) + 20;
/// A larger rest is several outliers of the same place.
inline constexpr int32_t kMostRest = 2047;
inline constexpr uint64_t kMaxIntegerCols = 65536;
/// Products add up so many columns exactly, in 32 bits. So the rests of a row of them may come to no more than this.
inline constexpr uint32_t kExactCols = 128, kMostRestOfRow = 49000;

enum class IntegerWeights : uint8_t {
  kNone = 0,    ///< weights are held as floating-point numbers
  kQ8 = 1,      ///< a byte each
  kPacked = 2,  ///< as many bits as nearly all integers of a unit's columns need
  kAuto = 3,    ///< kPacked wherever it is possible
};

/// How the integers of one coded tensor lie in memory: units in order of row blocks and columns, row scales, column
/// factors and, with `shrinks`, shrink times factor of the columns, for each row block where its outliers begin, and
/// the outliers. Parts are aligned to 64 bytes. With `requantized` all units have 8 bits, and the block scales of a row
/// block, bf16 [units][16], lie behind its units; there is neither shrinkage nor an outlier.
struct IntegerForm {
  uint64_t rows = 0, cols = 0;
  std::vector<uint8_t> bits;  ///< of the units of each row block, [ceil(cols / 32)]
  uint64_t row_block_bytes = 0;
  uint64_t row_scale_at = 0, factor_at = 0, shrink_at = 0, begin_at = 0, outliers_at = 0;  ///< f32 (3), u32, Outlier
  bool shrinks = false;
  bool requantized = false;
  uint64_t max_outliers = 0;
  double expected_outliers = 0;  ///< if symbols are as frequent as the tables say
  uint64_t bytes = 0;

  uint64_t row_blocks() const { return (rows + kChunk - 1) / kChunk; }
  uint32_t units() const { return static_cast<uint32_t>(bits.size()); }
  /// Sets row_block_bytes, the places of all parts and bytes, which follow from the other members.
  void place_parts();
  uint64_t padded_cols() const { return uint64_t{units()} * kUnitCols; }
  /// Bytes in front of a row block's block scales, with `requantized`.
  uint64_t block_scales_at() const { return uint64_t{units()} * kUnitWeights; }
};

/// Why the weights of this codec are not integers times scales; nullptr if they are. Forms of a codec whose weights are
/// not are requantized.
const char* why_not_integers(const CodecRecord& codec);

/// The form of a matrix whose weights are rounded to 8 bits. cols: at most kMaxIntegerCols
IntegerForm requantized_form(uint64_t rows, uint64_t cols);

/// Chooses forms for the tensors of one file, which must outlive it. What follows from the codec alone is made once.
class IntegerForms {
 public:
  /// The file has a codec.
  explicit IntegerForms(const NwcFile& file);

  /// Chooses the bits of a coded tensor's units from the frequencies of its symbols, so that bits and outliers together
  /// are few; a requantized form is the same for kQ8 and kPacked. which: kQ8 or kPacked; the tensor has at most
  /// kMaxIntegerCols columns. room: for so many times as many outliers as a file needs whose symbols are as frequent as
  /// its tables say. errors: those of load_coded
  Result<IntegerForm> choose(size_t tensor, IntegerWeights which, bool check_crc, double room = 1) const;
  /// Both at once: side information is read once.
  struct Both {
    IntegerForm q8, packed;
  };
  Result<Both> choose_both(size_t tensor, bool check_crc) const;

 private:
  IntegerForm form_of(const TensorRecord& record, const CodedTensor& coded, IntegerWeights which, double room) const;
  /// Of integers that do not fit, by kIntegerBits.
  using Shares = std::array<double, std::size(kIntegerBits)>;
  static Shares shares_of(const FrequencyTable& table, bool trellis, uint32_t bank);
  std::vector<Shares> shares_by_level(const CodedTensor& coded) const;

  const NwcFile& file_;
  const bool requantized_;
  std::vector<std::array<Shares, kNumContexts>> of_level_;  ///< by context, the mean over the banks
};

}  // namespace nwc
