#include "trainer/train/checkpoint.h"

#include <cmath>

#include "trainer/codec/analysis_record.h"
#include "trainer/codec/container_write.h"

namespace nwc {
namespace {

constexpr uint32_t kTrainingVersion = 1;

std::vector<uint8_t> serialize_state(const TrainState& state) {
  ByteWriter writer;
  writer.write(kTrainingVersion);
  write_options(state.options, &writer);
  writer.write(state.data_digest);
  writer.write(state.step);
  writer.write(static_cast<uint32_t>(state.parameters.flat.size()));
  for (const auto* part : {&state.parameters.lambda, &state.parameters.flat, &state.main.mean, &state.main.variance,
                           &state.parameters.quantiles, &state.auxiliary.mean, &state.auxiliary.variance}) {
    writer.write_array(std::span<const float>(*part));
  }
  return writer.take();
}

Status read_floats(ByteReader* reader, uint64_t count, const char* field, std::vector<float>* out) {
  NWC_TRY(reader->read_array(out, count, field));
  for (const float v : *out) {
    if (!std::isfinite(v)) return corrupt(std::string("TRAINING: ") + field + " holds a number that is not finite");
  }
  return {};
}

Status read_variances(ByteReader* reader, uint64_t count, const char* field, std::vector<float>* out) {
  NWC_TRY(read_floats(reader, count, field, out));
  for (const float v : *out) {
    if (v < 0) return corrupt(std::string("TRAINING: ") + field + " holds a negative number");
  }
  return {};
}

Status parse_state(Bytes section, uint64_t file_offset, TrainState* state) {
  ByteReader reader(section, file_offset);
  uint32_t version = 0, parameters = 0;
  NWC_TRY(reader.read(&version, "record version"));
  if (version != kTrainingVersion) {
    return Status(StatusCode::kUnsupportedVersion,
                  "TRAINING: record version " + std::to_string(version) + ", this program knows 1");
  }
  NWC_TRY(read_options(&reader, &state->options).with_context("TRAINING"));
  NWC_TRY(reader.read(&state->data_digest, "data digest"));
  NWC_TRY(reader.read(&state->step, "step"));
  if (state->step > state->options.steps) {
    return corrupt("TRAINING: step " + std::to_string(state->step) + " lies after the last step");
  }
  NWC_TRY(reader.read(&parameters, "number of parameters"));
  const CodecLayout layout(state->options.shape());
  if (parameters != layout.total) {
    return corrupt("TRAINING: " + std::to_string(parameters) + " parameters, the network named has " +
                   std::to_string(layout.total));
  }
  state->parameters.shape = layout.shape;
  state->parameters.preset = state->options.preset;
  NWC_TRY(read_floats(&reader, layout.shape.levels, "lambda", &state->parameters.lambda));
  for (const float v : state->parameters.lambda) {
    if (v <= 0) return corrupt("TRAINING: lambda holds a number that is not positive");
  }
  NWC_TRY(read_floats(&reader, parameters, "parameters", &state->parameters.flat));
  // These are logarithms: their exponentials have to be normal floats.
  for (size_t i = layout.log_step; i < layout.total; ++i) {
    if (std::abs(state->parameters.flat[i]) > 60) return corrupt("TRAINING: a logarithmic step or scale is beyond 60");
  }
  NWC_TRY(read_floats(&reader, parameters, "mean gradients", &state->main.mean));
  NWC_TRY(read_variances(&reader, parameters, "mean squared gradients", &state->main.variance));
  constexpr size_t kQuantiles = kChunk * kEntropyQuantiles;
  NWC_TRY(read_floats(&reader, kQuantiles, "quantiles", &state->parameters.quantiles));
  NWC_TRY(read_floats(&reader, kQuantiles, "mean gradients of quantiles", &state->auxiliary.mean));
  NWC_TRY(read_variances(&reader, kQuantiles, "mean squared gradients of quantiles", &state->auxiliary.variance));
  state->main.updates = state->auxiliary.updates = state->step;
  return reader.expect_end("TRAINING");
}

}  // namespace

Status save_checkpoint(const TrainState& state, const CodecModel& codec, const std::string& path) {
  const Section sections[] = {
      {.type = SectionType::kCodec, .bytes = serialize(codec.record)},
      {.type = SectionType::kAnalysis, .bytes = serialize_analysis(codec)},
      {.type = SectionType::kProvenance, .bytes = serialize(codec.provenance)},
      {.type = SectionType::kTraining, .bytes = serialize_state(state)},
  };
  return write_container(path, FileKind::kCheckpoint, sections);
}

Result<TrainState> load_checkpoint(const std::string& path) {
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Reader> reader, open_file_reader(path));
  Result<Container> container = Container::open(*reader);
  if (!container.ok()) return container.status().with_context(path);
  if (container->kind() != FileKind::kCheckpoint) {
    return Status(StatusCode::kUnrecognized, path + ": not a checkpoint (.nwck)");
  }
  NWC_TRY(as_status(read_codec_sections(*container, path)).with_context(path));
  const Result<std::vector<uint8_t>> bytes = container->load(SectionType::kTraining);
  if (!bytes.ok()) return bytes.status().with_context(path);
  TrainState state;
  NWC_TRY(parse_state(*bytes, container->find(SectionType::kTraining)->offset, &state).with_context(path));
  return state;
}

}  // namespace nwc
