// The options of a training run: everything that its result depends on. Checkpoints store them.
#pragma once

#include <string>
#include <vector>

#include "runtime/base/status.h"
#include "trainer/nn/mlp.h"
#include "trainer/train/chunk_dataset.h"
#include "trainer/train/rd_loss.h"

namespace nwc {

enum class LevelScheme : uint32_t {
  kUniversal = 0,  ///< K levels evenly spaced in log(lambda) from min_bpw to max_bpw, equal shares of the loss
  kPaper = 1,      ///< K = 4, lambda_I = {0.29, 0.83, 10, 20}, loss rate / lambda_I + lambda * MSE (paper, section E)
};

struct TrainOptions {
  Preset preset = Preset::kLinear;
  // Network; preset_options() fills these.
  uint32_t width = 0;
  uint32_t blocks = 0;
  Activation activation = Activation::kNone;
  bool layer_norm = false;
  // Levels.
  LevelScheme scheme = LevelScheme::kUniversal;
  uint32_t num_levels = 32;
  double min_bpw = 1.25;  ///< universal: what level 0 aims at by the high-rate formula; it ends at about 1.5
  double max_bpw = 8;
  double lambda = 100;  ///< paper
  // Optimization.
  uint64_t steps = 2000;
  uint32_t batch = 2048;         ///< chunks
  double learning_rate = 1e-4;   ///< peak; paper: 1e-4, constant
  double final_rate = 1e-4;      ///< at the last step, reached along a cosine
  double auxiliary_rate = 1e-3;  ///< of the quantiles
  uint64_t warmup = 100;
  double clip_norm = 1;            ///< of the gradient; 0: never clipped
  double rounding_share = 0.25;    ///< last part of the steps in which the distortion sees rounded latents, not noise
  uint64_t eval_every = 500;       ///< steps between validations; 0: only at the end
  uint64_t freeze_chunks = 65536;  ///< sample that the frozen tables are counted on
  DatasetOptions data;             ///< data.seed is the seed of everything
  std::string init_codec;          ///< fine-tune this codec: its network and levels replace those above (paper, A.3)

  MlpShape shape() const {
    return {.width = width, .blocks = blocks, .activation = activation, .layer_norm = layer_norm, .levels = num_levels};
  }
};

/// The settings of codecs/<preset>.nwcc; kOther starts as kSmall.
TrainOptions preset_options(Preset preset);

/// errors: kInvalidArgument naming the option and its range
Status validate(const TrainOptions& options);

/// lambda [K] of each level, in bits per weight and unit of mean squared error of weights of unit deviation.
std::vector<float> level_lambdas(const TrainOptions& options);
/// With each level's share of the loss: 1, or with the paper's levels 1 / lambda_I.
LevelObjective make_objective(const TrainOptions& options, std::span<const float> lambda);

/// Every field, in order; the inverse reads untrusted bytes, and validates.
void write_options(const TrainOptions& options, ByteWriter* writer);
Status read_options(ByteReader* reader, TrainOptions* options);

}  // namespace nwc
