// Ends a generation at given texts, which nobody gets to see.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/status.h"

namespace nwc {

/// Takes the tokens of an answer with their texts, and lets them go once it is decided that they are not part of a stop
/// string. The first stop string to end in the text ends the answer, of those that end together the longest.
class StopStrings {
 public:
  static constexpr size_t kMaxStrings = 64;
  static constexpr size_t kMaxBytes = 1024;

  struct Piece {
    uint32_t token;
    std::string text;
  };

  /// errors: kInvalidArgument (an empty string), kLimit
  static Result<StopStrings> create(std::vector<std::string> strings);

  /// Appends to *out the tokens that are decided. True: a stop string is complete. *out then has what comes before it:
  /// a token in which it begins is there with its text up to that, those that lie within are dropped.
  bool add(uint32_t token, std::string_view text, std::vector<Piece>* out);
  /// The answer has ended without a stop string: appends the tokens that are still held.
  void finish(std::vector<Piece>* out);

 private:
  explicit StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {}
  void release(size_t keep_bytes, std::vector<Piece>* out);

  std::vector<std::string> strings_;
  std::vector<Piece> held_;
  std::string text_;  ///< of the held tokens
};

}  // namespace nwc
