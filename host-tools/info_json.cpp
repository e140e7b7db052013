#include "host-tools/info_json.h"

#include <fmt/format.h>

#include "trainer/data/source_record.h"
#include "trainer/train/train_log.h"

namespace nwc::cli {

Result<Prediction> predict(const NwcFile& file, const DecoderHandle& decoder, uint64_t coded_weights) {
  Prediction p;
  p.mac_per_weight = file.codec()->synthesis.mac_per_weight();
  NWC_ASSIGN_OR_RETURN(p.rates, measure_session_rates(file, *decoder.decoder, *decoder.runner));
  p.device = decoder.decoder->name();
  p.decode_seconds = static_cast<double>(coded_weights) / p.rates.decoded_weights;
  if (!file.model()) return p;
  for (const SessionMode mode : {SessionMode::kResident, SessionMode::kStreamed, SessionMode::kFused}) {
    SessionParams params;
    params.mode = mode;
    params.num_threads = decoder.runner->num_workers();
    NWC_ASSIGN_OR_RETURN(const MemoryPlan plan, plan_session(file, params));
    NWC_ASSIGN_OR_RETURN(const SessionCost cost, session_cost(file, plan, params.weight_dtype, p.rates));
    p.modes.push_back({mode, cost});
  }
  return p;
}

const char* system_name(ChatSystem system) {
  return system == ChatSystem::kOwnTurn ? "own turn" : system == ChatSystem::kFirstUser ? "first user turn" : "none";
}

std::string storage_name(const TensorInfo& t) {
  if (!t.stored_type.empty()) return t.stored_type;
  return t.storage == Storage::kCoded ? "coded" : t.storage == Storage::kRawDeflated ? "deflated" : "raw";
}

double percent_over(double bytes, double ideal_bits) { return ideal_bits > 0 ? 100 * (8 * bytes / ideal_bits - 1) : 0; }

std::string unusable(const NwcFile& file, SectionType type, const Status& status) {
  return file.container().find(type) == nullptr ? std::string() : status.message();
}

nlohmann::json codec_json(const CodecRecord& codec) {
  nlohmann::json levels = nlohmann::json::array();
  for (uint32_t i = 0; i < codec.num_levels; ++i)
    levels.push_back({{"rate", codec.rate[i]}, {"step", codec.step[i]}, {"shrink", codec.shrink[i]}});
  return {{"id", fmt::format("{:016x}", codec.codec_id)},
          {"preset", preset_name(codec.preset)},
          {"quantizer", codec.quantizer == Quantizer::kTrellis ? "trellis" : "scalar"},
          {"trellis_states", codec.quantizer == Quantizer::kTrellis ? 1u << codec.trellis_bits : 1u},
          {"context", codec.context_kind == ContextKind::kRowClass ? "row class" : "channel"},
          {"width", codec.synthesis.width},
          {"blocks", codec.synthesis.blocks.size()},
          {"mac_per_weight", codec.synthesis.mac_per_weight()},
          {"tables", codec.tables.size()},
          {"levels", std::move(levels)}};
}

namespace {

nlohmann::json prediction_json(const Prediction& p) {
  nlohmann::json per_token = nlohmann::json::object();
  for (const Prediction::Mode& m : p.modes) per_token[session_mode_name(m.mode)] = m.cost.seconds_per_token();
  return {{"device", p.device},
          {"mac_per_weight", p.mac_per_weight},
          {"decode_weights_per_second", p.rates.decoded_weights},
          {"fused_weights_per_second", p.rates.fused_weights},
          {"memory_bytes_per_second", p.rates.memory_bytes},
          {"decode_seconds", p.decode_seconds},
          {"seconds_per_token", std::move(per_token)}};
}

nlohmann::json model_json(const ModelRecord& m) {
  return {{"vocab_size", m.vocab_size},
          {"hidden_size", m.hidden_size},
          {"intermediate_size", m.block().intermediate_size},
          {"num_layers", m.num_layers},
          {"num_heads", m.block().num_heads},
          {"num_kv_heads", m.block().num_kv_heads},
          {"head_dim", m.block().head_dim},
          {"max_positions", m.max_positions},
          {"rope_theta", m.block().rope.theta},
          {"tied_embeddings", m.tied_embeddings},
          {"num_experts", m.block(m.num_layers - 1).experts.num_experts},
          {"experts_per_token", m.block(m.num_layers - 1).experts.per_token}};
}

nlohmann::json source_json(const SourceRecord& source) {
  nlohmann::json files = nlohmann::json::array();
  for (const SourceFile& file : source.files) files.push_back({{"name", file.name}, {"bytes", file.bytes.size()}});
  return {{"kind", source_kind_name(source.kind)}, {"files", std::move(files)}};
}

nlohmann::json chat_json(const ChatRecord& chat) {
  nlohmann::json json = {{"template", chat.jinja}};
  if (!chat.format) return json;
  const ChatFormat& f = *chat.format;
  json["format"] = {{"name", f.name},
                    {"begin", f.begin},
                    {"system", system_name(f.system)},
                    {"system_prefix", f.system_prefix},
                    {"system_suffix", f.system_suffix},
                    {"user_prefix", f.user_prefix},
                    {"user_suffix", f.user_suffix},
                    {"assistant_prefix", f.assistant_prefix},
                    {"assistant_suffix", f.assistant_suffix},
                    {"open_answer", f.open_answer},
                    {"stop", f.stop}};
  if (f.default_system) json["format"]["default_system"] = *f.default_system;
  return json;
}

nlohmann::json tensor_json(const TensorInfo& t) {
  nlohmann::json json = {{"name", t.name},
                         {"storage", storage_name(t)},
                         {"dtype", dtype_name(t.dtype)},
                         {"shape", t.shape},
                         {"group", t.group},
                         {"weights", t.weights},
                         {"stored_bytes", t.stored_bytes},
                         {"padding_bytes", t.padding_bytes}};
  const double bytes = static_cast<double>(t.stored_bytes + t.padding_bytes);
  if (t.weights != 0) json["bpw"] = 8 * bytes / static_cast<double>(t.weights);
  if (t.storage != Storage::kCoded) return json;
  json.update({{"side_bytes", t.side_bytes},
               {"directory_bytes", t.directory_bytes},
               {"state_bytes", t.state_bytes},
               {"word_bytes", t.word_bytes},
               {"tiles", t.tiles},
               {"tile", {t.tile_rows, t.tile_cols}},
               {"levels", {t.lowest_level, t.highest_level}}});
  if (t.ideal_bits >= 0)
    json.update({{"ideal_bits", t.ideal_bits},
                 {"actual_bits", 8 * bytes},
                 {"overhead_percent", percent_over(bytes, t.ideal_bits)}});
  return json;
}

}  // namespace

nlohmann::json info_json(const std::string& path, const NwcFile& file, const ModelInfo& result,
                         const std::optional<Prediction>& prediction, bool compressed) {
  nlohmann::json tensors = nlohmann::json::array();
  for (const TensorInfo& t : result.tensors) tensors.push_back(tensor_json(t));
  const double coded = static_cast<double>(result.coded_bytes + result.codec_bytes);
  nlohmann::json json = {{"file", path},
                         {"kind", compressed ? "model" : "uncompressed model"},
                         {"file_bytes", result.file_bytes},
                         {"codec_bytes", result.codec_bytes},
                         {"metadata_bytes", result.metadata_bytes},
                         {"coded_bytes", result.coded_bytes},
                         {"coded_weights", result.coded_weights},
                         {"total_weights", result.total_weights},
                         {"bpw_coded", result.bpw_coded},
                         {"bpw_file", result.bpw_file},
                         {"mac_per_weight", result.mac_per_weight},
                         {"provenance", file.provenance()},
                         {"quality", file.quality()},
                         {"tensors", std::move(tensors)}};
  if (result.ideal_bits > 0)
    json.update({{"ideal_bits", result.ideal_bits}, {"overhead_percent", percent_over(coded, result.ideal_bits)}});
  if (prediction) json["expected"] = prediction_json(*prediction);
  if (file.codec()) json["codec"] = codec_json(*file.codec());
  if (file.model()) json["model"] = model_json(*file.model());
  const std::string model_error = unusable(file, SectionType::kModel, file.model_status());
  const std::string tokenizer_error = unusable(file, SectionType::kTokenizer, file.tokenizer_status());
  const Result<std::optional<SourceRecord>> source = load_source_record(file.container());
  if (!source.ok()) json["source_error"] = source.status().message();
  if (source.ok() && source->has_value()) json["source"] = source_json(**source);
  const std::string chat_error = unusable(file, SectionType::kChat, file.chat_status());
  if (file.chat()) json["chat"] = chat_json(*file.chat());
  if (!chat_error.empty()) json["chat_error"] = chat_error;
  if (!model_error.empty()) json["model_error"] = model_error;
  if (!tokenizer_error.empty()) json["tokenizer_error"] = tokenizer_error;
  return json;
}

}  // namespace nwc::cli
