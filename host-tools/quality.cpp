#include "host-tools/quality.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "trainer/codec/container_write.h"
#include "trainer/data/fs_path.h"
#include "trainer/data/output_path.h"
#include "trainer/inspect/info.h"

namespace nwc::cli {
namespace {

std::string base_name(const std::string& name) {
  std::filesystem::path path = fs_path(name);
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

}  // namespace

Result<std::string> read_text(const std::string& path) {
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Reader> reader, open_file_reader(path));
  if (reader->size() > (1ull << 30)) return limit_error(path + ": text over 1 GiB; use a part of it");
  std::string text(static_cast<size_t>(reader->size()), '\0');
  NWC_TRY(reader->read(0, {reinterpret_cast<uint8_t*>(text.data()), text.size()}));
  return text;
}

uint64_t held_out_begin(const std::string& text, uint64_t tokens) {
  constexpr uint64_t kBytesPerToken = 8;  // more than tokenizers make of prose
  uint64_t bytes = text.size() / 5;
  if (tokens != 0) bytes = std::min(bytes, kBytesPerToken * std::min<uint64_t>(tokens, text.size()));
  const uint64_t begin = text.size() - bytes;
  for (const char* separator : {"\n", " "}) {
    const size_t at = text.find(separator, begin);
    if (at != std::string::npos && at < begin + bytes / 2) return at + 1;
  }
  uint64_t at = begin;  // no word ends here: at least no character is cut
  while (at < text.size() && (static_cast<uint8_t>(text[at]) & 0xc0) == 0x80) ++at;
  return at;
}

Result<QualityResult> measure_quality(const QualityRequest& request, const Context& context, double share) {
  const auto start = std::chrono::steady_clock::now();
  QualityResult result;
  std::string text;
  if (request.tokens.empty()) {
    NWC_ASSIGN_OR_RETURN(text, read_text(request.text));
    if (request.text_begin > text.size())
      return invalid_argument(request.text + ": the part to measure on begins behind its end");
    text.erase(0, static_cast<size_t>(request.text_begin));
    result.text_begin = request.text_begin;
    result.text = base_name(request.text);
    result.text_crc32 = crc32({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  } else {
    result.text = "the model's own text";
    result.text_crc32 =
        crc32({reinterpret_cast<const uint8_t*>(request.tokens.data()), request.tokens.size() * sizeof(uint32_t)});
  }
  result.model = base_name(request.model);

  SessionParams params = request.params;
  params.context = request.context != 0 ? request.context : 2048;
  // Both models see the same windows: the context is the smaller model's at most.
  const auto open = [&](const std::string& path, SessionParams wanted) -> Result<EvalModel> {
    Result<EvalModel> model = open_eval_model(path, wanted, request.device, context, share / 8);
    if (model.ok() || request.context != 0 || model.status().code() != StatusCode::kInvalidArgument) return model;
    wanted.context = 0;
    return open_eval_model(path, wanted, request.device, context, share / 8);
  };
  NWC_ASSIGN_OR_RETURN(EvalModel model, open(request.model, params));
  std::optional<EvalModel> reference;
  if (!request.reference.empty()) {
    SessionParams exact = exact_params();
    exact.context = model.session->context();
    DeviceOptions cpu;
    NWC_ASSIGN_OR_RETURN(reference, open_eval_model(request.reference, exact, cpu, context, share / 8));
    if (reference->tokenizer->record().tokens.size() != model.tokenizer->record().tokens.size())
      return invalid_argument(request.model + " and " + request.reference + " have different vocabularies");
    result.reference = base_name(request.reference);
    result.has_reference = true;
  }
  EvaluationParams evaluation;
  evaluation.context = std::min<uint32_t>(request.context != 0 ? request.context : 2048, model.session->context());
  std::vector<uint32_t> tokens = request.tokens;
  if (tokens.empty()) {
    NWC_ASSIGN_OR_RETURN(tokens, model.tokenizer->encode_windows(text, evaluation.context));
  }
  result.text_tokens = request.max_tokens == 0 ? tokens.size() : std::min<uint64_t>(request.max_tokens, tokens.size());
  evaluation.max_tokens = request.max_tokens;
  ProgressLine progress(context, reference ? "comparing with the original" : "evaluating", share);
  evaluation.progress = progress.callback();
  NWC_ASSIGN_OR_RETURN(result.evaluation, evaluate(*model.session, reference ? reference->session.get() : nullptr,
                                                   *model.runner, tokens, evaluation));
  result.device = model.decoder.decoder->name();
  result.file_bytes = model.file->reader().size();
  NWC_ASSIGN_OR_RETURN(const ModelInfo info, inspect_model(*model.file, nullptr));
  result.bpw_file = info.bpw_file;
  result.bpw_coded = info.bpw_coded;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

nlohmann::json quality_json(const QualityResult& r) {
  const Evaluation& e = r.evaluation;
  nlohmann::json json = {
      {"model", r.model},         {"text", r.text},         {"text_crc32", fmt::format("{:08x}", r.text_crc32)},
      {"context", e.context},     {"windows", e.windows},   {"tokens", e.tokens},
      {"bpw_coded", r.bpw_coded}, {"bpw_file", r.bpw_file}, {"file_bytes", r.file_bytes},
      {"device", r.device},       {"ppl", e.perplexity},    {"ppl_se", e.perplexity_se},
      {"seconds", r.seconds}};
  if (r.has_reference)
    json.update({{"reference", r.reference},
                 {"ppl_reference", e.reference_perplexity},
                 {"nll_difference", e.nll_difference},
                 {"nll_difference_se", e.nll_difference_se},
                 {"kld_mean", e.kld_mean},
                 {"kld_se", e.kld_se},
                 {"kld_low", e.kld_low},
                 {"kld_high", e.kld_high},
                 {"kld_p90", e.kld_p90},
                 {"kld_p99", e.kld_p99},
                 {"kld_max", e.kld_max},
                 {"same_top", e.same_top},
                 {"same_top_se", e.same_top_se}});
  return json;
}

Status check_quality_card(const std::string& path) {
  Status no_model = invalid_argument(path + ": is no .nwc model file, which a quality card is stored in");
  const Result<std::unique_ptr<Reader>> reader = open_file_reader(path);
  if (!reader.ok()) return no_model;
  const Result<Container> container = Container::open(**reader);
  if (!container.ok() && container.status().code() != StatusCode::kUnrecognized)
    return container.status().with_context(path);
  if (!container.ok() || container->kind() != FileKind::kModel) return no_model;
  return resolve_output(path).status();
}

Status write_quality_card(const std::string& path, const QualityResult& result) {
  const Evaluation& e = result.evaluation;
  // Decimal text that reads back to the same double.
  const auto number = [](double v) { return fmt::format("{}", v); };
  return replace_quality(path, path,
                         {{"text", result.text},
                          {"text_begin", std::to_string(result.text_begin)},
                          {"text_crc32", fmt::format("{:08x}", result.text_crc32)},
                          {"text_tokens", std::to_string(result.text_tokens)},
                          {"context", std::to_string(e.context)},
                          {"tokens", std::to_string(e.tokens)},
                          {"bpw_coded", number(result.bpw_coded)},
                          {"bpw_file", number(result.bpw_file)},
                          {"ppl", number(e.perplexity)},
                          {"ppl_reference", number(e.reference_perplexity)},
                          {"kld_mean", number(e.kld_mean)},
                          {"kld_p90", number(e.kld_p90)},
                          {"kld_p99", number(e.kld_p99)},
                          {"same_top", number(e.same_top)}});
}

}  // namespace nwc::cli
