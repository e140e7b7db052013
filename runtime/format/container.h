// Header and section table, common to model, codec and checkpoint files (doc/format.md, sections 2 and 3).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "runtime/base/checked.h"
#include "runtime/base/reader.h"
#include "runtime/format/constants.h"

namespace nwc {

uint32_t crc32(Bytes bytes, uint32_t seed = 0);  ///< zlib's

/// The end of an error about a size beyond kMostBytesOf32Bits.
inline constexpr const char* kBeyondAddresses =
    " bytes, more than a program with 32-bit addresses can hold (2,147,483,647); use a 64-bit build";
/// Inflates to exactly `size` bytes. Errors: kCorrupt; `what` names the part.
Result<std::vector<uint8_t>> inflate_exact(Bytes stored, uint64_t size, const std::string& what);
/// zlib stream, deterministic (fixed level). Where memory runs out, for zlib too: out_of_memory().
std::vector<uint8_t> deflate_bytes(Bytes bytes);

struct SectionEntry {
  SectionType type{};
  uint32_t flags = 0;
  uint64_t offset = 0;
  uint64_t stored_size = 0;
  uint64_t size = 0;
  uint32_t crc = 0;
};

class Container {
 public:
  /// Checks header and section table, all of section 2 and 3 but the sections' own CRCs. The reader must outlive the
  /// result.
  static Result<Container> open(const Reader& reader);

  FileKind kind() const { return kind_; }
  uint16_t minor_version() const { return minor_; }
  const std::vector<SectionEntry>& sections() const { return sections_; }
  const SectionEntry* find(SectionType type) const;
  /// CRC checked, inflated. Errors: kNotFound, kChecksum, kCorrupt, kTruncated.
  Result<std::vector<uint8_t>> load(SectionType type) const;
  const Reader& reader() const { return *reader_; }

 private:
  const Reader* reader_ = nullptr;
  FileKind kind_{};
  uint16_t minor_ = 0;
  std::vector<SectionEntry> sections_;
};

const char* section_name(SectionType type);

/// PROVENANCE and QUALITY (section 9). std::map: written in order of keys, so that files are deterministic.
using Metadata = std::map<std::string, std::string>;
Result<Metadata> parse_metadata(Bytes section, uint64_t file_offset);
std::vector<uint8_t> serialize(const Metadata& metadata);

}  // namespace nwc
