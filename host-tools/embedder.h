// Texts and pictures to embeddings, for `nwc embed` and `nwc eval`.
#pragma once

#include "host-tools/image_input.h"
#include "trainer/eval/compare_embeddings.h"

namespace nwc::cli {

class Embedder {
 public:
  /// errors: those of open_eval_model; kUnsupported (the model is no encoder)
  static Result<Embedder> open(const std::string& path, const SessionParams& params, const DeviceOptions& device,
                               const Context& context, double share = 0.2);

  bool of_images() const { return model().ends.encoder.of_images(); }
  const ModelRecord& model() const { return eval_.session->model(); }
  const EvalModel& eval_model() const { return eval_; }

  /// Tokens of the text with those that belong in front and behind; what is too long is cut in front of the latter.
  struct TextTokens {
    std::vector<uint32_t> ids;
    size_t cut = 0;  ///< so many were left out
  };
  Result<TextTokens> tokens_of(const std::string& text) const;
  Result<std::vector<float>> embed_text(const std::string& text);
  Result<std::vector<float>> embed_png(const std::string& path);
  /// A picture's embedded patches (Session::image_states).
  Result<std::span<const float>> png_states(const std::string& path);
  /// Of texts, or of PNG files, with progress. share: of what is left of the command. errors: kCancelled, too
  Result<Embeddings> embed_all(const std::vector<std::string>& inputs, bool pictures, const Context& context,
                               double share = 1);
  size_t num_cut() const { return num_cut_; }  ///< texts that were too long

 private:
  Result<std::vector<float>> pixels_of(const std::string& path) const;

  EvalModel eval_;
  ImagePreparation preparation_;
  size_t num_cut_ = 0;
};

/// The lines of a text file that are not empty. errors: kInvalidArgument (there are none)
Result<std::vector<std::string>> read_lines(const std::string& path);
/// The .png files of a folder, sorted. errors: kIo, kInvalidArgument (there are none)
Result<std::vector<std::string>> list_pictures(const std::string& folder);

}  // namespace nwc::cli
