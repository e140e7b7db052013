// Knowledge distillation (Hinton et al. 2015, arXiv:1503.02531) into what a file stores as it is: gains and biases of a
// coded model are tuned so that its predictions come back to those of the uncompressed one. The file does not grow.
#pragma once

#include <map>
#include <span>
#include <vector>

#include "runtime/base/log.h"
#include "runtime/base/thread_pool.h"
#include "trainer/data/model_source.h"
#include "trainer/recover/recovery_files.h"

namespace nwc {

struct DistillChoices {
  bool enabled = false;
  std::vector<uint32_t> tokens;  ///< of a text
  uint32_t context = 0;          ///< tokens per sequence
  uint32_t epochs = 2;           ///< over the sequences that do not judge
  uint32_t batch_tokens = 2048;  ///< whole sequences, at least so many tokens, per update
  /// Of Adam, as a share of each vector's root mean square, of gains of 1 at least, for models of up to 8 layers.
  /// Deeper ones take steps shorter by the root of their layers: what the steps of all layers do adds up.
  double learning_rate = 2e-3;
  double validation = 0.125;  ///< share of the sequences that only judges; too few for one sequence: all judge
  uint64_t seed = 1;          ///< of the order of the sequences
  /// Keeps where it is, if there is one, so that the same distillation goes on after an interruption, to the same end.
  RecoveryFiles* files = nullptr;
  double keep_seconds = 60;  ///< at least, from one time to the next
};

struct DistillResult {
  /// KL divergence from the uncompressed model, nats per token, on the sequences that judge.
  double before = 0, after = 0;
  uint32_t best_epoch = 0;  ///< whose values were kept; 0: none was better than what was there
  /// New values by tensor of the source, in its type's precision. Empty with best_epoch = 0.
  std::map<size_t, std::vector<float>> values;
};

/// source: the uncompressed model; coded: the same with weights as they are decoded (open_decoded_source).
/// replaceable: by tensor, whether it may be tuned. Routers of experts are not, whatever it says. Deterministic: the
/// same result at any number of threads. Memory: the embedding of both models, [tokens][hidden] three times, the
/// layers' inputs of a batch, and all layers where they are small, else one. progress: in tokens, of the layers'
/// passes. log: of what is kept. errors: kUnsupported (no description, an encoder), kCorrupt (not finite), kCancelled,
/// those of reading
Result<DistillResult> distill_norms(const ModelSource& source, const ModelSource& coded,
                                    const std::vector<bool>& replaceable, const DistillChoices& choices, Runner& runner,
                                    const Progress& progress, const Logger& log);

}  // namespace nwc
