// Calibration: the model reads a text, and from its gradients follows how much an error of each weight costs (paper,
// section 3.4; doc/architecture.md, Calibration).
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/log.h"
#include "runtime/base/thread_pool.h"
#include "trainer/data/model_source.h"
#include "trainer/parallel/ranks.h"

namespace nwc {

/// The second moments of one matrix W [m][n] under the calibration text. An error E of W costs, to second order,
///   KL(model || model with W + E) = 1/2 * sum over rows r of row_importance[r] * e_r H e_r^T     nats per token.
/// With kFisher the formula holds as it stands. x_t is the input of the layer at token t, y_t is a token of the model's
/// own prediction, g_t is the gradient of log p(y_t) with respect to the layer's output (a random one with the second
/// moment that this has over y_t: label_sketch.h), and omega_t is the mean of g_tr^2 over the rows r. Then H =
/// E_t[omega_t x_t x_t^T], and row_importance[r] is E_t[g_tr^2] divided by its mean: the Fisher information as a
/// Kronecker product. H is scaled so that its trace is exact, which includes the effects that an error at one token has
/// at others. Rows of embedding and head have a share for other texts (row_shares.h). With kActivation H = E_t[x_t
/// x_t^T], as in the paper and in GPTQ. Then row_importance is all 1, and the cost has no unit.
struct TensorStatistics {
  uint64_t m = 0, n = 0;
  std::vector<float> hessian;         ///< [n][n], symmetric, not damped
  std::vector<float> row_importance;  ///< [m], mean 1, positive
  /// (sum omega)^2 / sum omega^2: as many tokens of equal weight say as much. H of fewer than n of them is that of this
  /// text more than that of any other. 0: not known (kActivation)
  double effective_tokens = 0;
};
enum class HessianKind : uint8_t { kActivation, kFisher };

struct CalibrationOptions {
  uint64_t tokens = 16384;   ///< of the text; fewer if it is shorter
  uint32_t context = 0;      ///< tokens per sequence; 0: min(512, the model's maximum)
  uint64_t seed = 1;         ///< of the sketches of y_t
  bool activations = false;  ///< of blocks, too, HessianKind::kActivation: as much again of time and disk
  uint64_t memory_bytes = uint64_t{2} << 30;  ///< for hidden states; beyond, they are kept in files of the cache folder
};

/// Returns the first `limit` tokens of a text for calibration and fine-tuning, in sequences of `context` tokens. Each
/// begins with BOS where the tokenizer says so.
/// errors: kUnsupported (no model description or tokenizer), kInvalidArgument (fewer than 2 tokens), kCorrupt (a token
///         that the model does not have)
Result<std::vector<uint32_t>> calibration_tokens(const ModelSource& source, const std::string& text, uint64_t limit,
                                                 uint32_t context);
/// Returns the tokens per sequence that CalibrationOptions::context stands for. Of an encoder of images: those of an
/// image.
uint32_t calibration_context(const ModelRecord& model, uint32_t wanted);

/// What a calibration reads: a text's tokens, or tokens that are made when they are needed.
struct CalibrationInput {
  /// The tokens, in sequences of the calibration's context. folder: the calibration's, where they can be kept; empty:
  /// there is none. Tokens beyond CalibrationOptions::tokens are passed over.
  std::function<Result<std::vector<uint32_t>>(const std::string& folder)> tokens;
  /// Says how the tokens follow from the model, so that a calibration is found without making them. Empty: they do not,
  /// and `tokens` is asked first.
  std::string recipe;
  /// Of an encoder of images, which reads no tokens: the embedded patches of these images, one image after another, in
  /// front of the norm that may follow, [images * max_positions][hidden] (Session::image_states). `tokens` then has the
  /// number of each image max_positions times; numbers stand for the images' contents in the calibration's hash. Empty:
  /// of all other models.
  using States = std::function<Result<std::vector<float>>(std::span<const uint32_t> images)>;
  States states;
};
/// Tokens of a text, which outlives it.
CalibrationInput calibration_text(const ModelSource& source, const std::string& text,
                                  const CalibrationOptions& options);

/// A finished calibration on disk: one safetensors file per layer (names `TENSOR.fisher`, `TENSOR.row_importance`,
/// `TENSOR.effective_tokens`, and, where activations were asked for, `TENSOR.hessian`, all F32; layers that share an
/// input share the first one's) and `calibration.json`. Immutable, thread-safe.
class Calibration {
 public:
  /// Runs the model over the tokens, layer by layer, and leaves the result in the folder that `folder_of` returns for
  /// the hash; a folder that holds the finished result of the same model, tokens and options is used as it is, an
  /// unfinished one is continued. Deterministic: the same bytes at any number of threads and of ranks, which all make
  /// this call with the same options. Of them rank 0 asks for the input and the folder; all have to see that folder.
  /// errors: kUnsupported (no model description), kInvalidArgument (fewer than 2 tokens), kCorrupt (tensors missing or
  ///         misshapen), kIo, kCancelled, those of `folder_of` and of the input
  using FolderOf = std::function<Result<std::string>(const std::string& hash)>;
  static Result<std::unique_ptr<Calibration>> run(const ModelSource& source, const CalibrationInput& input,
                                                  const CalibrationOptions& options, const FolderOf& folder_of,
                                                  Runner& runner, const Progress& progress, const Logger& log,
                                                  Ranks& ranks = one_rank());
  /// The same with a text, in this folder.
  static Result<std::unique_ptr<Calibration>> run(const ModelSource& source, const std::string& text,
                                                  const CalibrationOptions& options, const std::string& folder,
                                                  Runner& runner, const Progress& progress, const Logger& log);
  /// Returns the hash that the result of run() would have. This reads the whole model. errors: those of run
  static Result<std::string> hash_of(const ModelSource& source, const CalibrationInput& input,
                                     const CalibrationOptions& options);
  /// A finished calibration. errors: kNotFound (no calibration.json), kCorrupt, kIo
  static Result<std::unique_ptr<Calibration>> open(const std::string& folder);
  virtual ~Calibration() = default;

  /// Hash of model, text and options, 16 hex digits.
  virtual const std::string& hash() const = 0;
  virtual uint64_t tokens() const = 0;
  /// Returns whether the calibration has statistics of this tensor.
  virtual bool covers(const std::string& tensor) const = 0;
  /// errors: kInvalidArgument (not covered; kActivation where there is none, as of an embedding that is not the head),
  /// kIo, kCorrupt
  virtual Result<TensorStatistics> load(const std::string& tensor, HessianKind kind) const = 0;
};

}  // namespace nwc
