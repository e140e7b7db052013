#include "runtime/format/nwc_file.h"

#include <algorithm>
#include <cmath>

#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

template <typename T, typename Parse>
Status parse_section(Bytes bytes, const SectionEntry& entry, Parse parse, std::optional<T>* out) {
  auto parsed = parse(bytes, entry.offset);
  if (!parsed.ok()) return parsed.status().with_context(str_cat("section ", section_name(entry.type)));
  *out = std::move(parsed).value();
  return {};
}

// Loads and parses one section; absent optional ones leave *out empty.
template <typename T, typename Parse>
Status load_optional(const Container& container, SectionType type, Parse parse, std::optional<T>* out) {
  const SectionEntry* entry = container.find(type);
  if (entry == nullptr) return {};
  NWC_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, container.load(type));
  return parse_section(bytes, *entry, parse, out);
}

// Like load_optional, for a section that decoding does not need: whatever its contents are, *unusable takes their
// error, unless there is none. Damaged or unreadable bytes stay an error of the file.
template <typename T, typename Parse>
Status load_descriptive(const Container& container, SectionType type, Parse parse, std::optional<T>* out,
                        Status* unusable) {
  const SectionEntry* entry = container.find(type);
  if (entry == nullptr) return {};
  Result<std::vector<uint8_t>> bytes = container.load(type);
  if (bytes.status().code() == StatusCode::kCorrupt) {  // it does not inflate
    *unusable = std::move(bytes).status();
    return {};
  }
  NWC_TRY(bytes);
  *unusable = parse_section(*bytes, *entry, parse, out);
  return {};
}

bool belongs_in_model_file(SectionType type) {
  return type != SectionType::kAnalysis && type != SectionType::kTraining;
}

/// The encoder keeps in PROVENANCE why it left a part out.
Status missing_part(const char* part, const char* key, const Metadata& provenance) {
  const auto reason = provenance.find(key);
  const bool known = reason != provenance.end();
  return unsupported(str_cat("the file has no ", part, known ? ": " : "",
                             known ? std::string_view(reason->second) : std::string_view()));
}

}  // namespace

Result<std::unique_ptr<NwcFile>> NwcFile::open(std::unique_ptr<Reader> reader) {
  std::unique_ptr<NwcFile> f(new NwcFile);
  f->reader_ = std::make_unique<StagedReader>(std::move(reader));
  NWC_ASSIGN_OR_RETURN(f->container_, Container::open(*f->reader_));
  const Container& c = f->container_;
  if (c.kind() != FileKind::kModel)
    return Status(StatusCode::kUnsupported, "kind at offset 12: this is a codec or checkpoint, not a model file");
  for (const SectionEntry& e : c.sections()) {
    if (!belongs_in_model_file(e.type))
      return corrupt(str_cat("section ", section_name(e.type), ": does not belong in a model file"));
  }
  for (const SectionType type : {SectionType::kTensors, SectionType::kProvenance, SectionType::kData}) {
    if (c.find(type) == nullptr) return corrupt(str_cat("section ", section_name(type), ": missing"));
  }
  const SectionEntry& data = *c.find(SectionType::kData);
  f->data_offset_ = data.offset;

  NWC_TRY(load_optional(c, SectionType::kCodec, parse_codec_record, &f->codec_));
  NWC_TRY(load_descriptive(c, SectionType::kModel, parse_model_record, &f->model_, &f->model_status_));
  NWC_TRY(load_descriptive(c, SectionType::kTokenizer, parse_tokenizer_record, &f->tokenizer_, &f->tokenizer_status_));
  NWC_TRY(load_descriptive(c, SectionType::kChat, parse_chat_record, &f->chat_, &f->chat_status_));
  std::optional<Metadata> provenance, quality;
  NWC_TRY(load_optional(c, SectionType::kProvenance, parse_metadata, &provenance));
  NWC_TRY(load_optional(c, SectionType::kQuality, parse_metadata, &quality));
  f->provenance_ = std::move(provenance).value_or(Metadata{});
  f->quality_ = std::move(quality).value_or(Metadata{});
  if (c.find(SectionType::kModel) == nullptr)
    f->model_status_ = missing_part("model description", "left_out.model", f->provenance_);
  if (c.find(SectionType::kTokenizer) == nullptr)
    f->tokenizer_status_ = missing_part("tokenizer", "left_out.tokenizer", f->provenance_);
  if (c.find(SectionType::kChat) == nullptr) {
    f->chat_status_ = unsupported(
        "the file has no chat template; an instruct model compressed from its own folder or GGUF "
        "file has one");
  } else if (f->chat_ && !f->chat_->format) {
    f->chat_status_ = unsupported(
        "the model's chat template is not one that this program knows; write its control tokens "
        "into the prompt and use --special (in the C API: NWC_TOKENIZE_PARSE_SPECIAL)");
  }
  std::optional<std::vector<TensorRecord>> tensors;
  NWC_TRY(load_optional(
      c, SectionType::kTensors,
      [&](Bytes bytes, uint64_t offset) { return parse_tensor_records(bytes, offset, data.size); }, &tensors));
  f->tensors_ = std::move(tensors).value_or(std::vector<TensorRecord>{});
  f->index_.reserve(f->tensors_.size());
  for (size_t i = 0; i < f->tensors_.size(); ++i) {
    const TensorRecord& t = f->tensors_[i];
    if (t.storage == Storage::kCoded && !f->codec_)
      return corrupt(str_cat("section CODEC: missing, but tensor '", t.name, "' is coded"));
    const uint64_t decoded = dtype_bytes(Dtype::kF32, t.num_elements());
    const uint64_t bytes = std::max({t.size, t.raw_bytes(), decoded});
    if (!addressable(bytes)) return unsupported(str_cat("tensor '", t.name, "': takes ", bytes, kBeyondAddresses));
    if (t.row_classes && f->codec_->context_kind != ContextKind::kRowClass)
      return corrupt(str_cat("tensor '", t.name, "'.flags: row classes, which the codec does not know"));
    f->index_.emplace(t.name, i);
  }
  return f;
}

std::optional<size_t> NwcFile::find(const std::string& name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? std::nullopt : std::optional<size_t>(it->second);
}

Result<CodedTensor> NwcFile::load_coded(size_t tensor, bool check_crc) const {
  assert(tensor < tensors_.size());
  const TensorRecord& r = tensors_[tensor];
  const std::string who = str_cat("tensor '", r.name, "'");
  if (r.storage != Storage::kCoded) return invalid_argument(str_cat(who, ": not coded"));
  const TileGrid grid = tile_grid(r);
  const uint64_t directory_size = 8 * grid.num_tiles();
  const uint64_t begin = data_offset_ + r.offset;
  if (check_crc) NWC_TRY(check_padding(tensor));
  std::vector<uint8_t> storage;
  Result<Bytes> read = read_range(*reader_, begin, r.side_size + directory_size, &storage);
  if (!read.ok()) return read.status().with_context(str_cat(who, ": side information"));
  const Bytes head = *read;
  if (check_crc && crc32(head) != r.crc) {
    return Status(StatusCode::kChecksum, str_cat(who, ": CRC-32 of side information and directory at offset ", begin,
                                                 " does not match; the file is damaged"));
  }
  CodedTensor out;
  const uint64_t side_inflated = 2 * grid.n + (r.row_scales ? grid.m : 0) + (r.row_classes ? grid.m : 0);
  NWC_ASSIGN_OR_RETURN(const std::vector<uint8_t> side,
                       inflate_exact(head.first(r.side_size), side_inflated, str_cat(who, ": side information")));
  const size_t n = static_cast<size_t>(grid.n);
  out.level.assign(side.begin(), side.begin() + static_cast<ptrdiff_t>(n));
  const auto bad_level =
      std::find_if(out.level.begin(), out.level.end(), [&](uint8_t level) { return level >= codec_->num_levels; });
  if (bad_level != out.level.end()) {
    return corrupt(str_cat(who, ": level ", *bad_level, " of column ", bad_level - out.level.begin(),
                           ", the codec has ", codec_->num_levels));
  }
  const auto scales = [&](Bytes codes, float base, const char* of, std::vector<float>* to) -> Status {
    to->resize(codes.size());
    for (size_t i = 0; i < codes.size(); ++i) {
      (*to)[i] = scale_from_code(codes[i], base);
      if (!std::isfinite((*to)[i])) return corrupt(str_cat(who, ": scale of ", of, " ", i, " is infinite"));
    }
    return {};
  };
  const Bytes codes = Bytes(side).subspan(n);
  NWC_TRY(scales(codes.first(n), r.scale_base, "column", &out.scale));
  const size_t m = static_cast<size_t>(grid.m);
  NWC_TRY(scales(codes.subspan(n, r.row_scales ? m : 0), r.row_scale_base, "row", &out.row_scale));
  if (r.row_classes) out.row_class.assign(side.end() - static_cast<ptrdiff_t>(m), side.end());
  for (size_t i = 0; i < out.row_class.size(); ++i) {
    if (out.row_class[i] >= kNumContexts)
      return corrupt(str_cat(who, ": class ", out.row_class[i], " of row ", i, ", allowed are 0 to 15"));
  }

  // The payloads' sizes add up to what the blob has left: every tile then lies inside the blob.
  const uint64_t payload_size = r.size - r.side_size - directory_size;
  const uint8_t* entry = head.data() + r.side_size;
  uint64_t offset = 0;
  out.tiles = std::vector<CodedTensor::Tile>(static_cast<size_t>(grid.num_tiles()));
  for (CodedTensor::Tile& tile : out.tiles) {
    tile.offset = begin + r.side_size + directory_size + offset;
    tile.size = load_le<uint32_t>(entry);
    tile.crc = load_le<uint32_t>(entry + 4);
    entry += 8;
    offset += tile.size;
    if (offset > payload_size) return corrupt(str_cat(who, ": the directory's tiles reach beyond the blob"));
  }
  if (offset != payload_size)
    return corrupt(str_cat(who, ": ", payload_size - offset, " bytes of the blob belong to no tile"));
  return out;
}

Status NwcFile::check_padding(size_t tensor) const {
  assert(tensor < tensors_.size());
  const uint64_t begin = tensor == 0 ? 0 : tensors_[tensor - 1].offset + tensors_[tensor - 1].size;
  const uint64_t end = tensors_[tensor].offset;
  if (begin == end) return {};
  std::vector<uint8_t> storage;
  NWC_ASSIGN_OR_RETURN(const Bytes gap, read_range(*reader_, data_offset_ + begin, end - begin, &storage));
  const auto bad = std::find_if(gap.begin(), gap.end(), [](uint8_t b) { return b != 0; });
  if (bad == gap.end()) return {};
  return corrupt(str_cat("tensor '", tensors_[tensor].name,
                         "': the padding before it holds another byte than zero at offset ",
                         data_offset_ + begin + static_cast<uint64_t>(bad - gap.begin()), "; the file is damaged"));
}

Status NwcFile::raw_crc_error(const TensorRecord& r) const {
  return Status(StatusCode::kChecksum, str_cat("tensor '", r.name, "': CRC-32 of its bytes at offset ",
                                               data_offset_ + r.offset, " does not match; the file is damaged"));
}

Status NwcFile::read_raw(size_t tensor, uint64_t begin, uint64_t end, bool check_crc, const RawPiece& use) const {
  assert(tensor < tensors_.size() && begin <= end && end <= tensors_[tensor].raw_bytes());
  const TensorRecord& r = tensors_[tensor];
  std::vector<uint8_t> storage;
  const bool whole = r.storage != Storage::kRaw;  // deflated: its middle cannot be reached without its beginning
  Bytes inflated;
  if (whole) {
    NWC_ASSIGN_OR_RETURN(inflated, load_raw(tensor, check_crc, &storage));
  }
  const bool to_crc = check_crc && !whole;
  if (to_crc) NWC_TRY(check_padding(tensor));
  const uint64_t last = to_crc ? r.raw_bytes() : end;
  uint32_t crc = 0;
  for (uint64_t at = to_crc ? 0 : begin / kRawPieceBytes * kRawPieceBytes; at < last; at += kRawPieceBytes) {
    uint64_t from = at, to = std::min<uint64_t>(at + kRawPieceBytes, last);
    if (!to_crc) from = std::max(from, begin);
    Bytes piece = whole ? inflated.subspan(static_cast<size_t>(from), static_cast<size_t>(to - from)) : Bytes();
    if (!whole) {
      Result<Bytes> read = read_range(*reader_, data_offset_ + r.offset + from, to - from, &storage);
      if (!read.ok()) return read.status().with_context(str_cat("tensor '", r.name, "'"));
      piece = *read;
    }
    if (to_crc) crc = crc32(piece, crc);
    const uint64_t use_from = std::max(from, begin), use_to = std::min(to, end);
    if (use_from < use_to)
      use(use_from, piece.subspan(static_cast<size_t>(use_from - from), static_cast<size_t>(use_to - use_from)));
  }
  return to_crc && crc != r.crc ? raw_crc_error(r) : Status();
}

Result<Bytes> NwcFile::load_raw(size_t tensor, bool check_crc, std::vector<uint8_t>* storage) const {
  assert(tensor < tensors_.size());
  const TensorRecord& r = tensors_[tensor];
  const std::string who = str_cat("tensor '", r.name, "'");
  if (r.storage == Storage::kCoded) return invalid_argument(str_cat(who, ": coded, not raw"));
  if (check_crc) NWC_TRY(check_padding(tensor));
  Result<Bytes> read = read_range(*reader_, data_offset_ + r.offset, r.size, storage);
  if (!read.ok()) return read.status().with_context(who);
  const Bytes stored = *read;
  if (check_crc && crc32(stored) != r.crc) return raw_crc_error(r);
  if (r.storage == Storage::kRaw) return stored;
  NWC_ASSIGN_OR_RETURN(std::vector<uint8_t> inflated, inflate_exact(stored, r.raw_bytes(), who));
  *storage = std::move(inflated);
  return Bytes(*storage);
}

}  // namespace nwc
