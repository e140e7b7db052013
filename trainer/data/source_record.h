// The SOURCE section keeps the files, or the GGUF metadata, that describe a model beside its weights, as the source had
// them (doc/format.md, section 9). The runtime reads none of it; `nwc decompress` writes it back.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "runtime/format/container.h"

namespace nwc {

enum class SourceKind : uint32_t {
  kHuggingFace = 1,  ///< files of a folder, under their names
  kGguf = 2,         ///< one entry for each file of the model: its bytes before the tensors' data
};

struct SourceFile {
  std::string name;  ///< a plain file name
  std::vector<uint8_t> bytes;
};

struct SourceRecord {
  SourceKind kind = SourceKind::kHuggingFace;
  std::vector<SourceFile> files;

  /// nullptr: not there.
  const SourceFile* find(const std::string& name) const;
};

/// The files that a source has for the record, and the reasons why others are left out.
struct SourceFiles {
  SourceRecord record;
  std::vector<std::string> left_out;  ///< sentences without the last full stop
};

// Limits of the record (doc/format.md, section 10).
inline constexpr uint64_t kMaxSourceFileBytes = 64u << 20;
inline constexpr uint64_t kMaxSourceBytes = 128u << 20;
inline constexpr size_t kMaxSourceFiles = 256;

/// Appends the file, or says in left_out which limit it exceeds. `size` is what reading it would give; `read` is called
/// only within the limits. errors: those of `read`
Status add_source_file(const std::string& name, uint64_t size,
                       const std::function<Result<std::vector<uint8_t>>()>& read, SourceFiles* files);

/// errors: kUnsupported (record version, kind), kCorrupt (a name with a slash, that is no name, or that occurs twice),
///         kLimit, kTruncated
Result<SourceRecord> parse_source_record(Bytes section, uint64_t file_offset);
std::vector<uint8_t> serialize(const SourceRecord& record);

/// The record of a file; nullopt where it has none. errors: those of Container::load and parse_source_record
Result<std::optional<SourceRecord>> load_source_record(const Container& container);

const char* source_kind_name(SourceKind kind);

}  // namespace nwc
