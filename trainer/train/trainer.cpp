// A step cuts a batch into a fixed number of shards. Each draws its own random numbers and computes its own gradient.
// The gradients are added in order, so that nothing depends on the number of threads.
#include "trainer/train/trainer.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cmath>
#include <filesystem>

#include "trainer/train/checkpoint.h"
#include "trainer/train/train_log.h"

namespace nwc {
namespace {

constexpr uint32_t kShards = 8;  // the result depends on it, as on the gradients' order of summation
constexpr uint64_t kReportEvery = 10;
enum Purpose : uint64_t { kInit = 1, kBatch = 2 };

/// The quantiles' targets leave a tail mass of 1e-9 in all.
constexpr double kTailLogit = 21.416413017506358;  // log(2 / 1e-9 - 1)

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

TrainedParameters initial_parameters(const TrainOptions& options) {
  TrainedParameters p;
  p.preset = options.preset;
  p.shape = options.shape();
  p.lambda = level_lambdas(options);
  const CodecLayout layout(p.shape);
  p.flat.assign(layout.total, 0.0f);
  Random random({options.data.seed, kInit});
  const std::span<float> flat(p.flat);
  initialize_mlp(p.shape, &random, flat.first(layout.synthesis));
  initialize_mlp(p.shape, &random, flat.subspan(layout.synthesis, layout.synthesis));
  initialize_density(&random, flat.subspan(layout.density, DensityLayout::kTotal));
  for (uint32_t l = 0; l < p.shape.levels; ++l) {
    // The uniform error has deviation step / sqrt(12). For lambda the distortion 1 / (2 ln 2 lambda) is optimal.
    p.flat[layout.log_step + l] = static_cast<float>(0.5 * std::log(6 / (std::log(2.0) * p.lambda[l])));
  }
  for (size_t c = 0; c < kChunk; ++c) p.quantiles.insert(p.quantiles.end(), {-10.0f, 0.0f, 10.0f});
  return p;
}

/// The loss is sum |f(quantile) - target|; it moves the quantiles alone (CompressAI's auxiliary loss).
void quantile_gradient(const TrainedParameters& p, std::vector<float>* grad) {
  const CodecLayout layout(p.shape);
  const double targets[3] = {-kTailLogit, 0, kTailLogit};
  grad->assign(p.quantiles.size(), 0.0f);
  for (size_t i = 0; i < p.quantiles.size(); ++i) {
    float f = 0, slope = 0;
    const float* density = p.flat.data() + layout.density + i / 3 * DensityLayout::kPerChannel;
    FactorizedDensity<float>::logit_slope(density, p.quantiles[i], &f, &slope);
    (*grad)[i] = f > targets[i % 3] ? slope : -slope;
  }
}

Status check_size(const ChunkDataset& data, const TrainOptions& options) {
  // A step reaches into two epochs at most.
  if (data.validation_size() != 0 && data.training_size() >= options.batch) return {};
  return invalid_argument("the sources give " + std::to_string(data.training_size()) + " chunks to train on and " +
                          std::to_string(data.validation_size()) + " to validate with; a batch of " +
                          std::to_string(options.batch) + " needs as many, and one to validate with");
}

}  // namespace

struct Trainer::Impl {
  Impl(TrainState s, ChunkDataset d)
      : state(std::move(s)),
        data(std::move(d)),
        layout(state.parameters.shape),
        objective(make_objective(state.options, state.parameters.lambda)) {
    for (uint32_t i = 0; i < kShards; ++i) shards.emplace_back(state.parameters.shape, objective);
  }

  struct Shard {
    Shard(const MlpShape& shape, const LevelObjective& target) : loss(shape, target), sums(shape.levels) {}
    RdLoss<float> loss;
    LossBatch<float> batch;
    std::vector<float> grad;
    LossSums sums;
    float value = 0;
  };

  void fill_batch(uint32_t shard);
  double train_step(Runner* runner);
  std::vector<LevelFigures> validate_levels(Runner* runner);
  CodecModel finished_codec(Runner* runner) const;
  void describe(CodecModel* codec) const;
  Status write_checkpoint(const std::string& path) const;
  double epoch() const {
    return static_cast<double>(state.step) * state.options.batch / static_cast<double>(data.training_size());
  }

  TrainState state;
  ChunkDataset data;
  CodecLayout layout;
  LevelObjective objective;
  std::vector<Shard> shards;
  std::vector<float> grad, quantile_grad;
  LossSums sums;                   // what has come together since the last report
  std::vector<uint32_t> order[2];  // order[i] is that of epoch order_epoch[i]
  uint64_t order_epoch[2] = {~0ull, ~0ull};
};

/// Fills in the chunks of this step and shard with level, noise and scale. train_step has set up the order of the data.
void Trainer::Impl::fill_batch(uint32_t shard) {
  LossBatch<float>& batch = shards[shard].batch;
  const TrainOptions& o = state.options;
  const size_t count = o.batch / kShards;
  batch.x.resize(eigen_index(count), kChunk);
  batch.noise.resize(eigen_index(count), kChunk);
  batch.level.resize(count);
  const auto rounding_from = static_cast<uint64_t>(static_cast<double>(o.steps) * (1 - o.rounding_share));
  batch.proxy = state.step >= rounding_from ? Proxy::kMixed : Proxy::kNoise;
  Random random({o.data.seed, kBatch, state.step, shard});
  for (size_t n = 0; n < count; ++n) {
    const uint64_t position = state.step * o.batch + shard * count + n;
    const uint64_t in_epoch = position / data.training_size();
    const std::vector<uint32_t>& permutation = order[in_epoch == order_epoch[0] ? 0 : 1];
    const std::span<const float> chunk = data.training(permutation[position % data.training_size()]);
    batch.level[n] = static_cast<uint8_t>(random.below(o.num_levels));
    // A column's stored scale is within a sixteenth of an octave of its deviation (doc/format.md, section 5.1).
    const auto scale = static_cast<float>(std::exp2((random.uniform() - 0.5) / 8));
    for (size_t i = 0; i < kChunk; ++i) {
      batch.x(eigen_index(n), eigen_index(i)) = scale * chunk[i];
      batch.noise(eigen_index(n), eigen_index(i)) = static_cast<float>(random.uniform() - 0.5);
    }
  }
}

double Trainer::Impl::train_step(Runner* runner) {
  const TrainOptions& o = state.options;
  const uint64_t first = state.step * o.batch / data.training_size();
  const uint64_t last = ((state.step + 1) * o.batch - 1) / data.training_size();
  for (const uint64_t e : {first, last}) {
    if (order_epoch[0] == e || order_epoch[1] == e) continue;
    const size_t slot = order_epoch[0] == first ? 1 : 0;  // it is never the one that this step still needs
    order[slot] = epoch_permutation(o.data.seed, e, data.training_size());
    order_epoch[slot] = e;
  }
  TrainedParameters& p = state.parameters;
  parallel_for(*runner, kShards, [&](uint32_t index, uint32_t) {
    Shard& shard = shards[index];
    fill_batch(index);
    shard.grad.assign(layout.total, 0.0f);
    shard.sums = LossSums(o.num_levels);
    shard.value = shard.loss.evaluate(p.flat, shard.batch, 1.0f / static_cast<float>(o.batch), shard.grad, &shard.sums);
  });
  grad.assign(layout.total, 0.0f);
  double loss = 0;
  for (const Shard& shard : shards) {
    for (size_t i = 0; i < grad.size(); ++i) grad[i] += shard.grad[i];
    sums.add(shard.sums);
    loss += static_cast<double>(shard.value);
  }
  quantile_gradient(p, &quantile_grad);
  const double rate = cosine_learning_rate(state.step, o.steps, o.warmup, o.learning_rate, o.final_rate);
  state.main.step(p.flat, grad, rate, o.clip_norm);
  state.auxiliary.step(p.quantiles, quantile_grad, o.auxiliary_rate, 0);
  // Beyond e^60 a float's exponential would soon not be a number any more; no sane run comes near.
  for (size_t i = layout.log_step; i < layout.total; ++i) p.flat[i] = std::clamp(p.flat[i], -60.0f, 60.0f);
  ++state.step;
  return loss;
}

std::vector<LevelFigures> Trainer::Impl::validate_levels(Runner* runner) {
  const std::span<const float> chunks = data.validation();
  const size_t count = data.validation_size();
  const size_t per_shard = (count + kShards - 1) / kShards;
  std::vector<LevelFigures> figures(state.options.num_levels);
  for (uint32_t level = 0; level < state.options.num_levels; ++level) {
    parallel_for(*runner, kShards, [&](uint32_t index, uint32_t) {
      Shard& shard = shards[index];
      const size_t begin = std::min(count, index * per_shard), end = std::min(count, begin + per_shard);
      shard.sums = LossSums(state.options.num_levels);
      if (begin == end) return;
      shard.batch.x = ConstMatrixMap<float>(chunks.data() + begin * kChunk, eigen_index(end - begin), kChunk);
      shard.batch.level.assign(end - begin, static_cast<uint8_t>(level));
      shard.batch.proxy = Proxy::kRounding;
      shard.loss.evaluate(state.parameters.flat, shard.batch, 1.0f, {}, &shard.sums);
    });
    double bits = 0, error = 0;
    for (const Shard& shard : shards) bits += shard.sums.bits[level], error += shard.sums.squared_error[level];
    const auto weights = static_cast<double>(count * kChunk);
    LevelFigures& f = figures[level];
    f.lambda = objective.lambda[level];
    f.step = std::exp(static_cast<double>(state.parameters.flat[layout.log_step + level]));
    f.bpw = bits / weights;
    f.mse = error / weights;
    f.gap = f.bpw - 0.5 * std::log2(1 / f.mse);
  }
  return figures;
}

void Trainer::Impl::describe(CodecModel* codec) const {
  codec->provenance = describe_training(state.options, codec->record.codec_id);
  codec->name = codec->provenance["codec"];
}

CodecModel Trainer::Impl::finished_codec(Runner* runner) const {
  CodecModel codec = make_codec(state.parameters);
  const uint64_t sample = std::min<uint64_t>(state.options.freeze_chunks, data.training_size());
  freeze_codec(data.training_chunks(static_cast<size_t>(sample)), runner, &codec);
  describe(&codec);
  return codec;
}

Status Trainer::Impl::write_checkpoint(const std::string& path) const {
  CodecModel codec = make_codec(state.parameters);
  freeze_from_density(&codec);
  describe(&codec);
  return save_checkpoint(state, codec, path);
}

Trainer::Trainer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Trainer::Trainer(Trainer&&) noexcept = default;
Trainer& Trainer::operator=(Trainer&&) noexcept = default;
Trainer::~Trainer() = default;

Result<Trainer> Trainer::create(const TrainOptions& options) {
  NWC_TRY(validate(options));
  NWC_ASSIGN_OR_RETURN(ChunkDataset data, ChunkDataset::load(options.data));
  return create(options, std::move(data));
}

Result<Trainer> Trainer::create(const TrainOptions& options, ChunkDataset data) {
  TrainState state;
  state.options = options;
  TrainOptions& o = state.options;
  if (!o.init_codec.empty()) {
    NWC_ASSIGN_OR_RETURN(const CodecModel codec, load_codec(o.init_codec));
    state.parameters = take_parameters(codec);
    const MlpShape& shape = state.parameters.shape;
    o.preset = codec.record.preset;
    o.width = shape.width, o.blocks = shape.blocks, o.num_levels = shape.levels;
    o.activation = shape.activation, o.layer_norm = shape.layer_norm;
    if (num_parameters(shape) != flatten(codec.record.synthesis).size() ||
        codec.record.synthesis.activation != shape.activation) {
      return unsupported(o.init_codec +
                         ": its analysis and synthesis networks differ in shape; it cannot be trained on");
    }
    NWC_TRY(validate(o));
  } else {
    NWC_TRY(validate(o));
    state.parameters = initial_parameters(o);
  }
  NWC_TRY(check_size(data, o));
  state.data_digest = data.digest();
  state.main = Adam(state.parameters.flat.size());
  state.auxiliary = Adam(state.parameters.quantiles.size());
  return Trainer(std::make_unique<Impl>(std::move(state), std::move(data)));
}

Result<Trainer> Trainer::resume(const std::string& checkpoint) {
  NWC_ASSIGN_OR_RETURN(const TrainState state, load_checkpoint(checkpoint));
  NWC_ASSIGN_OR_RETURN(ChunkDataset data, ChunkDataset::load(state.options.data));
  return resume(checkpoint, std::move(data));
}

Result<Trainer> Trainer::resume(const std::string& checkpoint, ChunkDataset data) {
  NWC_ASSIGN_OR_RETURN(TrainState state, load_checkpoint(checkpoint));
  if (state.data_digest != data.digest()) {
    return invalid_argument(checkpoint +
                            ": the training data is not what this run began with; start a new run, with the "
                            "checkpoint's codec as --init");
  }
  NWC_TRY(check_size(data, state.options));
  return Trainer(std::make_unique<Impl>(std::move(state), std::move(data)));
}

const TrainOptions& Trainer::options() const { return impl_->state.options; }
const ChunkDataset& Trainer::data() const { return impl_->data; }
uint64_t Trainer::step() const { return impl_->state.step; }

CodecModel Trainer::freeze(uint32_t threads) const {
  const std::unique_ptr<Runner> runner = make_thread_pool(threads);
  return impl_->finished_codec(runner.get());
}

Status Trainer::run(const RunOptions& run, const TrainCallback& callback) {
  Impl& t = *impl_;
  const TrainOptions& o = t.state.options;
  const std::unique_ptr<Runner> runner = make_thread_pool(run.threads);
  NWC_ASSIGN_OR_RETURN(TrainLog log, TrainLog::open(run.log, t.state.step != 0));
  const auto start = std::chrono::steady_clock::now();
  const uint64_t first_step = t.state.step;
  double last_checkpoint = 0, loss_sum = 0;
  uint64_t loss_steps = 0;
  t.sums = LossSums(o.num_levels);

  // A training that has ended before reports its figures again, without a line in the log.
  if (first_step >= o.steps && callback) {
    const std::vector<LevelFigures> figures = t.validate_levels(runner.get());
    TrainProgress progress;
    progress.step = t.state.step;
    progress.steps = o.steps;
    progress.epoch = t.epoch();
    progress.validation = &figures;
    progress.seconds = seconds_since(start);
    (void)callback(progress);
  }
  while (t.state.step < o.steps) {
    const double loss = t.train_step(runner.get());
    if (!std::isfinite(loss)) {
      return Status(StatusCode::kInternal, "step " + std::to_string(t.state.step) +
                                               ": the loss is not finite any more; lower the learning rate and resume "
                                               "from the last checkpoint");
    }
    loss_sum += loss;
    loss_steps += 1;
    const bool finished = t.state.step == o.steps;
    const bool validates = finished || (o.eval_every != 0 && t.state.step % o.eval_every == 0);
    bool keep_going = true;
    if (validates || t.state.step % kReportEvery == 0) {
      TrainProgress progress;
      progress.step = t.state.step;
      progress.steps = o.steps;
      progress.epoch = t.epoch();
      double chunks = 0, bits = 0, error = 0;
      for (uint32_t l = 0; l < o.num_levels; ++l) {
        chunks += t.sums.chunks[l], bits += t.sums.bits[l], error += t.sums.squared_error[l];
      }
      progress.rate = bits / (chunks * kChunk);
      progress.distortion = error / (chunks * kChunk);
      progress.loss = loss_sum / static_cast<double>(loss_steps);
      std::vector<LevelFigures> figures;
      if (validates) {
        figures = t.validate_levels(runner.get());
        progress.validation = &figures;
      }
      progress.seconds = seconds_since(start);
      progress.eta_seconds = progress.seconds / static_cast<double>(t.state.step - first_step) *
                             static_cast<double>(o.steps - t.state.step);
      NWC_TRY(log.write(progress));
      if (callback) keep_going = callback(progress);
      t.sums = LossSums(o.num_levels);
      loss_sum = 0;
      loss_steps = 0;
    }
    const bool due = (run.checkpoint_steps != 0 && t.state.step % run.checkpoint_steps == 0) ||
                     (run.checkpoint_seconds > 0 && seconds_since(start) - last_checkpoint >= run.checkpoint_seconds);
    if (!run.checkpoint.empty() && (due || finished || !keep_going)) {
      NWC_TRY(t.write_checkpoint(run.checkpoint));
      last_checkpoint = seconds_since(start);
    }
    if (!keep_going && !finished) return Status(StatusCode::kCancelled, "training was cancelled");
  }
  if (run.output.empty()) return {};
  return save_codec(t.finished_codec(runner.get()), run.output);
}

}  // namespace nwc
