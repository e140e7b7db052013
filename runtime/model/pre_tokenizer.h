// Splits text into the pieces within which tokens are formed: a small matcher, and a table of compiled patterns for it.
// Their regular expressions are in doc/format_model.md, section "Pre-tokenizers".
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "runtime/format/tokenizer_record.h"
#include "runtime/model/unicode.h"

namespace nwc {

struct CodeRange {
  uint32_t first, last;
};
/// Sets of characters that no property describes.
enum class RangeSet : uint8_t { kNone, kBloomStops, kCasedLetters, kMostPunctuation, kAsianLetters, kChineseAndKana };
std::span<const CodeRange> code_ranges(RangeSet set);

/// One element of an alternative: a character of a set, some times, as often as possible, and fewer times where the
/// rest of the alternative does not match otherwise; or one of the other kinds.
struct PatternItem {
  enum Kind : uint8_t {
    kEnd,                ///< of the alternative
    kIn,                 ///< a character that has one of `bits`
    kNotIn,              ///< a character that has none of `bits`
    kInRanges,           ///< a character of `ranges`
    kNotInRanges,        ///< a character that is neither of `ranges` nor has one of `bits`
    kContraction,        ///< 's 't 're 've 'm 'll 'd
    kContractionNoCase,  ///< the same in any case
    kNoTextAhead,        ///< end of the text or white space: (?!\S)
    kRunToEnd,           ///< all white space from here to the end of the text, nothing else before it
  };
  Kind kind = kEnd;
  uint8_t min = 1;
  uint8_t max = 1;  ///< kMany: no limit
  RangeSet ranges = RangeSet::kNone;
  CharBits bits = 0;
};
constexpr uint8_t kMany = 255;

using PatternAlternative = std::array<PatternItem, 5>;  ///< unused items at the end are kEnd

/// A pattern whose matches are pieces, and so is what stands between them.
struct PatternStage {
  std::span<const PatternAlternative> alternatives;  ///< the first that matches is taken
  bool drops_matches = false;
  bool of_bytes = false;  ///< characters are those that GPT-2's alphabet writes for the bytes; numbers alone are known
};

/// Each stage splits the pieces of the one before it, each as a text of its own.
std::span<const PatternStage* const> pattern_stages(PreTokenizer kind);
constexpr size_t kMaxStages = 6;

/// Yields the pieces of a text in order, never empty; together they are the whole text but for matches that are
/// dropped. Linear time in the length of the text.
class PieceSplitter {
 public:
  /// The text must outlive the splitter and its pieces.
  PieceSplitter(PreTokenizer kind, std::string_view text);
  /// The next piece; an empty view at the end of the text.
  std::string_view next();

 private:
  struct Cursor {
    std::string_view text;
    size_t pos = 0;
    size_t match_end = 0;  ///< above pos: a match that was found behind a gap, from pos on
  };
  struct Char {
    uint32_t value = 0;
    uint32_t length = 0;  ///< 0 at the end
    CharBits bits = 0;
  };
  std::string_view next_of(size_t stage);
  Char peek(size_t pos) const;
  bool belongs(const PatternItem& item, const Char& c) const;
  size_t previous(size_t pos) const;
  size_t match_contraction(size_t pos, bool ignore_case) const;
  size_t match_items(const PatternItem* item, size_t pos) const;
  size_t match(const PatternStage& stage, size_t pos) const;

  std::span<const PatternStage* const> stages_;
  std::array<Cursor, kMaxStages> cursors_;
  // Of the stage that is matching.
  std::string_view text_;
  bool of_bytes_ = false;
};

}  // namespace nwc
