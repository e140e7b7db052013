#include "trainer/encode/encode_pass.h"

#include <cstdio>
#include <utility>

#include "trainer/encode/coded_parts.h"
#include "trainer/encode/distill_file.h"
#include "trainer/parallel/message.h"

namespace nwc {
namespace {

constexpr const char* kEncoderName = "nwc " NWC_VERSION;

std::vector<TensorRecord> announce_records(const EncodeWork& work) {
  std::vector<TensorRecord> records;
  for (const PlannedTensor& p : work.plan) {
    const SourceTensor& tensor = work.source.tensors()[p.source];
    TensorRecord& r = records.emplace_back();
    r.name = tensor.name;
    r.dtype = tensor.dtype;
    r.group = p.group;
    r.shape = tensor.shape;
    if (p.coded) r.split = p.split;
  }
  return records;
}

Status append_coded(const CodedPart& part, size_t index, TensorRecord record, EncodePass* pass) {
  const EncodedTensor& encoded = part.encoded;
  encoded.describe(part.quantized, &record);
  const Bytes parts[] = {encoded.side, encoded.directory, encoded.payload};
  NWC_TRY(pass->writer->append(std::move(record), parts));

  TensorReport& r = pass->report.tensors[index];
  const QuantizeStatistics& statistics = part.statistics;
  r.storage = Storage::kCoded;
  r.stored_bytes = encoded.size();
  r.side_bytes = encoded.side.size();
  r.directory_bytes = encoded.directory.size();
  r.state_bytes = encoded.state_bytes;
  r.word_bytes = encoded.payload.size() - encoded.state_bytes;
  r.tiles = encoded.num_tiles;
  r.ideal_bits = statistics.ideal_bits;
  r.relative_error = statistics.squared_weight > 0 ? statistics.squared_error / statistics.squared_weight : 0;
  return {};
}

/// The tensor's bytes as they are stored, and how.
Result<std::vector<uint8_t>> pack_raw(const ModelSource& source, size_t tensor, bool deflate, Storage* storage) {
  const SourceTensor& info = source.tensors()[tensor];
  std::vector<uint8_t> bytes(static_cast<size_t>(info.num_bytes()));
  NWC_TRY(source.read_raw(tensor, bytes).with_context("tensor " + info.name));
  if (!deflate) {
    *storage = Storage::kRaw;
    return bytes;
  }
  std::vector<uint8_t> deflated = deflate_bytes(bytes);
  *storage = Storage::kRaw;
  // A raw tensor can be used where it lies; give that up only for a gain worth having.
  if (deflated.size() < bytes.size() - bytes.size() / 16) {
    *storage = Storage::kRawDeflated;
    bytes = std::move(deflated);
  }
  return bytes;
}

/// Distillation replaces vectors where they lie.
bool may_deflate(const EncodeWork& work, const PlannedTensor& p) {
  return !work.options.distillation.enabled || !can_be_distilled(work.source, p);
}

Status append_raw(const EncodeWork& work, size_t index, TensorRecord record, EncodePass* pass) {
  NWC_ASSIGN_OR_RETURN(
      const std::vector<uint8_t> bytes,
      pack_raw(*work.weights, work.plan[index].source, may_deflate(work, work.plan[index]), &record.storage));
  record.crc = crc32(bytes);
  pass->report.tensors[index].storage = record.storage;
  pass->report.tensors[index].stored_bytes = bytes.size();
  const Bytes parts[] = {bytes};
  return pass->writer->append(std::move(record), parts);
}

std::vector<Section> metadata_sections(const EncodeWork& work, const CodecModel* codec, bool refitted) {
  std::vector<Section> sections;
  if (codec != nullptr) {
    sections.push_back({.type = SectionType::kCodec, .bytes = serialize(codec->record), .deflate = true});
  }
  if (work.source.model()) {
    sections.push_back({.type = SectionType::kModel, .bytes = serialize(*work.source.model())});
  }
  if (work.source.tokenizer()) {
    sections.push_back(
        {.type = SectionType::kTokenizer, .bytes = serialize(*work.source.tokenizer()), .deflate = true});
  }
  if (!work.source_section.empty()) {
    sections.push_back({.type = SectionType::kSource, .bytes = work.source_section, .deflate = true, .optional = true});
  }
  if (!work.chat_section.empty()) {
    sections.push_back({.type = SectionType::kChat, .bytes = work.chat_section, .deflate = true, .optional = true});
  }
  static constexpr const char* kPresets[] = {"linear", "small", "paper", "other"};
  Metadata provenance = to_metadata(work.source.notes());
  provenance["encoder"] = kEncoderName;
  if (!work.options.source_name.empty()) provenance["source"] = work.options.source_name;
  if (!work.options.settings.empty()) provenance["settings"] = work.options.settings;
  const CompressOptions& options = work.options;
  provenance["calibration"] = options.calibration != nullptr ? options.calibration->hash()
                              : options.powers != nullptr    ? options.powers->imatrix().hash()
                                                             : "none";
  if (codec != nullptr) {
    char id[17];
    std::snprintf(id, sizeof id, "%016llx", static_cast<unsigned long long>(codec->record.codec_id));
    provenance["codec"] = codec->name;
    provenance["codec_id"] = id;
    provenance["preset"] = kPresets[static_cast<size_t>(codec->record.preset) % 4];
    provenance["tables"] = refitted ? "refitted" : "of the codec";
  }
  sections.push_back({.type = SectionType::kProvenance, .bytes = serialize(provenance)});
  return sections;
}

/// What the report says of the whole file, once its tensors are there.
void finish_report(const std::vector<TensorRecord>& records, const ModelWriter& writer, bool coded,
                   const QuantizeStatistics& total, CompressReport* out) {
  CompressReport& report = *out;
  report.codec_bytes = coded ? writer.stored_bytes(SectionType::kCodec) : 0;
  report.metadata_bytes = writer.data_offset() - report.codec_bytes;
  report.file_bytes = report.metadata_bytes + report.codec_bytes;
  for (size_t i = 0; i < records.size(); ++i) {
    TensorReport& t = report.tensors[i];
    t.name = records[i].name;
    t.weights = records[i].num_elements();
    t.padding_bytes = writer.padding(i);
    report.file_bytes += t.stored_bytes + t.padding_bytes;
    report.total_weights += t.weights;
    if (t.storage != Storage::kCoded) continue;
    report.coded_weights += t.weights;
    report.coded_bytes += t.stored_bytes + t.padding_bytes;
  }
  if (report.coded_weights > 0) {
    report.bpw_coded =
        8.0 * static_cast<double>(report.coded_bytes + report.codec_bytes) / static_cast<double>(report.coded_weights);
    report.relative_error = total.squared_error / total.squared_weight;
  }
  if (report.total_weights > 0) {
    report.bpw_file = 8.0 * static_cast<double>(report.file_bytes) / static_cast<double>(report.total_weights);
  }
}

/// One complete file at a common step. `rate` and `fitted` are null if no tensor is coded.
Result<EncodePass> write_pass(const EncodeWork& work, PartCoder* coder, RateModel* rate, const FittedCodec* fitted) {
  const std::vector<TensorRecord> records = announce_records(work);
  const CodecModel* codec = fitted != nullptr ? &fitted->codec : nullptr;
  EncodePass pass;
  NWC_ASSIGN_OR_RETURN(
      pass.writer,
      ModelWriter::create(work.path, metadata_sections(work, codec, work.options.choices.refit_tables), records));
  CompressReport& report = pass.report;
  report.tensors.resize(records.size());
  if (codec != nullptr) {
    report.levels = codec->record.num_levels;
    report.tables = static_cast<uint32_t>(codec->record.tables.size());
  }
  QuantizeStatistics total;
  for (size_t i = 0; i < records.size(); ++i) {
    if (!work.progress.report(i, records.size())) return Status(StatusCode::kCancelled, "cancelled while encoding");
    if (!work.plan[i].coded) {
      NWC_TRY(append_raw(work, i, records[i], &pass));
      continue;
    }
    if (coder == nullptr) {
      return Status(StatusCode::kInternal, "tensor " + records[i].name + " is to be coded without a codec");
    }
    NWC_ASSIGN_OR_RETURN(const CodedPart part, coder->take(i));
    NWC_TRY(append_coded(part, i, records[i], &pass).with_context("tensor " + records[i].name));
    if (rate->choices().allocation == Allocation::kFisher)
      report.tensors[i].predicted_kld = part.statistics.weighted_error / 2;
    report.predicted_kld += report.tensors[i].predicted_kld;
    total.add(part.statistics);
  }
  pass.distortion = total.weighted_error;
  NWC_TRY(pass.writer->finish_data());
  finish_report(records, *pass.writer, codec != nullptr, total, &report);
  return pass;
}

}  // namespace

Result<uint64_t> raw_stored_bytes(const EncodeWork& work) {
  uint64_t sum = 0;
  for (const PlannedTensor& p : work.plan) {
    if (p.coded) continue;
    Storage ignored{};
    NWC_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes,
                         pack_raw(work.source, p.source, may_deflate(work, p), &ignored));
    sum += bytes.size();
  }
  return sum;
}

Result<EncodePass> encode_pass(EncodeWork& work, RateModel* rate, const FittedCodec* fitted, double log_step) {
  Ranks& ranks = *work.options.ranks;
  std::optional<PartCoder> coder;
  if (fitted != nullptr)
    coder.emplace(*work.weights, std::exchange(work.ready, {}), work.plan, rate, *fitted, log_step,
                  work.one_codes ? one_rank() : ranks, *work.runner);
  EncodePass pass;
  if (ranks.first()) {
    NWC_ASSIGN_OR_RETURN(pass, write_pass(work, coder ? &*coder : nullptr, rate, fitted));
  } else if (coder && !work.one_codes) {
    NWC_TRY(coder->send_all(work.progress));
  }
  CompressReport& report = pass.report;
  NWC_TRY(share(ranks, &report.file_bytes, &report.bpw_coded, &report.bpw_file, &pass.distortion));
  return pass;
}

}  // namespace nwc
