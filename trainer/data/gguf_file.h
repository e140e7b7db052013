// The GGUF container, versions 2 and 3, little-endian: typed metadata, tensor directory, tensor data.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/base/reader.h"
#include "trainer/data/gguf_dequant.h"

namespace nwc {

struct GgufTensor {
  std::string name;
  const GgmlType* type = nullptr;
  std::vector<uint64_t> shape;     ///< row-major, outermost first (the file has them innermost first)
  const Reader* reader = nullptr;  ///< of the file that holds it: a model may be split into several
  uint64_t offset = 0;             ///< from the start of that file
  uint64_t size_bytes = 0;         ///< as stored
};

/// safety: untrusted input. Metadata is kept as checked ranges of the header and decoded when asked for; every tensor
/// lies in the file and no two overlap.
class GgufFile {
 public:
  /// errors: kUnrecognized (magic), kUnsupportedVersion, kTruncated, kCorrupt (duplicate keys or names, types,
  /// alignment,
  ///         overlaps), kUnsupported (big-endian file, tensor type; names the tensor), kLimit
  static Result<GgufFile> open(std::unique_ptr<Reader> reader);
  /// Of header() of a file alone: metadata and the tensors' names, types and shapes; offsets are not looked at.
  static Result<GgufFile> open_header(std::unique_ptr<Reader> reader);

  /// Adds the tensors of another part of the same model. The metadata stay those of this file.
  /// errors: kCorrupt (a tensor is in both)
  Status append(GgufFile part);

  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  /// The file's bytes from its start to the end of the tensor directory, and those of the parts that were appended.
  std::vector<Bytes> headers() const;

  // Metadata. An absent key leaves *out alone; a value of another type is kCorrupt and names the key.
  bool has(const std::string& key) const { return metadata_.count(key) != 0; }
  /// Any integer type whose value fits.
  Status get(const std::string& key, uint32_t* out) const;
  Status get(const std::string& key, float* out) const;
  Status get(const std::string& key, bool* out) const;
  Status get(const std::string& key, std::string* out) const;
  Status get(const std::string& key, std::vector<std::string>* out) const;
  Status get(const std::string& key, std::vector<float>* out) const;
  /// Elements of any integer type whose values fit.
  Status get(const std::string& key, std::vector<int32_t>* out) const;
  Status get(const std::string& key, std::vector<bool>* out) const;
  bool is_array(const std::string& key) const;
  /// A key with type and value, as the file has them.
  struct RawPair {
    std::string key;
    Bytes bytes;
  };
  const std::vector<RawPair>& raw_metadata() const { return raw_metadata_; }  ///< in file order

 private:
  struct Value {
    uint32_t type;  ///< of the value, or of an array's elements
    bool array;
    uint64_t count;        ///< of elements; 1 for a scalar
    Bytes bytes;           ///< the elements as in the file; strings have their lengths in front
    uint64_t file_offset;  ///< of `bytes`
  };
  GgufFile() = default;
  Result<uint64_t> parse();  ///< returns where the directory ends
  Status parse_header(uint64_t limit, uint64_t* header_end);
  Status parse_metadata(ByteReader* in);
  Status parse_tensor(ByteReader* in);
  Status place_tensors(uint64_t header_end);
  Result<const Value*> find(const std::string& key, bool array) const;

  std::unique_ptr<Reader> reader_;
  std::vector<GgufFile> other_parts_;  ///< without their tensors
  std::vector<uint8_t> header_storage_;
  Bytes header_;
  std::vector<RawPair> raw_metadata_;
  std::map<std::string, Value> metadata_;
  std::vector<GgufTensor> tensors_;
};

}  // namespace nwc
