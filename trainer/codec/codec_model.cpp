#include "trainer/codec/codec_model.h"

#include <cassert>
#include <cmath>

#include "trainer/codec/analysis_record.h"
#include "trainer/codec/container_write.h"
#include "trainer/data/fs_path.h"
#include "trainer/nn/mlp.h"

namespace nwc {
namespace {

constexpr uint32_t kAnalysisVersion = 1;
constexpr const char* kAnalysis = "ANALYSIS";

/// `count` finite floats.
Status read_floats(ByteReader* reader, size_t count, const char* field, std::vector<float>* out) {
  const uint64_t offset = reader->offset();
  NWC_TRY(reader->read_array(out, count, field));
  for (size_t i = 0; i < count; ++i) {
    if (std::isfinite((*out)[i])) continue;
    return corrupt(std::string(kAnalysis) + ": " + field + "[" + std::to_string(i) + "] at offset " +
                   std::to_string(offset + i * sizeof(float)) + " is not finite");
  }
  return {};
}

Status require(bool condition, const char* field, uint64_t value, const char* why) {
  if (condition) return {};
  return corrupt(std::string(kAnalysis) + ": " + field + " is " + std::to_string(value) + "; " + why);
}

}  // namespace

std::vector<uint8_t> serialize_analysis(const CodecModel& model) {
  const Network& network = model.analysis;
  ByteWriter writer;
  writer.write(kAnalysisVersion);
  writer.write(static_cast<uint16_t>(network.width));
  writer.write(static_cast<uint8_t>(network.blocks.size()));
  writer.write(static_cast<uint8_t>(network.activation));
  writer.write(static_cast<uint8_t>(network.layer_norm));
  for (int i = 0; i < 3; ++i) writer.write(uint8_t{0});
  writer.write_array(std::span<const float>(model.lambda));
  write_network(&writer, network, /*f16=*/false);
  const EntropyParameters& entropy = model.entropy;
  for (const auto* part : {&entropy.matrix, &entropy.bias, &entropy.factor, &entropy.quantiles, &entropy.level_scale}) {
    writer.write_array(std::span<const float>(*part));
  }
  return writer.take();
}

Status parse_analysis(Bytes section, uint64_t file_offset, CodecModel* model) {
  const uint32_t levels = model->record.num_levels;
  ByteReader reader(section, file_offset);
  uint32_t version = 0;
  uint16_t width = 0;
  uint8_t blocks = 0, activation = 0, layer_norm = 0;
  NWC_TRY(reader.read(&version, "record version"));
  if (version != kAnalysisVersion) {
    return Status(StatusCode::kUnsupportedVersion,
                  std::string(kAnalysis) + ": record version " + std::to_string(version) + ", this program knows 1");
  }
  NWC_TRY(reader.read(&width, "width"));
  NWC_TRY(reader.read(&blocks, "residual blocks"));
  NWC_TRY(reader.read(&activation, "activation"));
  NWC_TRY(reader.read(&layer_norm, "LayerNorm"));
  NWC_TRY(require(width % 16 == 0 && width <= kMaxWidth, "width", width, "it must be a multiple of 16 up to 1024"));
  NWC_TRY(require(blocks <= kMaxBlocks && (blocks == 0) == (width == 0), "residual blocks", blocks,
                  "it must be 1 to 8, or 0 without a width"));
  NWC_TRY(require(activation <= static_cast<uint8_t>(Activation::kSilu) && (activation != 0 || width == 0),
                  "activation", activation, "it must be 1 or 2, or 0 without a width"));
  NWC_TRY(
      require(layer_norm <= (width != 0 ? 1 : 0), "LayerNorm", layer_norm, "it must be 0 or 1, and 0 without a width"));
  for (int i = 0; i < 3; ++i) {
    uint8_t reserved = 0;
    NWC_TRY(reader.read(&reserved, "reserved"));
    NWC_TRY(require(reserved == 0, "reserved byte", reserved, "it must be 0"));
  }
  NWC_TRY(read_floats(&reader, levels, "lambda", &model->lambda));
  for (uint32_t l = 0; l < levels; ++l) {
    if (model->lambda[l] <= 0) return corrupt("ANALYSIS: lambda[" + std::to_string(l) + "] is not positive");
  }
  NWC_TRY(parse_network(&reader, width, blocks, static_cast<Activation>(activation), layer_norm != 0, /*f16=*/false,
                        levels, &model->analysis)
              .with_context(kAnalysis));
  EntropyParameters& entropy = model->entropy;
  NWC_TRY(read_floats(&reader, kChunk * kEntropyMatrix, "matrix", &entropy.matrix));
  NWC_TRY(read_floats(&reader, kChunk * kEntropyBias, "bias", &entropy.bias));
  NWC_TRY(read_floats(&reader, kChunk * kEntropyFactor, "factor", &entropy.factor));
  NWC_TRY(read_floats(&reader, kChunk * kEntropyQuantiles, "quantiles", &entropy.quantiles));
  NWC_TRY(read_floats(&reader, levels, "level_scale", &entropy.level_scale));
  for (uint32_t l = 0; l < levels; ++l) {
    if (entropy.level_scale[l] <= 0) return corrupt("ANALYSIS: level_scale[" + std::to_string(l) + "] is not positive");
  }
  return reader.expect_end(kAnalysis);
}

Result<CodecModel> read_codec_sections(const Container& container, const std::string& path) {
  CodecModel model;
  model.name = fs_path(path).stem().string();
  const auto offset_of = [&](SectionType type) {
    const SectionEntry* entry = container.find(type);
    // Offsets in messages refer to the file only where the section is stored as it is.
    return entry != nullptr && (entry->flags & kSectionDeflated) == 0 ? entry->offset : 0;
  };
  NWC_ASSIGN_OR_RETURN(const std::vector<uint8_t> codec, container.load(SectionType::kCodec));
  NWC_ASSIGN_OR_RETURN(model.record, parse_codec_record(codec, offset_of(SectionType::kCodec)));
  if (const uint64_t id = compute_codec_id(model.record); id != model.record.codec_id) {
    return corrupt("CODEC: codec id does not match the section's contents; the file was altered");
  }
  NWC_ASSIGN_OR_RETURN(const std::vector<uint8_t> analysis, container.load(SectionType::kAnalysis));
  NWC_TRY(parse_analysis(analysis, offset_of(SectionType::kAnalysis), &model));
  NWC_ASSIGN_OR_RETURN(const std::vector<uint8_t> provenance, container.load(SectionType::kProvenance));
  NWC_ASSIGN_OR_RETURN(model.provenance, parse_metadata(provenance, offset_of(SectionType::kProvenance)));
  return model;
}

Result<CodecModel> load_codec(const std::string& path) {
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Reader> reader, open_file_reader(path));
  Result<Container> container = Container::open(*reader);
  if (!container.ok()) return container.status().with_context(path);
  if (container->kind() != FileKind::kCodec) {
    return Status(StatusCode::kUnrecognized, path + ": not a codec file (.nwcc); its kind is " +
                                                 std::to_string(static_cast<uint32_t>(container->kind())));
  }
  Result<CodecModel> model = read_codec_sections(*container, path);
  if (!model.ok()) return model.status().with_context(path);
  return model;
}

Status save_codec(const CodecModel& model, const std::string& path) {
  CodecRecord record = model.record;
  record.codec_id = compute_codec_id(record);
  NWC_TRY(validate(record).with_context(path));
  const Section sections[] = {
      {.type = SectionType::kCodec, .bytes = serialize(record)},
      {.type = SectionType::kAnalysis, .bytes = serialize_analysis(model)},
      {.type = SectionType::kProvenance, .bytes = serialize(model.provenance)},
  };
  return write_container(path, FileKind::kCodec, sections);
}

void analyze_chunks(const CodecModel& model, std::span<const float> x, const uint8_t* level, std::span<float> u) {
  apply_network(model.analysis, model.record.num_levels, x, level, u);
  const std::vector<float>& step = model.record.step;
  for (size_t n = 0; n < u.size() / kChunk; ++n) {
    const float inverse = 1.0f / step[level[n]];
    for (size_t i = 0; i < kChunk; ++i) u[n * kChunk + i] *= inverse;
  }
}

}  // namespace nwc
