// nwc train: learns a codec from the weights of one or many models.

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "host-tools/cli.h"
#include "host-tools/codec_path.h"
#include "host-tools/model_input.h"
#include "host-tools/output_name.h"
#include "trainer/data/fs_path.h"
#include "trainer/data/output_path.h"
#include "trainer/train/chunk_dataset.h"
#include "trainer/train/trainer.h"

namespace nwc::cli {
namespace {

struct TrainCommand {
  std::string preset = "linear", scheme = "universal", init, resume, activation;
  TrainOptions train;
  RunOptions run;
  std::optional<Command> arguments;
};

// The preset's settings, with what the user gave explicitly on top.
Result<TrainOptions> merge_options(const TrainCommand& command) {
  const TrainOptions& given = command.train;
  const Preset preset = command.preset == "linear"  ? Preset::kLinear
                        : command.preset == "small" ? Preset::kSmall
                        : command.preset == "paper" ? Preset::kPaper
                                                    : Preset::kOther;
  TrainOptions options = preset_options(preset);
  const auto set = [&](const char* name, auto TrainOptions::*field) {
    if (command.arguments->given(name)) options.*field = given.*field;
  };
  set("--width", &TrainOptions::width);
  set("--blocks", &TrainOptions::blocks);
  set("--layer-norm", &TrainOptions::layer_norm);
  set("--levels", &TrainOptions::num_levels);
  set("--min-bpw", &TrainOptions::min_bpw);
  set("--max-bpw", &TrainOptions::max_bpw);
  set("--lambda", &TrainOptions::lambda);
  set("--steps", &TrainOptions::steps);
  set("--batch", &TrainOptions::batch);
  set("--lr", &TrainOptions::learning_rate);
  set("--final-lr", &TrainOptions::final_rate);
  set("--aux-lr", &TrainOptions::auxiliary_rate);
  set("--warmup", &TrainOptions::warmup);
  set("--clip", &TrainOptions::clip_norm);
  set("--rounding-share", &TrainOptions::rounding_share);
  set("--eval-every", &TrainOptions::eval_every);
  if (command.arguments->given("--scheme"))
    options.scheme = command.scheme == "paper" ? LevelScheme::kPaper : LevelScheme::kUniversal;
  if (options.scheme == LevelScheme::kPaper) options.num_levels = 4;
  if (command.arguments->given("--activation"))
    options.activation = command.activation == "silu" ? Activation::kSilu : Activation::kRelu;
  options.data = given.data;
  if (!command.init.empty()) {
    NWC_ASSIGN_OR_RETURN(options.init_codec, find_codec(command.init));
  }
  return options;
}

nlohmann::json figures_json(const std::vector<LevelFigures>& figures) {
  nlohmann::json levels = nlohmann::json::array();
  for (const LevelFigures& f : figures)
    levels.push_back({{"lambda", f.lambda}, {"step", f.step}, {"bpw", f.bpw}, {"mse", f.mse}, {"gap", f.gap}});
  return levels;
}

/// Codec, checkpoint and log can be written, are none of the files that are read, and are named like what they are. A
/// checkpoint may replace the one that it continues.
Status check_train_outputs(const RunOptions& run, const std::string& resume, std::vector<std::string> inputs) {
  const Output outputs[] = {{run.output}, {run.checkpoint}, {run.log, true}};
  NWC_TRY(check_before_work(outputs, inputs));
  const Output others[] = {outputs[0], outputs[2]};
  NWC_TRY(check_before_work(others, {&resume, 1}));
  NWC_TRY(check_output_name(run.output, {".nwcc"}, "name the codec .nwcc"));
  return check_output_name(run.checkpoint, {".nwck"}, "name the checkpoint .nwck");
}

Status train(const TrainCommand& command, Context& context) {
  RunOptions run = command.run;
  run.threads = context.threads;
  if (run.checkpoint.empty()) run.checkpoint = fs_path(run.output).replace_extension(".nwck").string();
  std::vector<std::string> inputs = command.train.data.sources;
  if (!command.init.empty()) {
    NWC_ASSIGN_OR_RETURN(inputs.emplace_back(), find_codec(command.init));
  }
  NWC_TRY(check_train_outputs(run, command.resume, inputs));
  Result<Trainer> created = [&]() -> Result<Trainer> {
    if (!command.resume.empty()) return Trainer::resume(command.resume);
    if (command.train.data.sources.empty())
      return invalid_argument("name at least one model to learn from, or a checkpoint with --resume");
    NWC_ASSIGN_OR_RETURN(const TrainOptions options, merge_options(command));
    NWC_TRY(validate(options));
    return Trainer::create(options);
  }();
  NWC_ASSIGN_OR_RETURN(Trainer trainer, std::move(created));
  for (const ChunkDataset::NotesOf& source : trainer.data().notes()) {
    warn_of_notes(source.source, source.notes, context);
  }
  // Which models a resumed training reads is known only now.
  NWC_TRY(check_train_outputs(run, command.resume, trainer.options().data.sources));
  if (!context.json && !context.quiet)
    fmt::print(stderr, "training on {} of {} chunks, {} held out, step {} of {}\n",
               format_count(trainer.data().training_size()), format_count(trainer.data().available()),
               format_count(trainer.data().validation_size()), trainer.step(), trainer.options().steps);

  if (trainer.step() >= trainer.options().steps)
    context.logger().log(LogLevel::kWarning,
                         fmt::format("the training in {} has ended after {} steps, nothing is left to do; to train on, "
                                     "start a new one with --init CODEC",
                                     command.resume, trainer.step()));
  std::vector<LevelFigures> last;
  TrainProgress end;
  {
    ProgressLine line(context, "training");
    const Status status = trainer.run(run, [&](const TrainProgress& p) {
      if (p.validation != nullptr) last = *p.validation;
      end = p;
      return line.report(p.step, p.steps,
                         fmt::format("epoch {:.2f}, rate {:.3f} bpw, distortion {:.3g}, loss {:.4f}", p.epoch, p.rate,
                                     p.distortion, p.loss));
    });
    if (status.code() == StatusCode::kCancelled)
      return Status(StatusCode::kCancelled, "stopped at step " + std::to_string(trainer.step()) +
                                                "; continue with: nwc train --resume " + run.checkpoint + " -o " +
                                                run.output);
    NWC_TRY(status);
  }
  std::error_code ignored;
  const uint64_t bytes = std::filesystem::file_size(fs_path(run.output), ignored);
  if (context.json) {
    context.print_json({{"codec", run.output},
                        {"bytes", bytes},
                        {"steps", trainer.step()},
                        {"training_chunks", trainer.data().training_size()},
                        {"seconds", end.seconds},
                        {"levels", figures_json(last)}});
    return {};
  }
  fmt::print("{:>5} {:>12} {:>9} {:>8} {:>11} {:>8}\n", "level", "lambda", "step", "bpw", "mse", "gap");
  for (size_t i = 0; i < last.size(); ++i)
    fmt::print("{:5} {:12.4g} {:9.4f} {:8.3f} {:11.4g} {:8.3f}\n", i, last[i].lambda, last[i].step, last[i].bpw,
               last[i].mse, last[i].gap);
  fmt::print("gap: bits above the Shannon bound of a Gaussian source of the same variance, on held-out weights\n");
  fmt::print("wrote {} ({})\n", run.output, format_bytes(bytes));
  return {};
}

}  // namespace

void add_train(CommandLine& line, Context& context) {
  auto command = std::make_shared<TrainCommand>();
  Command sub = line.add_command("train", "Learn a codec from the weights of one or many models");
  command->arguments = sub;
  TrainOptions& t = command->train;
  sub.add_option("models", t.data.sources, "Hugging Face folders, .gguf or .safetensors files");
  sub.add_option("-o,--output", command->run.output, "Codec file to write (.nwcc)").required();
  sub.add_option(
         "--preset", command->preset,
         "Size of the network that decodes 16 weights together: linear (one 16 x 16 matrix), small (64 wide, 2 hidden "
         "blocks), paper (512 wide, 4 blocks) or other")
      .one_of({"linear", "small", "paper", "other"})
      .show_default();
  sub.add_option("--init", command->init, "Fine-tune this codec (name or file)");
  sub.add_option("--resume", command->resume, "Continue from a checkpoint (.nwck); other training options are ignored");

  sub.add_option("--width", t.width, "Width of the networks for encoding and decoding")
      .group("Network (default: the preset's)");
  sub.add_option("--blocks", t.blocks, "Hidden blocks of each network").group("Network (default: the preset's)");
  sub.add_option("--activation", command->activation, "relu or silu")
      .one_of({"relu", "silu"})
      .group("Network (default: the preset's)");
  sub.add_flag("--layer-norm,!--no-layer-norm", t.layer_norm, "Normalize inside the blocks (LayerNorm)")
      .group("Network (default: the preset's)");

  sub.add_option("--scheme", command->scheme,
                 "universal (levels for all rates from --min-bpw to --max-bpw), or paper (4 levels around --lambda)")
      .one_of({"universal", "paper"})
      .group("Rates");
  sub.add_option("--levels", t.num_levels, "Number of levels: how finely weights can be rounded").group("Rates");
  sub.add_option("--min-bpw", t.min_bpw, "Bits per weight of the lowest level").group("Rates");
  sub.add_option("--max-bpw", t.max_bpw, "Bits per weight of the highest level").group("Rates");
  sub.add_option("--lambda", t.lambda, "Scheme paper: what squared error costs in bits").group("Rates");

  sub.add_option("--steps", t.steps, "Training steps").group("Optimization");
  sub.add_option("--batch", t.batch, "Chunks of 16 weights per step").group("Optimization");
  sub.add_option("--lr", t.learning_rate, "Adam's peak learning rate").group("Optimization");
  sub.add_option("--final-lr", t.final_rate, "Learning rate at the last step").group("Optimization");
  sub.add_option("--aux-lr", t.auxiliary_rate, "Learning rate of the entropy model's quantiles").group("Optimization");
  sub.add_option("--warmup", t.warmup, "Steps over which the learning rate rises to its peak").group("Optimization");
  sub.add_option("--clip", t.clip_norm, "Largest norm of the gradient; 0: any").group("Optimization");
  sub.add_option("--rounding-share", t.rounding_share,
                 "Share of the steps, the last ones, that train with rounded values instead of noise, 0 to 1")
      .group("Optimization");
  sub.add_option("--eval-every", t.eval_every, "Steps between validations; 0: only at the end").group("Optimization");
  sub.add_option("--seed", t.data.seed, "Seed of data order, initialization and noise").group("Optimization");

  sub.add_flag("--embedding", t.data.include_embedding, "Learn from embeddings too").group("Data");
  sub.add_option("--max-chunks", t.data.max_chunks, "Chunks of 16 weights kept in memory, 64 bytes each").group("Data");
  sub.add_option("--validation-chunks", t.data.validation_chunks, "Chunks held out").group("Data");

  sub.add_option("--log", command->run.log, "Write a log of JSON lines; with --resume lines are added to it")
      .group("Checkpoints and log");
  sub.add_option("--checkpoint", command->run.checkpoint, "Checkpoint file (default: beside the output, .nwck)")
      .group("Checkpoints and log");
  sub.add_option("--checkpoint-steps", command->run.checkpoint_steps, "Steps between checkpoints; 0: by time only")
      .group("Checkpoints and log");
  sub.add_option("--checkpoint-seconds", command->run.checkpoint_seconds,
                 "Seconds between checkpoints; 0: by steps only")
      .group("Checkpoints and log");
  add_common_options(sub, context);
  sub.on_run([command, &context] { run_command(context, "train", [&] { return train(*command, context); }); });
}

}  // namespace nwc::cli
