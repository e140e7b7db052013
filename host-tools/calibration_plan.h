// What --calib of `nwc compress` means: no calibration, a text that the model writes itself, texts, or, for an encoder
// of images, pictures.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "host-tools/cli.h"
#include "runtime/format/nwc_file.h"
#include "trainer/calib/calibration.h"

namespace nwc::cli {

struct CompressCommand;

/// The calibration of one command: where its tokens come from. Refers to the model's source, which outlives it.
class CalibrationPlan {
 public:
  enum class Kind : uint8_t { kNone, kSelf, kTexts, kImages };

  /// Resolves the words of --calib; none: `self` where the model can write and calibrate, else nothing, with a line
  /// that says why. A folder stands for its *.txt files, or, for an encoder of images, its *.png files. Texts are read.
  /// errors: kInvalidArgument (words that do not go together, a folder without texts), kUnsupported (`self` was asked
  /// for and does not work with this model), kIo
  static Result<CalibrationPlan> resolve(const std::vector<std::string>& words, const std::string& model_path,
                                         std::shared_ptr<const ModelSource> source, const Context& context);

  Kind kind() const { return kind_; }
  explicit operator bool() const { return kind_ != Kind::kNone; }
  /// Of texts or pictures: their files.
  const std::vector<std::string>& files() const { return files_; }
  /// Of texts: calibration stops in front of byte `begin` of file i.
  void cut(size_t i, uint64_t begin) { texts_[i].resize(static_cast<size_t>(begin)); }
  const std::string& text(size_t i) const { return texts_[i]; }

  /// What Calibration::run reads. `written`: tokens that `self` writes, of which calibration takes the first ones.
  CalibrationInput input(const CalibrationOptions& options, uint64_t written, const Context& context) const;
  /// Up to `limit` tokens, in sequences of `options.context`: the first ones of input(). folder: the calibration's.
  Result<std::vector<uint32_t>> tokens(const CalibrationOptions& options, uint64_t limit, uint64_t written,
                                       const std::string& folder, const Context& context) const;
  /// Up to `limit` tokens of the model's own text that input() does not have. errors: those of writing
  Result<std::vector<uint32_t>> held_out(const CalibrationOptions& options, uint64_t limit, const std::string& folder,
                                         const Context& context) const;
  /// Of a text of the model's own, `count` tokens long: the memory that writing it takes. errors: those of writing
  Result<uint64_t> writing_memory_bytes(const CalibrationOptions& options, uint64_t count,
                                        const Context& context) const;

 private:
  Result<std::unique_ptr<NwcFile>> uncompressed(const Context& context, bool checksums) const;
  std::vector<size_t> chosen_images(uint64_t limit) const;
  Result<uint32_t> preparation_number() const;
  Result<uint32_t> image_number(size_t i, uint32_t preparation) const;
  Result<std::vector<uint32_t>> image_tokens(uint64_t limit) const;
  Result<std::vector<float>> image_states(std::span<const uint32_t> images, uint64_t limit,
                                          const Context& context) const;
  Result<std::vector<uint32_t>> mixed_tokens(uint64_t limit, uint32_t context_tokens) const;
  Result<std::vector<uint32_t>> own_text(uint64_t count, uint64_t seed, uint32_t context_tokens,
                                         const std::string& folder, const Context& context) const;

  Kind kind_ = Kind::kNone;
  std::string model_path_;
  std::shared_ptr<const ModelSource> source_;
  std::vector<std::string> files_, texts_;
};

/// Of the calibration's tokens, those that distillation takes at most.
inline constexpr uint64_t kDistillTokens = 49152;

/// Of the calibration's tokens, those on which drift is corrected: kDistillTokens, of larger models fewer, so that it
/// takes about as long as calibration at most, but 16,384 at least.
uint64_t default_drift_tokens(const ModelSource& source);

/// Tokens that calibration takes unless the user says how many: for each input of the widest layer, whose statistics
/// need most, 32, but kDistillTokens at least; below effort 5 and for encoders four, but 16,384 at least; 65,536 at
/// most.
uint64_t default_calibration_tokens(const ModelRecord& model, uint32_t effort);

}  // namespace nwc::cli
