#include "trainer/data/imatrix.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <unordered_map>

#include "runtime/base/checked.h"
#include "runtime/format/constants.h"
#include "trainer/data/content_hash.h"
#include "trainer/data/gguf_file.h"
#include "trainer/data/tensor_limits.h"

namespace nwc {
namespace {

constexpr uint32_t kGgufMagic = 0x46554747;
constexpr char kSums[] = ".in_sum2", kCounts[] = ".counts";
constexpr uint64_t kMaxDatasetBytes = 65536;
constexpr uint64_t kPiece = uint64_t{1} << 18;  ///< numbers that are in memory at a time while a file is checked

std::string quote_entry(const std::string& name) { return "entry for " + quote_tensor(name); }

/// Fields of a .dat file, one after another.
class DatFields {
 public:
  explicit DatFields(const Reader& reader) : reader_(reader) {}
  uint64_t offset() const { return at_; }
  uint64_t remaining() const { return reader_.size() - at_; }

  Status take(uint64_t bytes, const std::string& field) {
    if (bytes > remaining()) {
      return truncated(field + " at offset " + std::to_string(at_) + " needs " + std::to_string(bytes) + " bytes, " +
                       std::to_string(remaining()) + " are left");
    }
    at_ += bytes;
    return {};
  }
  /// Between `least` and `most`.
  Status read(int64_t least, uint64_t most, const std::string& field, int32_t* out) {
    const uint64_t begin = at_;
    NWC_TRY(take(sizeof *out, field));
    uint8_t bytes[sizeof *out];
    NWC_TRY(reader_.read(begin, bytes));
    *out = load_le<int32_t>(bytes);
    if (*out < least)
      return corrupt(field + " at offset " + std::to_string(begin) + " is " + std::to_string(*out) +
                     ", which no importance matrix has");
    if (*out > 0 && static_cast<uint64_t>(*out) > most)
      return limit_error(field + " at offset " + std::to_string(begin) + " is " + std::to_string(*out) +
                         ", more than " + std::to_string(most));
    return {};
  }
  Status read(uint64_t bytes, const std::string& field, std::string* out) {
    const uint64_t begin = at_;
    NWC_TRY(take(bytes, field));
    out->resize(static_cast<size_t>(bytes));
    return reader_.read(begin, {reinterpret_cast<uint8_t*>(out->data()), out->size()});
  }

 private:
  const Reader& reader_;
  uint64_t at_ = 0;
};

bool is_mean_square(double v) { return v >= 0 && std::isfinite(v); }

Status not_mean_square(const ImatrixEntry& e, const char* what, uint64_t i, double v) {
  return corrupt(quote_entry(e.name) + ": " + what + " " + std::to_string(i) + " is " + std::to_string(v) +
                 ", which no mean of squares has");
}

Result<std::vector<float>> read_floats(const Reader& reader, uint64_t offset, uint64_t count) {
  std::vector<float> out(static_cast<size_t>(count));
  NWC_TRY(reader.read(offset, {reinterpret_cast<uint8_t*>(out.data()), out.size() * sizeof(float)}));
  return out;
}

Status check_f32(const GgufTensor& tensor) {
  if (tensor.type->dtype == Dtype::kF32 && !tensor.type->quantized()) return {};
  return corrupt(quote_tensor(tensor.name) + " is stored as " + tensor.type->name + ", where F32 is expected");
}

uint64_t elements(const GgufTensor& tensor) { return tensor.size_bytes / sizeof(float); }

}  // namespace

Result<Imatrix> Imatrix::open(std::unique_ptr<Reader> reader) {
  Imatrix out;
  uint8_t magic[4] = {};
  if (reader->size() >= sizeof magic) NWC_TRY(reader->read(0, magic));
  if (load_le<uint32_t>(magic) == kGgufMagic) {
    NWC_ASSIGN_OR_RETURN(GgufFile file, GgufFile::open(std::move(reader)));
    const auto owner = std::make_shared<const GgufFile>(std::move(file));
    out.storage_ = owner;
    NWC_TRY(out.parse_gguf(*owner));
  } else {
    const std::shared_ptr<const Reader> owner = std::move(reader);
    out.storage_ = owner;
    const Status parsed = out.parse_dat(*owner);
    if (!parsed.ok()) return parsed.with_context("read as a .dat file of llama.cpp");
  }
  NWC_TRY(out.finish());
  return out;
}

Status Imatrix::parse_dat(const Reader& reader) {
  DatFields in(reader);
  int32_t count = 0, length = 0, calls = 0, size = 0;
  NWC_TRY(in.read(1, kMaxTensors, "number of entries", &count));
  for (int32_t i = 0; i < count; ++i) {
    const std::string entry = "entry " + std::to_string(i) + ": ";
    ImatrixEntry& e = entries_.emplace_back();
    NWC_TRY(in.read(1, kMaxNameBytes, entry + "length of the name", &length));
    NWC_TRY(in.read(static_cast<uint64_t>(length), entry + "name", &e.name));
    const std::string named = quote_entry(e.name) + ": ";
    NWC_TRY(in.read(0, INT32_MAX, named + "number of calls", &calls));
    NWC_TRY(in.read(1, INT32_MAX, named + "number of values", &size));
    e.size = static_cast<uint64_t>(size);
    e.counts = {static_cast<double>(calls)};
    e.reader = &reader;
    e.offset = in.offset();
    NWC_TRY(in.take(e.size * sizeof(float), named + "values"));
  }
  // The first version of the format ends here.
  if (in.remaining() == 0) return {};
  std::string dataset;
  NWC_TRY(in.read(0, INT32_MAX, "number of chunks", &count));
  NWC_TRY(in.read(0, kMaxDatasetBytes, "length of the text's name", &length));
  NWC_TRY(in.read(static_cast<uint64_t>(length), "name of the text", &dataset));
  chunks_ = static_cast<uint64_t>(count);
  if (!dataset.empty()) datasets_.push_back(dataset);
  if (in.remaining() != 0)
    return corrupt(std::to_string(in.remaining()) + " unexpected bytes at offset " + std::to_string(in.offset()));
  return {};
}

Status Imatrix::parse_gguf(const GgufFile& file) {
  std::string type;
  NWC_TRY(file.get("general.type", &type));
  if (type != "imatrix") {
    return Status(StatusCode::kUnrecognized,
                  "a GGUF file whose general.type is " +
                      (type.empty() ? "missing" : "\"" + type.substr(0, 200) + "\"") +
                      ", not \"imatrix\": llama.cpp's llama-imatrix makes importance matrices");
  }
  uint32_t chunks = 0;
  NWC_TRY(file.get("imatrix.chunk_count", &chunks));
  NWC_TRY(file.get("imatrix.datasets", &datasets_));
  chunks_ = chunks;
  std::unordered_map<std::string_view, const GgufTensor*> by_name;
  for (const GgufTensor& tensor : file.tensors()) by_name.emplace(tensor.name, &tensor);
  for (const GgufTensor& sums : file.tensors()) {
    if (!sums.name.ends_with(kSums)) continue;
    ImatrixEntry& e = entries_.emplace_back();
    e.name = sums.name.substr(0, sums.name.size() - std::char_traits<char>::length(kSums));
    const std::string counts_name = e.name + kCounts;
    const auto counts = by_name.find(counts_name);
    if (counts == by_name.end())
      return corrupt(quote_tensor(sums.name) + " is there without " + quote_tensor(counts_name));
    NWC_TRY(check_f32(sums));
    NWC_TRY(check_f32(*counts->second));
    e.size = elements(sums);
    const uint64_t matrices = elements(*counts->second);
    // Each matrix has a row of sums, and a count.
    if (e.size == 0 || sums.shape.empty() || e.size / sums.shape.back() != matrices) {
      return corrupt(quote_tensor(counts_name) + " of shape " + shape_text(counts->second->shape) +
                     " does not count for " + quote_tensor(sums.name) + " of shape " + shape_text(sums.shape));
    }
    NWC_ASSIGN_OR_RETURN(const std::vector<float> numbers,
                         read_floats(*counts->second->reader, counts->second->offset, matrices));
    e.counts.assign(numbers.begin(), numbers.end());
    e.reader = sums.reader;
    e.offset = sums.offset;
  }
  if (entries_.empty()) return corrupt("an importance matrix without any tensor NAME.in_sum2");
  return {};
}

/// Sorts, checks values, and makes the hash.
Status Imatrix::finish() {
  std::sort(entries_.begin(), entries_.end(),
            [](const ImatrixEntry& a, const ImatrixEntry& b) { return a.name < b.name; });
  ContentHash hash;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const ImatrixEntry& e = entries_[i];
    if (i > 0 && entries_[i - 1].name == e.name) return corrupt(quote_entry(e.name) + " occurs twice");
    for (size_t m = 0; m < e.counts.size(); ++m) {
      if (!is_mean_square(e.counts[m])) return not_mean_square(e, "count", m, e.counts[m]);
    }
    hash.add(e.name);
    hash.add(e.size);
    for (uint64_t at = 0; at < e.size; at += kPiece) {
      NWC_ASSIGN_OR_RETURN(const std::vector<float> v, read(e, at, std::min(kPiece, e.size - at)));
      hash.add(Bytes(reinterpret_cast<const uint8_t*>(v.data()), v.size() * sizeof(float)));
    }
    // The shares of several matrices decide, too; how long the text of one was does not.
    if (e.counts.size() > 1) {
      for (const double c : e.counts) hash.add(c);
    }
  }
  hash_ = hash.hex();
  return {};
}

const ImatrixEntry* Imatrix::find(const std::string& name) const {
  const auto at = std::lower_bound(entries_.begin(), entries_.end(), name,
                                   [](const ImatrixEntry& e, const std::string& n) { return e.name < n; });
  return at != entries_.end() && at->name == name ? &*at : nullptr;
}

Result<std::vector<float>> Imatrix::read(const ImatrixEntry& e, uint64_t first, uint64_t count) const {
  NWC_ASSIGN_OR_RETURN(std::vector<float> out, read_floats(*e.reader, e.offset + first * sizeof(float), count));
  const uint64_t of_matrix = e.size / e.counts.size();
  for (uint64_t i = 0; i < count; ++i) {
    const auto sum = static_cast<double>(out[i]);
    const double seen = e.counts[static_cast<size_t>((first + i) / of_matrix)];
    const double mean = seen > 0 ? sum / seen : 0;
    if (!is_mean_square(sum) || mean > static_cast<double>(FLT_MAX)) return not_mean_square(e, "value", first + i, sum);
    out[i] = static_cast<float>(mean);
  }
  return out;
}

}  // namespace nwc
