#include "trainer/data/source_record.h"

#include <unordered_set>

#include "runtime/format/utf8_check.h"

namespace nwc {
namespace {

constexpr uint32_t kRecordVersion = 1;

// A name that stays inside the folder that it is written to.
bool is_plain_name(const std::string& name) {
  if (name.empty() || name.size() > kMaxNameBytes || name == "." || name == "..") return false;
  return is_valid_utf8(name) && name.find_first_of(std::string("/\\\0", 3)) == name.npos;
}

uint64_t total_bytes(const SourceRecord& record) {
  uint64_t sum = 0;
  for (const SourceFile& file : record.files) sum += file.bytes.size();
  return sum;
}

}  // namespace

const SourceFile* SourceRecord::find(const std::string& name) const {
  for (const SourceFile& file : files) {
    if (file.name == name) return &file;
  }
  return nullptr;
}

Status add_source_file(const std::string& name, uint64_t size,
                       const std::function<Result<std::vector<uint8_t>>()>& read, SourceFiles* files) {
  const auto leave_out = [&](const std::string& why) { files->left_out.push_back(name + " is not kept: " + why); };
  if (!is_plain_name(name)) {
    leave_out("its name is not one that every system takes");
  } else if (files->record.files.size() >= kMaxSourceFiles) {
    leave_out("there are more than " + std::to_string(kMaxSourceFiles) + " such files");
  } else if (size > kMaxSourceFileBytes || size > kMaxSourceBytes - total_bytes(files->record)) {
    leave_out("it has " + std::to_string(size) + " bytes; at most 64 MiB of a file and 128 MiB of all are");
  } else {
    NWC_ASSIGN_OR_RETURN(std::vector<uint8_t> bytes, read());
    files->record.files.push_back({name, std::move(bytes)});
  }
  return {};
}

Result<SourceRecord> parse_source_record(Bytes section, uint64_t file_offset) {
  ByteReader in(section, file_offset);
  SourceRecord record;
  uint32_t version = 0, kind = 0, count = 0;
  NWC_TRY(in.read(&version, "SOURCE version"));
  if (version != kRecordVersion) {
    return unsupported("SOURCE section: record version " + std::to_string(version) + ", this build reads 1");
  }
  NWC_TRY(in.read(&kind, "SOURCE kind"));
  if (kind != 1 && kind != 2)
    return unsupported("SOURCE section: kind " + std::to_string(kind) + ", known are 1 and 2");
  record.kind = static_cast<SourceKind>(kind);
  NWC_TRY(in.read(&count, "number of SOURCE files"));
  if (count > kMaxSourceFiles) return limit_error("SOURCE section: " + std::to_string(count) + " files, at most 256");
  std::unordered_set<std::string> names;
  for (uint32_t i = 0; i < count; ++i) {
    const std::string who = "SOURCE section: file " + std::to_string(i);
    SourceFile file;
    uint16_t name_size = 0;
    uint32_t size = 0;
    Bytes bytes;
    NWC_TRY(in.read(&name_size, "length of a SOURCE name"));
    NWC_TRY(in.read_string(&file.name, name_size, "SOURCE name"));
    if (!is_plain_name(file.name)) return corrupt(who + ": not a plain file name");
    if (!names.insert(file.name).second) return corrupt(who + ": the name \"" + file.name + "\" occurs twice");
    NWC_TRY(in.read(&size, "size of a SOURCE file"));
    if (size > kMaxSourceFileBytes) return limit_error(who + ": more than 64 MiB");
    NWC_TRY(in.read_bytes(&bytes, size, "SOURCE file"));
    file.bytes.assign(bytes.begin(), bytes.end());
    record.files.push_back(std::move(file));
  }
  NWC_TRY(in.expect_end("SOURCE section"));
  if (total_bytes(record) > kMaxSourceBytes) return limit_error("SOURCE section: more than 128 MiB");
  return record;
}

std::vector<uint8_t> serialize(const SourceRecord& record) {
  assert(record.files.size() <= kMaxSourceFiles && total_bytes(record) <= kMaxSourceBytes);
  ByteWriter out;
  out.write(kRecordVersion);
  out.write(static_cast<uint32_t>(record.kind));
  out.write(static_cast<uint32_t>(record.files.size()));
  for (const SourceFile& file : record.files) {
    assert(is_plain_name(file.name));
    out.write(static_cast<uint16_t>(file.name.size()));
    out.write_string(file.name);
    out.write(static_cast<uint32_t>(file.bytes.size()));
    out.write_bytes(file.bytes);
  }
  return out.take();
}

Result<std::optional<SourceRecord>> load_source_record(const Container& container) {
  const SectionEntry* entry = container.find(SectionType::kSource);
  if (entry == nullptr) return std::optional<SourceRecord>();
  NWC_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, container.load(SectionType::kSource));
  NWC_ASSIGN_OR_RETURN(SourceRecord record, parse_source_record(bytes, entry->offset));
  return std::optional<SourceRecord>(std::move(record));
}

const char* source_kind_name(SourceKind kind) { return kind == SourceKind::kGguf ? "GGUF" : "Hugging Face"; }

}  // namespace nwc
