// nwc info: what a file holds and where its bytes go.

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "host-tools/cli.h"
#include "host-tools/cost_text.h"
#include "host-tools/model_input.h"
#include "runtime/engine/session_cost.h"
#include "trainer/codec/codec_model.h"
#include "trainer/data/source_record.h"
#include "trainer/inspect/info.h"

namespace nwc::cli {
namespace {

struct InfoCommand {
  std::string path;
  DeviceOptions device;
  bool entropy = true;
};

/// What the file costs on this device.
struct Prediction {
  std::string device;
  double mac_per_weight = 0;
  SessionRates rates;
  double decode_seconds = 0;  ///< of all coded tensors
  struct Mode {
    SessionMode mode;
    SessionCost cost;
  };
  std::vector<Mode> modes;  ///< without a description of the network: none
};

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

void print_prediction(const Prediction& p) {
  fmt::print("expected on {}: {} decoded, {:.0f} multiply-accumulates per weight, everything in {}", p.device,
             format_weight_rate(p.rates.decoded_weights), p.mac_per_weight, format_seconds(p.decode_seconds));
  const char* separator = "; per token";
  for (const Prediction::Mode& m : p.modes) {
    fmt::print("{} {} {}", separator, session_mode_name(m.mode), format_seconds(m.cost.seconds_per_token()));
    separator = ",";
  }
  fmt::print("\n");
}

const char* preset_name(Preset preset) {
  switch (preset) {
    case Preset::kLinear: return "linear";
    case Preset::kSmall: return "small";
    case Preset::kPaper: return "paper";
    case Preset::kOther: return "other";
  }
  return "?";
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

/// Why a section that is there cannot be used; empty where it can, or is not there.
std::string unusable(const NwcFile& file, SectionType type, const Status& status) {
  return file.container().find(type) == nullptr ? std::string() : status.message();
}

nlohmann::json source_json(const SourceRecord& source) {
  nlohmann::json files = nlohmann::json::array();
  for (const SourceFile& file : source.files) files.push_back({{"name", file.name}, {"bytes", file.bytes.size()}});
  return {{"kind", source_kind_name(source.kind)}, {"files", std::move(files)}};
}

/// The section is for decompress alone: one that this build does not know stops nothing else.
void print_source(const Result<std::optional<SourceRecord>>& source) {
  if (!source.ok()) {
    fmt::print("  kept of the source: cannot be read: {}\n", source.status().message());
  } else if (source->has_value()) {
    fmt::print("  kept of the source ({}):", source_kind_name((*source)->kind));
    const char* separator = " ";
    for (const SourceFile& file : (*source)->files) {
      fmt::print("{}{} ({})", separator, file.name, format_bytes(file.bytes.size()));
      separator = ", ";
    }
    fmt::print("\n");
  }
}

const char* system_name(ChatSystem system) {
  return system == ChatSystem::kOwnTurn ? "own turn" : system == ChatSystem::kFirstUser ? "first user turn" : "none";
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

void print_chat(const NwcFile& file) {
  if (file.container().find(SectionType::kChat) == nullptr) return;
  if (!file.chat()) {
    fmt::print("  chat template: cannot be read: {}\n", file.chat_status().message());
  } else if (!file.chat()->format) {
    fmt::print("  chat template: kept, but of no family that this program knows\n");
  } else {
    const ChatFormat& f = *file.chat()->format;
    std::string stop;
    for (const std::string& s : f.stop) stop += " " + nlohmann::json(s).dump();
    fmt::print("  chat template: {}, system text: {}{}, stops at{}\n", f.name, system_name(f.system),
               f.default_system ? ", a default one" : "", stop);
  }
}

std::string shape_text(const std::vector<uint64_t>& shape) {
  std::string text;
  for (const uint64_t d : shape) {
    if (!text.empty()) text += 'x';
    text += std::to_string(d);
  }
  return text.empty() ? "scalar" : text;
}

std::string storage_name(const TensorInfo& t) {
  if (!t.stored_type.empty()) return t.stored_type;
  return t.storage == Storage::kCoded ? "coded" : t.storage == Storage::kRawDeflated ? "deflated" : "raw";
}

double percent_over(double bytes, double ideal_bits) { return ideal_bits > 0 ? 100 * (8 * bytes / ideal_bits - 1) : 0; }

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

Status info_codec(const InfoCommand& command, const Context& context) {
  NWC_ASSIGN_OR_RETURN(const CodecModel codec, load_codec(command.path));
  if (context.json) {
    nlohmann::json json = codec_json(codec.record);
    json["file"] = command.path;
    json["kind"] = "codec";
    json["provenance"] = codec.provenance;
    context.print_json(json);
    return {};
  }
  const CodecRecord& r = codec.record;
  fmt::print("{}: codec {:016x}, preset {}\n", command.path, r.codec_id, preset_name(r.preset));
  fmt::print("  synthesis network: width {}, {} blocks, {:.0f} multiply-accumulates per weight\n", r.synthesis.width,
             r.synthesis.blocks.size(), r.synthesis.mac_per_weight());
  fmt::print("  {} levels from {:.2f} to {:.2f} bits per weight, {} tables\n", r.num_levels, r.rate.front(),
             r.rate.back(), r.tables.size());
  for (const auto& [key, value] : codec.provenance) fmt::print("  {}: {}\n", key, value);
  return {};
}

void print_model(const InfoCommand& command, const NwcFile& file, const ModelInfo& info, bool compressed) {
  fmt::print("{}: {}, {} weights, {:.4f} bits per weight over the {}\n", command.path, format_bytes(info.file_bytes),
             format_count(info.total_weights), info.bpw_file, compressed ? "file" : "uncompressed model");
  if (file.model()) {
    const ModelRecord& m = *file.model();
    const ExpertSpec& experts = m.block(m.num_layers - 1).experts;  // the first layers of some mixtures are dense
    fmt::print("  model: {} layers, {} wide, {} heads ({} KV), FFN {}, vocabulary {}, {} positions\n", m.num_layers,
               m.hidden_size, m.block().num_heads, m.block().num_kv_heads,
               experts.num_experts != 0 ? fmt::format("{} of {} experts of {}", experts.per_token, experts.num_experts,
                                                      experts.intermediate_size)
                                        : fmt::format("{}", m.block().intermediate_size),
               m.vocab_size, m.max_positions);
  }
  for (const std::string& why : {unusable(file, SectionType::kModel, file.model_status()),
                                 unusable(file, SectionType::kTokenizer, file.tokenizer_status())}) {
    if (!why.empty()) fmt::print("  cannot be run, only decoded: {}\n", why);
  }
  if (file.codec()) {
    const CodecRecord& r = *file.codec();
    const bool trellis = r.quantizer == Quantizer::kTrellis;
    fmt::print("  codec: {:016x}, {}, {}, {} levels, {} tables, {:.0f} multiply-accumulates per weight\n", r.codec_id,
               preset_name(r.preset), trellis ? fmt::format("trellis of {} states", 1u << r.trellis_bits) : "scalar",
               r.num_levels, r.tables.size(), info.mac_per_weight);
  }
  for (const auto& [key, value] : file.provenance()) fmt::print("  {}: {}\n", key, value);
  print_chat(file);
  print_source(load_source_record(file.container()));
  for (const auto& [key, value] : file.quality()) fmt::print("  quality {}: {}\n", key, value);
  fmt::print("{:48} {:>12} {:>9} {:>11} {:>8} {:>9} {:>9}\n", "tensor", "shape", "storage", "bytes", "bpw", "entropy",
             "overhead");
  for (const TensorInfo& t : info.tensors) {
    const double weights = static_cast<double>(std::max<uint64_t>(1, t.weights));
    const double bytes = static_cast<double>(t.stored_bytes + t.padding_bytes);
    std::string entropy, overhead;
    if (t.storage == Storage::kCoded && t.ideal_bits >= 0) {
      entropy = fmt::format("{:.4f}", t.ideal_bits / weights);
      overhead = fmt::format("{:.2f} %", percent_over(bytes, t.ideal_bits));
    }
    fmt::print("{:48} {:>12} {:>9} {:>11} {:>8.4f} {:>9} {:>9}\n", t.name, shape_text(t.shape), storage_name(t),
               t.stored_bytes, 8 * bytes / weights, entropy, overhead);
  }
  if (info.coded_weights == 0) return;
  fmt::print("coded tensors: {:.4f} bits per weight in all", info.bpw_coded);
  const double coded = static_cast<double>(info.coded_bytes + info.codec_bytes);
  if (info.ideal_bits > 0)
    fmt::print(", entropy of the symbols {:.4f}, overhead {:.2f} % (codec {}, side information {:.2f} %)",
               info.ideal_bits / static_cast<double>(info.coded_weights), percent_over(coded, info.ideal_bits),
               format_bytes(info.codec_bytes), [&] {
                 uint64_t side = 0;
                 for (const TensorInfo& t : info.tensors) side += t.side_bytes;
                 return 800 * static_cast<double>(side) / info.ideal_bits;
               }());
  fmt::print("\n");
}

Status info(const InfoCommand& command, Context& context) {
  NWC_ASSIGN_OR_RETURN(ModelInput input, open_model_input(command.path, context));
  if (input.compressed) {
    const Result<Container> container = Container::open(*input.reader);
    if (!container.ok()) return container.status().with_context(command.path);
    if (container->kind() == FileKind::kCodec) return info_codec(command, context);
  }
  const bool compressed = input.compressed;
  Result<std::unique_ptr<NwcFile>> opened = NwcFile::open(std::move(input.reader));
  if (!opened.ok()) return opened.status().with_context(command.path);
  const NwcFile& file = *opened.value();
  NWC_ASSIGN_OR_RETURN(const DecoderHandle decoder, make_decoder(file, command.device, context));
  Result<ModelInfo> inspected = input.source != nullptr
                                    ? inspect_source(*input.source)
                                    : inspect_model(file, command.entropy ? decoder.decoder.get() : nullptr);
  if (!inspected.ok()) return inspected.status().with_context(command.path);
  const ModelInfo& result = inspected.value();
  std::optional<Prediction> prediction;
  if (result.coded_weights != 0) {
    NWC_ASSIGN_OR_RETURN(prediction, predict(file, decoder, result.coded_weights));
  }
  if (!context.json) {
    print_model(command, file, result, compressed);
    if (prediction) print_prediction(*prediction);
    return {};
  }
  nlohmann::json tensors = nlohmann::json::array();
  for (const TensorInfo& t : result.tensors) tensors.push_back(tensor_json(t));
  const double coded = static_cast<double>(result.coded_bytes + result.codec_bytes);
  nlohmann::json json = {{"file", command.path},
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
  context.print_json(json);
  return {};
}

}  // namespace

void add_info(CLI::App& app, Context& context) {
  auto command = std::make_shared<InfoCommand>();
  CLI::App* sub = app.add_subcommand("info", "Show what a file holds and where its bytes go");
  sub->add_option("file", command->path, ".nwc or .nwcc file, or an uncompressed model")->required();
  sub->add_flag("--entropy,!--no-entropy", command->entropy,
                "Decode every tensor to measure the ideal entropy of its symbols (default: on)");
  add_device_options(sub, command->device);
  add_common_options(sub, context);
  sub->callback([command, &context] { run_command(context, "info", [&] { return info(*command, context); }); });
}

}  // namespace nwc::cli
