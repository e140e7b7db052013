#include "runtime/format/container.h"

#include <zlib.h>

#include <algorithm>
#include <limits>

#include "runtime/base/checked.h"
#include "runtime/base/exceptions.h"
#include "runtime/base/str_cat.h"
#include "runtime/format/utf8_check.h"

namespace nwc {
namespace {

// Deflate cannot shrink more than 1032 times; an "inflated size" above that is a lie told to make us allocate.
bool plausible_inflated_size(uint64_t stored, uint64_t size) {
  uint64_t limit = 0;
  if (!checked_mul(stored, 1032, &limit) || !checked_add(limit, 64, &limit)) return true;
  return size <= limit;
}

/// Null: no section that this version knows.
const char* known_section_name(SectionType type) {
  switch (type) {
    case SectionType::kCodec: return "CODEC";
    case SectionType::kModel: return "MODEL";
    case SectionType::kTokenizer: return "TOKENIZER";
    case SectionType::kTensors: return "TENSORS";
    case SectionType::kProvenance: return "PROVENANCE";
    case SectionType::kQuality: return "QUALITY";
    case SectionType::kData: return "DATA";
    case SectionType::kSource: return "SOURCE";
    case SectionType::kChat: return "CHAT";
    case SectionType::kAnalysis: return "ANALYSIS";
    case SectionType::kTraining: return "TRAINING";
  }
  return nullptr;
}

bool all_zero(const uint8_t* p, size_t n) {
  return std::all_of(p, p + n, [](uint8_t b) { return b == 0; });
}

std::string at_offset(uint64_t offset) { return str_cat(" at offset ", offset); }

Result<SectionEntry> parse_entry(const uint8_t* p, uint64_t at) {
  SectionEntry e;
  e.type = static_cast<SectionType>(load_le<uint32_t>(p));
  e.flags = load_le<uint32_t>(p + 4);
  e.offset = load_le<uint64_t>(p + 8);
  e.stored_size = load_le<uint64_t>(p + 16);
  e.size = load_le<uint64_t>(p + 24);
  e.crc = load_le<uint32_t>(p + 32);
  const std::string who =
      str_cat("section ", section_name(e.type), " (type ", static_cast<uint32_t>(e.type), "), entry", at_offset(at));
  if ((e.flags & ~(kSectionDeflated | kSectionOptional)) != 0)
    return unsupported(str_cat(who, ": reserved flags are set"));
  if (!all_zero(p + 36, 12)) return unsupported(str_cat(who, ": reserved bytes are not zero"));
  if (known_section_name(e.type) == nullptr && (e.flags & kSectionOptional) == 0)
    return unsupported(str_cat(who, ": unknown and needed for reading; use a newer version of this program"));
  const bool deflated = (e.flags & kSectionDeflated) != 0;
  if (e.type == SectionType::kData) {
    if (deflated) return corrupt(str_cat(who, ": DATA must not be deflated"));
    if (e.crc != 0) return corrupt(str_cat(who, ": the CRC field of DATA must be 0"));
  }
  if (!deflated && e.size != e.stored_size)
    return corrupt(str_cat(who, ": size differs from stored size without deflate"));
  if (deflated && !plausible_inflated_size(e.stored_size, e.size))
    return corrupt(str_cat(who, ": inflated size ", e.size, " is impossible for ", e.stored_size, " stored bytes"));
  if (e.type != SectionType::kData && e.type != SectionType::kTraining &&
      (e.size > kMaxMetadataBytes || e.stored_size > kMaxMetadataBytes))
    return limit_error(str_cat(who, ": larger than ", kMaxMetadataBytes, " bytes"));
  return e;
}

}  // namespace

// zlib counts in 32-bit pieces.
Result<std::vector<uint8_t>> inflate_exact(Bytes stored, uint64_t size, const std::string& what) {
  if (!plausible_inflated_size(stored.size(), size))
    return corrupt(str_cat(what, ": inflated size ", size, " is impossible for ", stored.size(), " stored bytes"));
  std::vector<uint8_t> out(static_cast<size_t>(size));
  z_stream z{};
  if (inflateInit(&z) != Z_OK) return Status(StatusCode::kOutOfMemory, str_cat(what, ": cannot start inflating"));
  constexpr size_t kPiece = std::numeric_limits<uInt>::max() / 2;
  size_t in_left = stored.size(), out_left = out.size();
  uint8_t nothing = 0;  // zlib refuses null pointers, even for nothing
  z.next_in = const_cast<Bytef*>(stored.empty() ? &nothing : stored.data());
  z.next_out = out.empty() ? &nothing : out.data();
  int code = Z_OK;
  while (code == Z_OK) {
    if (z.avail_in == 0) {
      z.avail_in = static_cast<uInt>(std::min(in_left, kPiece));
      in_left -= z.avail_in;
    }
    if (z.avail_out == 0) {
      z.avail_out = static_cast<uInt>(std::min(out_left, kPiece));
      out_left -= z.avail_out;
    }
    code = inflate(&z, Z_NO_FLUSH);  // Z_BUF_ERROR once neither side can move
  }
  const bool whole = code == Z_STREAM_END && z.avail_in == 0 && in_left == 0 && z.avail_out == 0 && out_left == 0;
  inflateEnd(&z);
  if (code == Z_STREAM_END && !whole) return corrupt(str_cat(what, ": does not inflate to exactly ", size, " bytes"));
  if (!whole) return corrupt(str_cat(what, ": not a valid zlib stream of ", size, " bytes"));
  return out;
}

std::vector<uint8_t> deflate_bytes(Bytes bytes) {
  uLongf size = compressBound(static_cast<uLong>(bytes.size()));
  std::vector<uint8_t> out(size);
  const uint8_t nothing = 0;
  const int code =
      compress2(out.data(), &size, bytes.empty() ? &nothing : bytes.data(), static_cast<uLong>(bytes.size()), 9);
  if (code != Z_OK) out_of_memory();  // for zlib itself: there is room for every outcome
  out.resize(size);
  return out;
}

const char* section_name(SectionType type) {
  const char* known = known_section_name(type);
  return known != nullptr ? known : "unknown";
}

Result<Container> Container::open(const Reader& reader) {
  const uint64_t input_size = reader.size();
  if (input_size < kHeaderBytes) {
    return truncated(str_cat("header: the input has ", input_size, " bytes, a header needs ", kHeaderBytes));
  }
  uint8_t h[kHeaderBytes];
  NWC_TRY(reader.read(0, h));
  if (!std::equal(kMagic, kMagic + 8, h))
    return Status(StatusCode::kUnrecognized, "magic at offset 0: not an nwc file");
  const uint16_t major = load_le<uint16_t>(h + 8);
  if (major != kVersionMajor) {
    return Status(StatusCode::kUnsupportedVersion,
                  str_cat("major version at offset 8 is ", major, ", this program reads ", kVersionMajor));
  }
  if (load_le<uint32_t>(h + 60) != crc32(Bytes(h, 60)))
    return Status(StatusCode::kChecksum, "header: CRC-32 at offset 60 does not match");
  Container c;
  c.reader_ = &reader;
  c.minor_ = load_le<uint16_t>(h + 10);
  const uint32_t kind = load_le<uint32_t>(h + 12);
  if (kind < 1 || kind > 3) return unsupported(str_cat("kind at offset 12 is ", kind, ", known are 1 to 3"));
  c.kind_ = static_cast<FileKind>(kind);
  if (!all_zero(h + 32, 28)) return unsupported("header: reserved bytes at offset 32 are not zero");
  const uint64_t file_size = load_le<uint64_t>(h + 16);
  if (file_size > input_size) {
    return truncated(str_cat("file size at offset 16 is ", file_size, ", the input has only ", input_size,
                             " bytes; fetch it again"));
  }
  if (file_size < input_size) {
    return corrupt(
        str_cat("file size at offset 16 is ", file_size, ", the input has ", input_size - file_size, " bytes more"));
  }
  const uint32_t count = load_le<uint32_t>(h + 24);
  if (count < 1 || count > kMaxSections)
    return limit_error(str_cat("number of sections at offset 24 is ", count, ", allowed are 1 to 64"));
  const uint64_t table_size = uint64_t{count} * kSectionEntryBytes;
  if (table_size > input_size - kHeaderBytes) return truncated("section table at offset 64: the file ends inside");
  std::vector<uint8_t> table(static_cast<size_t>(table_size));
  NWC_TRY(reader.read(kHeaderBytes, table));
  if (load_le<uint32_t>(h + 28) != crc32(table))
    return Status(StatusCode::kChecksum, "section table at offset 64: CRC-32 does not match");

  uint64_t end = kHeaderBytes + table_size;
  for (uint32_t i = 0; i < count; ++i) {
    const uint64_t at = kHeaderBytes + uint64_t{i} * kSectionEntryBytes;
    NWC_ASSIGN_OR_RETURN(SectionEntry e, parse_entry(table.data() + size_t{i} * kSectionEntryBytes, at));
    const std::string who = str_cat("section ", section_name(e.type));
    if (c.find(e.type) != nullptr) return corrupt(str_cat(who, ", entry", at_offset(at), ": occurs twice"));
    if (e.offset < end || e.offset - end >= kMaxGap) {
      return corrupt(
          str_cat(who, ": offset ", e.offset, " in the entry", at_offset(at), " overlaps or leaves a gap after ", end));
    }
    std::vector<uint8_t> gap(static_cast<size_t>(e.offset - end));
    NWC_TRY(reader.read(end, gap).with_context(str_cat(who, ": gap before it")));
    if (!all_zero(gap.data(), gap.size()))
      return corrupt(str_cat(who, ": the gap before it", at_offset(end), " holds other bytes than zero"));
    if (!checked_add(e.offset, e.stored_size, &end) || end > file_size)
      return corrupt(str_cat(who, ", entry", at_offset(at), ": ends beyond the end of the file"));
    c.sections_.push_back(e);
  }
  if (end != file_size) {
    return corrupt(
        str_cat("section table: ", file_size - end, " bytes after the last section, which ends", at_offset(end)));
  }
  return c;
}

const SectionEntry* Container::find(SectionType type) const {
  for (const SectionEntry& e : sections_) {
    if (e.type == type) return &e;
  }
  return nullptr;
}

Result<std::vector<uint8_t>> Container::load(SectionType type) const {
  const SectionEntry* e = find(type);
  const std::string who = str_cat("section ", section_name(type));
  if (e == nullptr) return Status(StatusCode::kNotFound, str_cat(who, ": not in this file"));
  if (!addressable(std::max(e->stored_size, e->size)))
    return unsupported(str_cat(who, ": has ", std::max(e->stored_size, e->size), kBeyondAddresses));
  std::vector<uint8_t> storage;
  NWC_ASSIGN_OR_RETURN(const Bytes stored, read_range(*reader_, e->offset, e->stored_size, &storage));
  if (type != SectionType::kData && crc32(stored) != e->crc)
    return Status(StatusCode::kChecksum,
                  str_cat(who, at_offset(e->offset), ": CRC-32 does not match; the file is damaged"));
  if ((e->flags & kSectionDeflated) != 0) return inflate_exact(stored, e->size, who + at_offset(e->offset));
  if (!storage.empty()) return storage;
  return std::vector<uint8_t>(stored.begin(), stored.end());
}

Result<Metadata> parse_metadata(Bytes section, uint64_t file_offset) {
  ByteReader in(section, file_offset);
  uint32_t count = 0;
  NWC_TRY(in.read(&count, "metadata.count"));
  if (count > kMaxEntries) {
    return limit_error(
        str_cat("metadata.count", at_offset(file_offset), " is ", count, ", at most ", kMaxEntries, " are allowed"));
  }
  Metadata out;
  for (uint32_t i = 0; i < count; ++i) {
    const uint64_t at = in.offset();
    uint16_t key_size = 0;
    uint32_t value_size = 0;
    std::string key, value;
    NWC_TRY(in.read(&key_size, "metadata.key_size"));
    if (key_size > kMaxNameBytes)
      return limit_error(str_cat("metadata.key_size", at_offset(at), ": more than 1024 bytes"));
    NWC_TRY(in.read_string(&key, key_size, "metadata.key"));
    NWC_TRY(in.read(&value_size, "metadata.value_size"));
    if (value_size > kMaxValueBytes)
      return limit_error(str_cat("metadata.value_size", at_offset(at), ": more than 16 MiB"));
    NWC_TRY(in.read_string(&value, value_size, "metadata.value"));
    if (!is_valid_utf8(key) || !is_valid_utf8(value))
      return corrupt(str_cat("metadata entry", at_offset(at), ": not UTF-8"));
    if (!out.emplace(std::move(key), std::move(value)).second)
      return corrupt(str_cat("metadata entry", at_offset(at), ": its key occurs twice"));
  }
  NWC_TRY(in.expect_end("metadata"));
  return out;
}

std::vector<uint8_t> serialize(const Metadata& metadata) {
  ByteWriter out;
  out.write(static_cast<uint32_t>(metadata.size()));
  for (const auto& [key, value] : metadata) {
    assert(key.size() <= kMaxNameBytes && value.size() <= kMaxValueBytes);
    out.write(static_cast<uint16_t>(key.size()));
    out.write_string(key);
    out.write(static_cast<uint32_t>(value.size()));
    out.write_string(value);
  }
  return out.take();
}

}  // namespace nwc
