#include "host-tools/calibration_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "host-tools/embedder.h"
#include "host-tools/model_input.h"
#include "host-tools/quality.h"
#include "trainer/data/fs_path.h"
#include "trainer/encode/raw_image.h"
#include "trainer/llm/model_graph.h"
#include "trainer/text/kept_tokens.h"
#include "trainer/text/self_text.h"

namespace nwc::cli {
namespace {

namespace fs = std::filesystem;

/// Below effort 5 and of encoders, and from there on: models of 512 and of 1,536 inputs gain 7 and 8 % by having 49,152
/// tokens in place of 16,384 (doc/measurements.md, Statistics of the calibration).
constexpr uint64_t kLeastTokensFast = 16384, kLeastTokens = kDistillTokens, kMostTokens = 65536;
constexpr uint64_t kTokensPerInputFast = 4, kTokensPerInput = 32;
constexpr uint32_t kThoroughEffort = 5;
/// Of text that is measured on, not calibrated with.
constexpr uint64_t kHeldOutSeed = 0x6865646c6f7574;
/// Part of the recipe: raise it when another text is written for the same options.
constexpr int kTextVersion = 1;

/// The files of a word of --calib.
Result<std::vector<std::string>> files_of(const std::string& word) {
  std::error_code error;
  if (!fs::is_directory(fs_path(word), error)) return std::vector<std::string>{word};
  std::vector<std::string> files;
  for (fs::directory_iterator at(fs_path(word), error), end; !error && at != end; at.increment(error)) {
    if (at->path().extension() == ".txt") files.push_back(at->path().string());
  }
  if (error) return io_error(word + ": cannot be read: " + error.message());
  if (files.empty()) return invalid_argument("--calib " + word + ": the folder has no .txt files");
  std::sort(files.begin(), files.end());
  return files;
}

/// Why the model cannot calibrate itself; ok: it can.
Status can_write(const ModelSource& source) {
  if (!source.model()) {
    const std::string why = join_notes(source.notes(), NoteKind::kModelLeftOut);
    return unsupported("there is no model description" + (why.empty() ? "" : ": " + why));
  }
  if (source.model()->is_encoder()) return unsupported("an encoder writes no text");
  return ModelGraph::open(source, calibration_context(*source.model(), 0)).status();
}

}  // namespace

uint64_t default_drift_tokens(const ModelSource& source) {
  constexpr double kTokensTimesWeights = 3e13;
  double weights = 1;
  for (const SourceTensor& t : source.tensors()) weights += static_cast<double>(t.num_elements());
  const auto tokens = static_cast<uint64_t>(kTokensTimesWeights / weights);
  return std::clamp(tokens, kLeastTokensFast, kDistillTokens);
}

uint64_t default_calibration_tokens(const ModelRecord& model, uint32_t effort) {
  uint64_t widest = model.hidden_size;
  for (const BlockSpec& block : model.blocks)
    widest = std::max<uint64_t>({widest, block.q_width(), block.intermediate_size, block.experts.intermediate_size});
  const bool fast = effort < kThoroughEffort || model.is_encoder();
  const uint64_t per_input = fast ? kTokensPerInputFast : kTokensPerInput;
  return std::clamp(widest * per_input, fast ? kLeastTokensFast : kLeastTokens, kMostTokens);
}

Result<CalibrationPlan> CalibrationPlan::resolve(const std::vector<std::string>& words, const std::string& model_path,
                                                 std::shared_ptr<const ModelSource> source, const Context& context) {
  CalibrationPlan plan;
  plan.source_ = std::move(source);
  plan.model_path_ = model_path;
  const bool of_images = plan.source_->model() && plan.source_->model()->ends.encoder.of_images();
  for (const char* alone : {"self", "none"}) {
    if (words.size() > 1 && std::find(words.begin(), words.end(), alone) != words.end())
      return invalid_argument(fmt::format("--calib {} stands alone; texts can be given several at a time", alone));
  }
  if (words == std::vector<std::string>{"none"}) return plan;
  if (words.empty() || words[0] == "self") {
    const Status able = can_write(*plan.source_);
    if (able.ok()) {
      plan.kind_ = Kind::kSelf;
    } else if (!words.empty()) {
      return able.with_context(model_path + ": --calib self");
    } else if (plan.source_->model()) {
      context.logger().log(LogLevel::kWarning,
                           fmt::format("{}: not calibrated, since {}{}; --calib none says that this is wanted",
                                       model_path, able.message(),
                                       of_images ? "; --calib FOLDER calibrates with the pictures in it"
                                                 : "; --calib TEXT calibrates with a text where the model can be run"));
    }
    return plan;
  }
  if (of_images) {
    plan.kind_ = Kind::kImages;
    for (const std::string& word : words) {
      std::error_code error;
      std::vector<std::string> files = {word};
      if (fs::is_directory(fs_path(word), error)) {
        NWC_ASSIGN_OR_RETURN(files, list_pictures(word));
      }
      plan.files_.insert(plan.files_.end(), files.begin(), files.end());
    }
    return plan;
  }
  plan.kind_ = Kind::kTexts;
  for (const std::string& word : words) {
    NWC_ASSIGN_OR_RETURN(const std::vector<std::string> files, files_of(word));
    plan.files_.insert(plan.files_.end(), files.begin(), files.end());
  }
  for (const std::string& file : plan.files_) {
    NWC_ASSIGN_OR_RETURN(plan.texts_.emplace_back(), read_text(file));
  }
  return plan;
}

/// Spread over all, for a folder's first files may be of one kind.
std::vector<size_t> CalibrationPlan::chosen_images(uint64_t limit) const {
  const uint64_t of_image = source_->model()->max_positions;
  const size_t count = std::min<size_t>(files_.size(), static_cast<size_t>(std::max<uint64_t>(1, limit / of_image)));
  std::vector<size_t> chosen;
  for (size_t i = 0; i < count; ++i) chosen.push_back(i * files_.size() / count);
  return chosen;
}

/// Of the file that says how the model has pictures prepared; 0: there is none.
Result<uint32_t> CalibrationPlan::preparation_number() const {
  NWC_ASSIGN_OR_RETURN(const SourceFiles files, source_->source_files());
  const SourceFile* config = files.record.find(kImageConfigName);
  return config == nullptr ? 0 : crc32(config->bytes);
}

/// Says what the picture is, and how it is prepared.
Result<uint32_t> CalibrationPlan::image_number(size_t i, uint32_t preparation) const {
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Reader> reader, open_file_reader(files_[i]));
  std::vector<uint8_t> bytes(static_cast<size_t>(reader->size()));
  const Status read = reader->read(0, bytes);
  if (!read.ok()) return read.with_context(files_[i]);
  return crc32(bytes, preparation);
}

Result<std::vector<uint32_t>> CalibrationPlan::image_tokens(uint64_t limit) const {
  NWC_ASSIGN_OR_RETURN(const uint32_t preparation, preparation_number());
  std::vector<uint32_t> tokens;
  for (const size_t i : chosen_images(limit)) {
    NWC_ASSIGN_OR_RETURN(const uint32_t number, image_number(i, preparation));
    tokens.insert(tokens.end(), source_->model()->max_positions, number);
  }
  return tokens;
}

Result<std::vector<float>> CalibrationPlan::image_states(std::span<const uint32_t> images, uint64_t limit,
                                                         const Context& context) const {
  NWC_ASSIGN_OR_RETURN(const uint32_t preparation, preparation_number());
  std::map<uint32_t, size_t> file_of;
  for (const size_t i : chosen_images(limit)) {
    NWC_ASSIGN_OR_RETURN(const uint32_t number, image_number(i, preparation));
    file_of[number] = i;
  }
  SessionParams exact;
  exact.weight_dtype = Dtype::kF32;
  DeviceOptions device;
  device.backend = "cpu";
  NWC_ASSIGN_OR_RETURN(Embedder embedder, Embedder::open(model_path_, exact, device, context, 0.05));
  std::vector<float> states;
  for (const uint32_t number : images) {
    const auto found = file_of.find(number);
    if (found == file_of.end()) return invalid_argument("a picture has changed since the calibration began");
    NWC_ASSIGN_OR_RETURN(const std::span<const float> of_image, embedder.png_states(files_[found->second]));
    states.insert(states.end(), of_image.begin(), of_image.end());
  }
  return states;
}

// Every text has the same share of the tokens, in whole sequences; what a short one lacks is not made up for.
Result<std::vector<uint32_t>> CalibrationPlan::mixed_tokens(uint64_t limit, uint32_t context_tokens) const {
  if (texts_.size() == 1) return calibration_tokens(*source_, texts_[0], limit, context_tokens);
  std::vector<uint32_t> all;
  const uint64_t sequences = std::max<uint64_t>(texts_.size(), limit / context_tokens);
  for (size_t i = 0; i < texts_.size(); ++i) {
    const uint64_t share = sequences * (i + 1) / texts_.size() - sequences * i / texts_.size();
    Result<std::vector<uint32_t>> part =
        calibration_tokens(*source_, texts_[i], share * context_tokens, context_tokens);
    if (!part.ok()) return part.status().with_context(files_[i]);
    // A text that ended in the middle of a sequence would shift all that follow.
    if (i + 1 != texts_.size()) part->resize(part->size() / context_tokens * context_tokens);
    all.insert(all.end(), part->begin(), part->end());
  }
  if (all.size() < 2) return invalid_argument("--calib: each text has less than one sequence of tokens");
  return all;
}

/// The model as what the runtime runs.
Result<std::unique_ptr<NwcFile>> CalibrationPlan::uncompressed(const Context& context, bool checksums) const {
  NWC_ASSIGN_OR_RETURN(std::unique_ptr<Reader> reader, make_raw_image(source_, context.threads, checksums));
  return NwcFile::open(std::move(reader));
}

Result<uint64_t> CalibrationPlan::writing_memory_bytes(const CalibrationOptions& options, uint64_t count,
                                                       const Context& context) const {
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<NwcFile> file, uncompressed(context, false));
  return self_text_memory_bytes(*file,
                                {.tokens = count, .context = calibration_context(*source_->model(), options.context)});
}

Result<std::vector<uint32_t>> CalibrationPlan::own_text(uint64_t count, uint64_t seed, uint32_t context_tokens,
                                                        const std::string& folder, const Context& context) const {
  const std::string path = folder.empty() ? "" : fmt::format("{}/text-{}.tokens", folder, seed);
  const auto write = [&]() -> Result<std::vector<uint32_t>> {
    NWC_ASSIGN_OR_RETURN(const std::unique_ptr<NwcFile> file, uncompressed(context, true));
    DeviceOptions device;
    device.backend = "cpu";
    NWC_ASSIGN_OR_RETURN(const DecoderHandle decoder, make_decoder(*file, device, context));
    const std::unique_ptr<Runner> runner = make_thread_pool(context.threads);
    const SelfTextOptions options{.tokens = count, .context = context_tokens, .seed = seed};
    ProgressLine line(context, "the model writes a text", 0.2);
    return write_self_text(*file, *decoder.decoder, *runner, options, line.callback(), context.logger());
  };
  return kept_tokens(path, source_->model()->vocab_size, write);
}

Result<std::vector<uint32_t>> CalibrationPlan::tokens(const CalibrationOptions& options, uint64_t limit,
                                                      uint64_t written, const std::string& folder,
                                                      const Context& context) const {
  const uint32_t context_tokens = calibration_context(*source_->model(), options.context);
  if (kind_ == Kind::kTexts) return mixed_tokens(limit, context_tokens);
  if (kind_ == Kind::kImages) return image_tokens(limit);
  NWC_ASSIGN_OR_RETURN(std::vector<uint32_t> tokens, own_text(written, options.seed, context_tokens, folder, context));
  if (tokens.size() > limit) tokens.resize(static_cast<size_t>(limit));
  return tokens;
}

Result<std::vector<uint32_t>> CalibrationPlan::held_out(const CalibrationOptions& options, uint64_t limit,
                                                        const std::string& folder, const Context& context) const {
  return own_text(limit, options.seed + kHeldOutSeed, calibration_context(*source_->model(), options.context), folder,
                  context);
}

CalibrationInput CalibrationPlan::input(const CalibrationOptions& options, uint64_t written,
                                        const Context& context) const {
  CalibrationInput input;
  if (kind_ == Kind::kSelf) input.recipe = fmt::format("self text {} of {} tokens", kTextVersion, written);
  input.tokens = [this, options, written, &context](const std::string& folder) {
    return tokens(options, options.tokens, written, folder, context);
  };
  if (kind_ == Kind::kImages) {
    input.states = [this, options, &context](std::span<const uint32_t> images) {
      return image_states(images, options.tokens, context);
    };
  }
  return input;
}

}  // namespace nwc::cli
