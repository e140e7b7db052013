#include "trainer/calib/calibration.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <unordered_map>

#include "runtime/model/tokenizer.h"
#include "trainer/calib/calibration_run.h"
#include "trainer/calib/hidden_store.h"
#include "trainer/data/content_hash.h"
#include "trainer/data/fs_path.h"
#include "trainer/data/output_path.h"
#include "trainer/data/safetensors.h"
#include "trainer/data/tensor_limits.h"
#include "trainer/parallel/message.h"

namespace nwc {
namespace {

constexpr uint32_t kDefaultContext = 512;
constexpr uint32_t kEncoderContext = 128;  ///< most texts that are embedded are sentences or paragraphs
/// Part of the hash: raise it when the statistics' definition changes.
constexpr uint64_t kStatisticsVersion = 2;

std::string whole(double v) { return std::to_string(std::llround(v)); }

Status check_described(const ModelSource& source, bool tokenizer_needed) {
  if (source.model() && (source.tokenizer() || !tokenizer_needed)) return {};
  const NoteKind missing = source.model() ? NoteKind::kTokenizerLeftOut : NoteKind::kModelLeftOut;
  const std::string why = join_notes(source.notes(), missing);
  return unsupported("calibration needs a model description" +
                     std::string(tokenizer_needed ? " and, for a text, a tokenizer" : "") + "; this model has no " +
                     (source.model() ? "tokenizer" : "model description") + (why.empty() ? std::string() : ": " + why));
}

/// tokens: counted, not read, where a recipe says what they are.
Result<std::string> hash_of(const ModelSource& source, const std::string& recipe, std::span<const uint32_t> tokens,
                            uint32_t context, const CalibrationOptions& options) {
  ContentHash hash;
  hash.add(kStatisticsVersion);
  hash.add(uint64_t{context});
  hash.add(options.seed);
  hash.add(uint64_t{options.activations});
  if (recipe.empty()) {
    hash.add(uint64_t{tokens.size()});
    hash.add({reinterpret_cast<const uint8_t*>(tokens.data()), tokens.size_bytes()});
  } else {
    hash.add(options.tokens);
    hash.add(recipe);
  }
  NWC_TRY(hash.add(source));
  return hash.hex();
}

/// Says of every tensor of how many effective tokens its statistics are, and warns if that is less than its inputs.
Status report_effective_tokens(const std::string& folder, const CalibrationIndex& index, const Logger& log) {
  const CalibratedTensor* worst = nullptr;
  double of_worst = 0;
  size_t few = 0;
  for (size_t begin = 0, end = 0; begin < index.tensors.size(); begin = end) {
    const std::string& file = index.tensors[begin].file;
    while (end < index.tensors.size() && index.tensors[end].file == file) ++end;
    std::error_code error;
    if (!std::filesystem::exists(fs_path(folder + "/" + file), error)) continue;  // ends of an encoder have none
    NWC_ASSIGN_OR_RETURN(
        const std::vector<double> tokens,
        read_effective_tokens(folder + "/" + file, std::span(index.tensors).subspan(begin, end - begin)));
    for (size_t i = 0; i < tokens.size(); ++i) {
      const CalibratedTensor& tensor = index.tensors[begin + i];
      log.log(LogLevel::kInfo, "calibration: " + quote_tensor(tensor.name) + " of " + whole(tokens[i]) +
                                   " effective tokens for " + std::to_string(tensor.n) + " inputs");
      if (tokens[i] >= static_cast<double>(tensor.n)) continue;
      ++few;
      if (worst != nullptr && tokens[i] * static_cast<double>(worst->n) >= of_worst * static_cast<double>(tensor.n))
        continue;
      worst = &tensor;
      of_worst = tokens[i];
    }
  }
  if (worst == nullptr) return {};
  log.log(LogLevel::kWarning, "calibration: " + std::to_string(few) + " of " + std::to_string(index.tensors.size()) +
                                  " matrices rest on fewer effective tokens of the text than they have inputs, " +
                                  quote_tensor(worst->name) + " on " + whole(of_worst) + " for " +
                                  std::to_string(worst->n) + "; more text (--calib-tokens) would tell them better");
  return {};
}

class StoredCalibration final : public Calibration {
 public:
  StoredCalibration(std::string folder, CalibrationIndex index) : folder_(std::move(folder)), index_(std::move(index)) {
    for (const CalibratedTensor& tensor : index_.tensors) by_name_.emplace(tensor.name, &tensor);
  }
  const std::string& hash() const override { return index_.hash; }
  uint64_t tokens() const override { return index_.tokens; }
  bool covers(const std::string& tensor) const override { return by_name_.count(tensor) != 0; }
  Result<TensorStatistics> load(const std::string& tensor, HessianKind kind) const override;

 private:
  Status read(const CalibratedTensor& tensor, const std::string& name, const std::vector<uint64_t>& shape,
              std::vector<float>* out) const;

  const std::string folder_;
  const CalibrationIndex index_;
  std::unordered_map<std::string, const CalibratedTensor*> by_name_;
};

Status StoredCalibration::read(const CalibratedTensor& tensor, const std::string& name,
                               const std::vector<uint64_t>& shape, std::vector<float>* out) const {
  const std::string path = folder_ + "/" + tensor.file;
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Reader> reader, open_file_reader(path));
  const Result<SafetensorsHeader> header = read_safetensors_header(*reader);
  if (!header.ok()) return header.status().with_context(path);
  const auto mark = header->metadata.find("calibration");
  if (mark == header->metadata.end() || mark->second != index_.hash) {
    return corrupt(path + " belongs to another calibration; remove the folder and calibrate again");
  }
  const auto found = std::find_if(header->tensors.begin(), header->tensors.end(),
                                  [&](const SafetensorsTensor& t) { return t.name == name; });
  if (found == header->tensors.end()) return corrupt(path + ": " + quote_tensor(name) + " is missing");
  if (found->dtype != Dtype::kF32 || found->shape != shape) {
    return corrupt(path + ": " + quote_tensor(name) + " is " + dtype_name(found->dtype) + " " +
                   shape_text(found->shape) + ", expected F32 " + shape_text(shape));
  }
  // The header's ranges lie in the file, so that the size is bounded by it.
  out->resize(static_cast<size_t>(found->size_bytes / sizeof(float)));
  NWC_TRY(reader->read(found->offset, {reinterpret_cast<uint8_t*>(out->data()), out->size() * sizeof(float)}));
  if (std::all_of(out->begin(), out->end(), [](float v) { return std::isfinite(v); })) return {};
  return corrupt(path + ": " + quote_tensor(name) + " holds values that are not finite");
}

Result<TensorStatistics> StoredCalibration::load(const std::string& name, HessianKind kind) const {
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) return invalid_argument(quote_tensor(name) + " is not covered by the calibration");
  const CalibratedTensor& tensor = *found->second;
  TensorStatistics statistics;
  statistics.m = tensor.m;
  statistics.n = tensor.n;
  const std::vector<uint64_t> square = {tensor.n, tensor.n};
  if (kind == HessianKind::kActivation) {
    if (tensor.hessian.empty()) {
      return invalid_argument(quote_tensor(name) +
                              ": this calibration has no activations of it, only Fisher statistics");
    }
    NWC_TRY(read(tensor, tensor.hessian + ".hessian", square, &statistics.hessian));
    statistics.row_importance.assign(static_cast<size_t>(tensor.m), 1.0f);
    return statistics;
  }
  NWC_TRY(read(tensor, name + ".fisher", square, &statistics.hessian));
  NWC_TRY(read(tensor, name + ".row_importance", {tensor.m}, &statistics.row_importance));
  std::vector<float> effective;
  NWC_TRY(read(tensor, name + ".effective_tokens", {1}, &effective));
  if (!(effective[0] >= 0)) return corrupt(quote_tensor(name) + ": the number of effective tokens is negative");
  statistics.effective_tokens = double{effective[0]};
  for (const float v : statistics.row_importance) {
    if (!(v > 0)) return corrupt(quote_tensor(name) + ": the importance of a row is not positive");
  }
  return statistics;
}

}  // namespace

namespace {

/// A text in windows of `window` tokens, each of which begins and ends as one that is embedded does.
Result<std::vector<uint32_t>> encode_whole_windows(const Tokenizer& tokenizer, const std::string& text,
                                                   uint32_t window) {
  NWC_ASSIGN_OR_RETURN(const std::vector<uint32_t> front, tokenizer.encode("", {.add_special = true}));
  NWC_ASSIGN_OR_RETURN(const std::vector<uint32_t> both, tokenizer.encode("", {.add_special = true, .add_end = true}));
  NWC_ASSIGN_OR_RETURN(const std::vector<uint32_t> inner, tokenizer.encode(text, {.add_special = false}));
  if (both.size() >= window) return tokenizer.encode_windows(text, window);
  std::vector<uint32_t> out;
  for (size_t at = 0; at < inner.size();) {
    const size_t count = std::min(inner.size() - at, window - both.size());
    out.insert(out.end(), front.begin(), front.end());
    out.insert(out.end(), inner.begin() + static_cast<std::ptrdiff_t>(at),
               inner.begin() + static_cast<std::ptrdiff_t>(at + count));
    out.insert(out.end(), both.begin() + static_cast<std::ptrdiff_t>(front.size()), both.end());
    at += count;
  }
  return out;
}

}  // namespace

Result<std::vector<uint32_t>> calibration_tokens(const ModelSource& source, const std::string& text, uint64_t limit,
                                                 uint32_t context) {
  NWC_TRY(check_described(source, true));
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::create(*source.tokenizer()));
  NWC_ASSIGN_OR_RETURN(std::vector<uint32_t> tokens, source.model()->is_encoder()
                                                         ? encode_whole_windows(*tokenizer, text, context)
                                                         : tokenizer->encode_windows(text, context));
  if (tokens.size() > limit) tokens.resize(static_cast<size_t>(limit));
  if (tokens.size() < 2) return invalid_argument("calibration needs a text of at least 2 tokens");
  const uint32_t vocab = source.model()->vocab_size;
  for (const uint32_t token : tokens) {
    if (token < vocab) continue;
    return corrupt("the tokenizer yields token " + std::to_string(token) + ", the model has " + std::to_string(vocab));
  }
  return tokens;
}

CalibrationInput calibration_text(const ModelSource& source, const std::string& text,
                                  const CalibrationOptions& options) {
  return {.tokens =
              [&source, &text, options](const std::string&) {  // asked for where there is a model description
                return calibration_tokens(source, text, options.tokens,
                                          calibration_context(*source.model(), options.context));
              },
          .recipe = {},
          .states = {}};
}

uint32_t calibration_context(const ModelRecord& model, uint32_t wanted) {
  if (model.ends.encoder.of_images()) return model.max_positions;
  const uint32_t usual = model.is_encoder() ? kEncoderContext : kDefaultContext;
  return std::min(wanted != 0 ? wanted : usual, model.max_positions);
}

Result<std::unique_ptr<Calibration>> Calibration::open(const std::string& folder) {
  NWC_ASSIGN_OR_RETURN(CalibrationIndex index, read_calibration_index(folder));
  return std::unique_ptr<Calibration>(std::make_unique<StoredCalibration>(folder, std::move(index)));
}

namespace {

/// What a calibration will be, with the tokens that it is made of, unless they follow from a recipe.
struct Prepared {
  ModelGraph graph;
  std::vector<uint32_t> tokens;
  CalibrationIndex index;
};

/// At most as many as are wanted.
Status take_tokens(const CalibrationInput& input, const CalibrationOptions& options, const std::string& folder,
                   Prepared* out) {
  NWC_ASSIGN_OR_RETURN(out->tokens, input.tokens(folder));
  // Images are whole, and chosen by whoever gives them.
  if (out->tokens.size() > options.tokens && !input.states) out->tokens.resize(static_cast<size_t>(options.tokens));
  if (out->tokens.size() < 2) return invalid_argument("calibration needs at least 2 tokens");
  out->index.tokens = out->tokens.size();
  return {};
}

/// All but tokens and hash.
Result<Prepared> describe(const ModelSource& source, const CalibrationInput& input, const CalibrationOptions& options) {
  if (source.model() && source.model()->ends.encoder.of_images() != static_cast<bool>(input.states))
    return unsupported(input.states ? "images calibrate encoders of images only"
                                    : "an encoder of images is calibrated with images, not with a text");
  NWC_TRY(check_described(source, false));
  const uint32_t context = calibration_context(*source.model(), options.context);
  Result<ModelGraph> graph = ModelGraph::open(source, context);
  if (graph.status().code() == StatusCode::kUnsupported) {
    return graph.status().with_context("this model can be compressed without a text, but not calibrated");
  }
  NWC_TRY(graph.status());
  Prepared out{.graph = std::move(graph).value(), .tokens = {}, .index = {}};
  out.index.context = context;
  out.index.tensors = calibrated_tensors(out.graph, options.activations);
  return out;
}

Status identify(const ModelSource& source, const CalibrationInput& input, const CalibrationOptions& options,
                Prepared* out) {
  if (input.recipe.empty()) NWC_TRY(take_tokens(input, options, "", out));
  NWC_ASSIGN_OR_RETURN(out->index.hash, hash_of(source, input.recipe, out->tokens, out->index.context, options));
  return {};
}

/// Makes the folder ready for a calibration, unless it holds this one already (*finished), and completes the tokens.
Status enter_folder(const CalibrationInput& input, const CalibrationOptions& options, const std::string& folder,
                    const Logger& log, Prepared* prepared, bool* finished) {
  const CalibrationIndex& index = prepared->index;
  const Result<CalibrationIndex> found = read_calibration_index(folder);
  *finished = found.ok() && found->hash == index.hash;
  if (*finished) {
    log.log(LogLevel::kInfo, "calibration: " + folder + " holds the result already");
    return {};
  }
  std::error_code error;
  std::filesystem::create_directories(fs_path(folder), error);
  if (error) return io_error(folder + ": cannot create the folder: " + error.message());
  NWC_TRY(resolve_output(folder + "/calibration.json").status());  // not after a layer's worth of work
  if (!input.recipe.empty()) NWC_TRY(take_tokens(input, options, folder, prepared));
  // A result of something else: from here on the folder is ours, and it must not look finished before it is.
  std::filesystem::remove(fs_path(folder + "/calibration.json"), error);
  HiddenStore::remove_left(folder);
  log.log(LogLevel::kInfo, "calibration: " + std::to_string(prepared->tokens.size()) + " tokens in sequences of " +
                               std::to_string(index.context) + ", into " + folder);
  return {};
}

}  // namespace

Result<std::string> Calibration::hash_of(const ModelSource& source, const CalibrationInput& input,
                                         const CalibrationOptions& options) {
  NWC_ASSIGN_OR_RETURN(Prepared prepared, describe(source, input, options));
  NWC_TRY(identify(source, input, options, &prepared));
  return std::move(prepared.index.hash);
}

Result<std::unique_ptr<Calibration>> Calibration::run(const ModelSource& source, const std::string& text,
                                                      const CalibrationOptions& options, const std::string& folder,
                                                      Runner& runner, const Progress& progress, const Logger& log) {
  return run(
      source, calibration_text(source, text, options), options,
      [&](const std::string&) { return Result<std::string>(folder); }, runner, progress, log);
}

Result<std::unique_ptr<Calibration>> Calibration::run(const ModelSource& source, const CalibrationInput& input,
                                                      const CalibrationOptions& options, const FolderOf& folder_of,
                                                      Runner& runner, const Progress& progress, const Logger& log,
                                                      Ranks& ranks) {
  NWC_ASSIGN_OR_RETURN(Prepared prepared, describe(source, input, options));
  CalibrationIndex& index = prepared.index;
  std::string folder;
  bool finished = false;
  if (ranks.first()) {
    NWC_TRY(identify(source, input, options, &prepared));
    NWC_ASSIGN_OR_RETURN(folder, folder_of(index.hash));
    NWC_TRY(enter_folder(input, options, folder, log, &prepared, &finished));
  }
  NWC_TRY(share(ranks, &folder, &finished, &index.hash, &index.tokens, &prepared.tokens));
  std::error_code error;
  if (!std::filesystem::is_directory(fs_path(folder), error))
    return io_error(folder + " is not there: the calibration's folder has to be one that all ranks share");
  if (!finished) {
    NWC_TRY(run_calibration(prepared.graph, prepared.tokens, input.states, index, options, folder, ranks, runner,
                            progress, log));
    if (ranks.first()) {
      NWC_TRY(write_calibration_index(folder, index));
      NWC_TRY(report_effective_tokens(folder, index, log));
    }
    NWC_TRY(share(ranks, &finished));  // others go on when it is written
  }
  return open(folder);
}

}  // namespace nwc
