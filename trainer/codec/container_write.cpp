#include "trainer/codec/container_write.h"

#include <algorithm>
#include <set>

namespace nwc {
namespace {

constexpr uint64_t kSectionAlignment = 8;
constexpr size_t kCopyPiece = 1u << 20;

uint64_t table_end(size_t num_sections) { return kHeaderBytes + kSectionEntryBytes * num_sections; }

Status pad_to(AtomicFile* file, uint64_t offset) {
  assert(offset >= file->size() && offset - file->size() < 2 * kMaxGap + table_end(kMaxSections));
  const std::vector<uint8_t> zeros(static_cast<size_t>(offset - file->size()), 0);
  return file->write(zeros);
}

Status check_sections(std::span<const Section> sections, size_t extra) {
  if (sections.empty() && extra == 0) return invalid_argument("a container needs at least one section");
  if (sections.size() + extra > kMaxSections) return limit_error("more than 64 sections");
  std::set<SectionType> seen;
  for (const Section& s : sections) {
    if (s.type == SectionType::kData) return invalid_argument("DATA is written with ModelWriter");
    if (!seen.insert(s.type).second)
      return invalid_argument(std::string("section ") + section_name(s.type) + " occurs twice");
    if (s.type != SectionType::kTraining && s.bytes.size() > kMaxMetadataBytes) {
      return limit_error(std::string("section ") + section_name(s.type) + " has more than 256 MiB");
    }
  }
  return {};
}

Result<SectionEntry> write_section(AtomicFile* file, const Section& section) {
  SectionEntry entry;
  entry.type = section.type;
  entry.flags = section.optional ? kSectionOptional : 0;
  entry.size = section.bytes.size();
  std::vector<uint8_t> deflated;
  Bytes stored = section.bytes;
  if (section.deflate) {
    deflated = deflate_bytes(section.bytes);
    // The second condition is the reader's guard against bombs (section 3).
    if (deflated.size() < section.bytes.size() && section.bytes.size() / 1032 <= deflated.size()) {
      stored = deflated;
      entry.flags |= kSectionDeflated;
    }
  }
  NWC_TRY(pad_to(file, align_up(file->size(), kSectionAlignment)));
  entry.offset = file->size();
  entry.stored_size = stored.size();
  entry.crc = crc32(stored);
  NWC_TRY(file->write(stored));
  return entry;
}

}  // namespace

std::vector<uint8_t> serialize_header(FileKind kind, uint16_t minor, uint64_t file_size,
                                      std::span<const SectionEntry> entries) {
  ByteWriter table;
  for (const SectionEntry& e : entries) {
    table.write(static_cast<uint32_t>(e.type));
    table.write(e.flags);
    table.write(e.offset);
    table.write(e.stored_size);
    table.write(e.size);
    table.write(e.crc);
    for (int i = 0; i < 3; ++i) table.write(uint32_t{0});
  }
  ByteWriter out;
  out.write_bytes(kMagic);
  out.write(kVersionMajor);
  out.write(minor);
  out.write(static_cast<uint32_t>(kind));
  out.write(file_size);
  out.write(static_cast<uint32_t>(entries.size()));
  out.write(crc32(table.bytes()));
  for (int i = 0; i < 7; ++i) out.write(uint32_t{0});
  out.write(crc32(out.bytes()));
  out.write_bytes(table.bytes());
  return out.take();
}

Status write_container(const std::string& path, FileKind kind, std::span<const Section> sections) {
  NWC_TRY(check_sections(sections, 0));
  NWC_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  NWC_TRY(pad_to(&file, table_end(sections.size())));
  std::vector<SectionEntry> entries;
  for (const Section& section : sections) {
    NWC_ASSIGN_OR_RETURN(const SectionEntry entry, write_section(&file, section));
    entries.push_back(entry);
  }
  NWC_TRY(file.overwrite(0, serialize_header(kind, kVersionMinor, file.size(), entries)));
  return file.commit();
}

Result<ModelWriter> ModelWriter::create(const std::string& path, std::span<const Section> sections,
                                        std::vector<TensorRecord> records) {
  NWC_TRY(check_sections(sections, 3));
  if (records.size() > kMaxTensors) return limit_error("more than 1,048,576 tensors");
  NWC_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  ModelWriter writer(std::move(file));
  // Room for one more entry: adding QUALITY later then moves nothing.
  NWC_TRY(pad_to(&writer.file_, table_end(sections.size() + 3)));
  for (const Section& section : sections) {
    assert(section.type != SectionType::kTensors);
    NWC_ASSIGN_OR_RETURN(const SectionEntry entry, write_section(&writer.file_, section));
    writer.entries_.push_back(entry);
  }
  Section tensors{.type = SectionType::kTensors, .bytes = serialize(records), .deflate = false, .optional = false};
  if (tensors.bytes.size() > kMaxMetadataBytes) return limit_error("section TENSORS has more than 256 MiB");
  NWC_ASSIGN_OR_RETURN(const SectionEntry tensors_entry, write_section(&writer.file_, tensors));
  writer.entries_.push_back(tensors_entry);

  NWC_TRY(pad_to(&writer.file_, align_up(writer.file_.size(), kTensorAlignment)));
  SectionEntry data;
  data.type = SectionType::kData;
  data.offset = writer.file_.size();
  writer.entries_.push_back(data);
  writer.cursor_ = data.offset;
  writer.records_ = std::move(records);
  writer.padding_.resize(writer.records_.size(), 0);
  return writer;
}

Status ModelWriter::append(TensorRecord record, std::span<const Bytes> parts) {
  assert(next_ < records_.size());
  const TensorRecord& announced = records_[next_];
  assert(record.name == announced.name && record.shape == announced.shape && record.group == announced.group);
  if (next_ > 0 && announced.group != records_[next_ - 1].group) {
    NWC_TRY(place_group(false));
    group_placed_ = false;
  }
  record.size = 0;
  for (const Bytes& part : parts) record.size += part.size();
  records_[next_] = std::move(record);
  std::vector<uint8_t> bytes;
  bytes.reserve(static_cast<size_t>(records_[next_].size));
  for (const Bytes& part : parts) bytes.insert(bytes.end(), part.begin(), part.end());
  ++next_;
  pending_bytes_ += align_up(bytes.size(), kTensorAlignment);
  pending_.push_back(std::move(bytes));
  // Once a group is known to be large, or its start is placed, nothing needs to wait.
  if (group_placed_ || pending_bytes_ >= kLargeGroupBytes) return place_group(pending_bytes_ >= kLargeGroupBytes);
  return {};
}

Status ModelWriter::place_group(bool large) {
  for (size_t i = 0; i < pending_.size(); ++i) {
    const size_t tensor = next_ - pending_.size() + i;
    const bool group_start = i == 0 && !group_placed_;
    const uint64_t at = align_up(cursor_, group_start && large ? kGroupAlignment : kTensorAlignment);
    // An empty tensor needs no alignment; padding behind the last tensor would not be a gap between two.
    const uint64_t offset = pending_[i].empty() ? cursor_ : at;
    padding_[tensor] = offset - cursor_;
    NWC_TRY(pad_to(&file_, offset));
    NWC_TRY(file_.write(pending_[i]));
    records_[tensor].offset = offset - entries_.back().offset;
    cursor_ = offset + pending_[i].size();
  }
  group_placed_ = group_placed_ || !pending_.empty();
  pending_.clear();
  pending_bytes_ = 0;
  return {};
}

Status ModelWriter::finish_data() {
  assert(next_ == records_.size());
  return place_group(false);
}

uint64_t ModelWriter::stored_bytes(SectionType type) const {
  for (const SectionEntry& e : entries_) {
    if (e.type == type) return e.stored_size;
  }
  return 0;
}

Status ModelWriter::patch() {
  NWC_TRY(finish_data());
  SectionEntry& data = entries_.back();
  data.stored_size = data.size = cursor_ - data.offset;
  SectionEntry& tensors = entries_[entries_.size() - 2];
  const std::vector<uint8_t> bytes = serialize(records_);
  assert(bytes.size() == tensors.size);
  tensors.crc = crc32(bytes);
  NWC_TRY(file_.overwrite(tensors.offset, bytes));
  return file_.overwrite(0, serialize_header(FileKind::kModel, kVersionMinor, file_.size(), entries_));
}

Result<std::unique_ptr<Reader>> ModelWriter::preview() {
  NWC_TRY(patch());
  return open_file_reader(file_.temporary());
}

Status ModelWriter::replace_raw(size_t tensor, Bytes bytes) {
  TensorRecord& record = records_[tensor];
  if (record.storage != Storage::kRaw || record.size != bytes.size())
    return invalid_argument("tensor " + record.name + " cannot be replaced in place");
  record.crc = crc32(bytes);
  return file_.overwrite(entries_.back().offset + record.offset, bytes);
}

Result<uint64_t> ModelWriter::commit() {
  NWC_TRY(patch());
  const uint64_t size = file_.size();
  NWC_TRY(file_.commit());
  return size;
}

Status replace_quality(const std::string& source, const std::string& path, const Metadata& quality) {
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Reader> reader, open_file_reader(source));
  NWC_ASSIGN_OR_RETURN(const Container container, Container::open(*reader));
  if (container.kind() != FileKind::kModel) return invalid_argument(source + ": a quality card needs a model file");
  std::vector<SectionEntry> kept;
  for (const SectionEntry& e : container.sections()) {
    if (e.type != SectionType::kQuality) kept.push_back(e);
  }
  if (kept.size() + 1 > kMaxSections) return limit_error(source + ": no room for one more section");

  NWC_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  NWC_TRY(pad_to(&file, table_end(kept.size() + 1)));
  std::vector<uint8_t> piece;
  for (SectionEntry& e : kept) {
    // The least offset with the old remainder: alignment survives, and the gap stays below 4096.
    const uint64_t end = file.size();
    const uint64_t offset = end + ((e.offset - end) & (kGroupAlignment - 1));
    NWC_TRY(pad_to(&file, offset));
    for (uint64_t done = 0; done < e.stored_size; done += piece.size()) {
      piece.resize(static_cast<size_t>(std::min<uint64_t>(kCopyPiece, e.stored_size - done)));
      NWC_TRY(reader->read(e.offset + done, piece).with_context(source));
      NWC_TRY(file.write(piece));
    }
    e.offset = offset;
  }
  NWC_ASSIGN_OR_RETURN(const SectionEntry entry,
                       write_section(&file, {.type = SectionType::kQuality, .bytes = serialize(quality)}));
  kept.push_back(entry);
  NWC_TRY(file.overwrite(0, serialize_header(FileKind::kModel, container.minor_version(), file.size(), kept)));
  return file.commit();
}

}  // namespace nwc
