// Training of a codec, from options or from a checkpoint, to a codec file.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "trainer/codec/codec_model.h"
#include "trainer/train/train_options.h"

namespace nwc {

/// Where a run reads and writes, and how fast: nothing of it changes the result.
struct RunOptions {
  uint32_t threads = 0;             ///< 0: one per hardware thread
  std::string output;               ///< codec file, written at the end; empty: none
  std::string checkpoint;           ///< written at the intervals below, when cancelled and at the end; empty: none
  uint64_t checkpoint_steps = 0;    ///< 0: by time alone
  double checkpoint_seconds = 300;  ///< 0: by steps alone
  std::string log;                  ///< JSON lines, appended to by a resumed run; empty: none
};

/// One validated level: real rounding, rate by the learned density.
struct LevelFigures {
  double lambda = 0;
  double step = 0;
  double bpw = 0;
  double mse = 0;  ///< of weights of unit deviation
  double gap = 0;  ///< bpw - 0.5 log2(1 / mse): bits above the Shannon bound of a Gaussian source
};

struct TrainProgress {
  uint64_t step = 0, steps = 0;  ///< steps done, of
  double epoch = 0;
  double rate = 0;        ///< bits per weight, mean over the levels, since the last report
  double distortion = 0;  ///< mean squared error, likewise
  double loss = 0;
  double seconds = 0;                                     ///< of this run
  double eta_seconds = 0;                                 ///< estimated time to the end
  const std::vector<LevelFigures>* validation = nullptr;  ///< set when this report follows a validation
};
/// Called about once per log interval, on the calling thread; false cancels.
using TrainCallback = std::function<bool(const TrainProgress&)>;

class Trainer {
 public:
  /// Loads the data. errors: kInvalidArgument, those of ChunkDataset::load and load_codec
  static Result<Trainer> create(const TrainOptions& options);
  /// The same on chunks at hand (options.data.sources is not read).
  static Result<Trainer> create(const TrainOptions& options, ChunkDataset data);
  /// Continues bit for bit. The sources must be where they were and unchanged.
  /// safety: the checkpoint is untrusted. errors: as every file's; kInvalidArgument, when the data is not the same
  static Result<Trainer> resume(const std::string& checkpoint);
  static Result<Trainer> resume(const std::string& checkpoint, ChunkDataset data);
  Trainer(Trainer&&) noexcept;
  Trainer& operator=(Trainer&&) noexcept;
  ~Trainer();

  const TrainOptions& options() const;
  const ChunkDataset& data() const;
  uint64_t step() const;  ///< steps done

  /// Trains to the last step, then freezes, validates and writes the codec. The result is the same at any number of
  /// threads. errors: kCancelled (after writing the checkpoint), kIo, kInternal (the loss is not finite any more)
  Status run(const RunOptions& run, const TrainCallback& callback = {});

  /// The codec of the current parameters, tables frozen on a sample of the data.
  CodecModel freeze(uint32_t threads) const;

 private:
  struct Impl;
  explicit Trainer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace nwc
