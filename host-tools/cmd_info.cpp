// nwc info: what a file holds and where its bytes go.

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "host-tools/cli.h"
#include "host-tools/cost_text.h"
#include "host-tools/info_json.h"
#include "host-tools/model_input.h"
#include "trainer/codec/codec_model.h"
#include "trainer/data/hf_made.h"
#include "trainer/data/source_record.h"
#include "trainer/inspect/info.h"
#include "trainer/train/train_log.h"

namespace nwc::cli {
namespace {

struct InfoCommand {
  std::string path;
  DeviceOptions device;
  bool entropy = true;
};

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

/// The tensors that a checkpoint of the model holds in another form than the file, or under another name: those that
/// decompress changes when it writes a folder. Empty where a checkpoint cannot be made.
nlohmann::json forms_json(const NwcFile& file) {
  constexpr const char* kNames[] = {"plain",         "transposed", "qkv_by_head",      "stacked", "stacked_transposed",
                                    "stacked_pairs", "pairs",      "stacked_pair_rows"};
  const Result<std::optional<SourceRecord>> source = load_source_record(file.container());
  std::unordered_map<std::string, HeldForm> forms;
  if (file.model()) {
    const bool folder = source.ok() && source->has_value() && (*source)->kind == SourceKind::kHuggingFace;
    const SourceFile* config = folder ? (*source)->find("config.json") : nullptr;
    if (config != nullptr) {
      forms = held_forms(*file.model(), config->bytes);
    } else if (Result<HfMade> made = find_hf_family(*file.model()); made.ok()) {
      forms = std::move(made->tensors);
    }
  }
  nlohmann::json json = nlohmann::json::object();
  for (const auto& [name, held] : forms) {
    const std::string& outer = held.name.empty() ? name : held.name;
    if (held.form == SourceForm::kPlain && outer == name && held.part == 0 && !held.minus_one) continue;
    json[name] = {{"form", kNames[static_cast<size_t>(held.form)]},
                  {"heads", held.heads},
                  {"name", outer},
                  {"expert", held.expert},
                  {"part", held.part},
                  {"minus_one", held.minus_one}};
  }
  return json;
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
  nlohmann::json json = info_json(command.path, file, result, prediction, compressed);
  if (compressed) json["checkpoint_forms"] = forms_json(file);
  context.print_json(json);
  return {};
}

}  // namespace

void add_info(CommandLine& line, Context& context) {
  auto command = std::make_shared<InfoCommand>();
  Command sub = line.add_command("info", "Show what a file holds and where its bytes go");
  sub.add_option("file", command->path, ".nwc or .nwcc file, or an uncompressed model").required();
  sub.add_flag("--entropy,!--no-entropy", command->entropy,
               "Decode every tensor to measure the ideal entropy of its symbols (default: on)");
  add_device_options(sub, command->device);
  add_common_options(sub, context);
  sub.on_run([command, &context] { run_command(context, "info", [&] { return info(*command, context); }); });
}

}  // namespace nwc::cli
