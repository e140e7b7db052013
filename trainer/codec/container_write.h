// Writes every kind of container file (doc/format.md, sections 1 to 3 and 6). A file appears complete or not at all.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/reader.h"
#include "runtime/format/container.h"
#include "runtime/format/tensor_record.h"
#include "trainer/data/atomic_file.h"

namespace nwc {

struct Section {
  SectionType type{};
  std::vector<uint8_t> bytes;
  bool deflate = false;   ///< store deflated, where that is smaller
  bool optional = false;  ///< a reader that does not know the type may ignore it
};

/// Sections lie in the order given. Same input, same bytes. Atomic: a temporary name in the same folder, fsync, rename;
/// on an error nothing is left behind.
/// errors: kInvalidArgument (no section, a type twice, DATA), kLimit, kIo
Status write_container(const std::string& path, FileKind kind, std::span<const Section> sections);

/// Header and section table as they stand at the start of a file (doc/format.md, sections 2 and 3).
std::vector<uint8_t> serialize_header(FileKind kind, uint16_t minor, uint64_t file_size,
                                      std::span<const SectionEntry> entries);

/// The alignment of tensors and groups (doc/format.md, section 6), in bytes from the start of the file.
inline constexpr uint64_t kTensorAlignment = 64;
inline constexpr uint64_t kGroupAlignment = 4096;
inline constexpr uint64_t kLargeGroupBytes = 4u << 20;

/// Writes a model file tensor by tensor. DATA is streamed. TENSORS lies before it and is filled in at the end, which is
/// possible because the size of a record does not depend on its contents.
class ModelWriter {
 public:
  /// `sections`: all but TENSORS and DATA. `records`: in file order, with final name, rank and storage; what depends on
  /// the stored bytes comes with append(). errors: as write_container
  static Result<ModelWriter> create(const std::string& path, std::span<const Section> sections,
                                    std::vector<TensorRecord> records);

  /// The next tensor in order: `record` must equal the announced one in name, shape and group; its offset and size are
  /// set here. `parts` are its stored bytes, written one after another.
  Status append(TensorRecord record, std::span<const Bytes> parts);

  /// Writes the tensors that still wait for their alignment. To be called when every tensor has been appended;
  /// padding() is final then.
  Status finish_data();
  /// Zero bytes in front of a tensor.
  uint64_t padding(size_t tensor) const { return padding_[tensor]; }
  /// Bytes that a section takes in the file; 0 if there is none.
  uint64_t stored_bytes(SectionType type) const;
  /// Of DATA, from the start of the file: everything before it is metadata.
  uint64_t data_offset() const { return entries_.back().offset; }
  /// finish_data(), then patches TENSORS, the section table and the header; returns a reader of what commit() will make
  /// appear. Further bytes may be replaced then. errors: kIo
  Result<std::unique_ptr<Reader>> preview();
  /// Other contents for a tensor that is stored raw, after finish_data(). errors: kInvalidArgument (another storage or
  /// size), kIo
  Status replace_raw(size_t tensor, Bytes bytes);
  /// As preview(), then syncs and renames. Returns the file's size.
  Result<uint64_t> commit();

 private:
  explicit ModelWriter(AtomicFile file) : file_(std::move(file)) {}
  Status place_group(bool large);
  Status patch();

  AtomicFile file_;
  std::vector<SectionEntry> entries_;  ///< the last two: TENSORS, DATA
  std::vector<TensorRecord> records_;
  std::vector<uint64_t> padding_;
  size_t next_ = 0;
  uint64_t cursor_ = 0;  ///< file offset behind the last placed tensor

  // Tensors of the current group that wait for the group to show its size (section 6: alignment).
  std::vector<std::vector<uint8_t>> pending_;
  uint64_t pending_bytes_ = 0;
  bool group_placed_ = false;
};

/// Copies the model file `source` to `path` (which may be the same) with `quality` as its QUALITY section, replacing
/// any other. DATA is copied in pieces, never held in memory. Atomic. errors: those of Container::open, kIo
Status replace_quality(const std::string& source, const std::string& path, const Metadata& quality);

}  // namespace nwc
