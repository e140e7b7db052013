// A parsed .nwc model file: metadata in memory, tensor bytes on demand.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "runtime/base/staged_reader.h"
#include "runtime/format/chat_record.h"
#include "runtime/format/codec_record.h"
#include "runtime/format/container.h"
#include "runtime/format/model_record.h"
#include "runtime/format/tensor_record.h"

namespace nwc {

/// Side information and directory of one coded tensor (doc/format.md, section 5.1), checked against the codec.
struct CodedTensor {
  std::vector<uint8_t> level;      ///< [n]
  std::vector<float> scale;        ///< [n]
  std::vector<float> row_scale;    ///< [m], or empty
  std::vector<uint8_t> row_class;  ///< [m], or empty: all 0
  struct Tile {
    uint64_t offset = 0;  ///< of the payload, from the start of the file
    uint32_t size = 0;
    uint32_t crc = 0;
  };
  std::vector<Tile> tiles;
};

inline constexpr uint32_t kRawPieceBytes = 256u << 10;

/// Immutable after opening; thread-safe.
class NwcFile {
 public:
  /// Reads and checks every metadata section (CRC, contents, limits); tensor bytes are not touched. kind must be
  /// kModel. MODEL, TOKENIZER and CHAT sections that cannot be used do not stop opening, as decoding does not need them
  /// (doc/format_model.md): model(), tokenizer() or chat() is empty then, and its status says why.
  static Result<std::unique_ptr<NwcFile>> open(std::unique_ptr<Reader> reader);

  /// Sessions stage here what they are about to decode; whoever reads does not notice.
  const StagedReader& reader() const { return *reader_; }
  const Container& container() const { return container_; }
  const std::optional<CodecRecord>& codec() const { return codec_; }
  const std::optional<ModelRecord>& model() const { return model_; }
  const std::optional<TokenizerRecord>& tokenizer() const { return tokenizer_; }
  /// Ok where model() holds a record. errors: kUnsupported (no section: with the reason that PROVENANCE gives, if it
  /// does; a record version, value or flag that this build does not know, which the message names), kCorrupt,
  /// kTruncated or kLimit (impossible contents)
  const Status& model_status() const { return model_status_; }
  /// The same for tokenizer().
  const Status& tokenizer_status() const { return tokenizer_status_; }
  /// Empty where there is no section CHAT, or one that cannot be used.
  const std::optional<ChatRecord>& chat() const { return chat_; }
  /// Ok where chat() holds a format. errors: kUnsupported (no section, a template that the encoder did not recognise, a
  /// version or flag that this build does not know), kCorrupt, kTruncated, kLimit
  const Status& chat_status() const { return chat_status_; }
  const std::vector<TensorRecord>& tensors() const { return tensors_; }
  const Metadata& provenance() const { return provenance_; }
  const Metadata& quality() const { return quality_; }
  std::optional<size_t> find(const std::string& name) const;
  uint64_t data_offset() const { return data_offset_; }  ///< of DATA from the start of the file

  /// Errors name the tensor. check_crc: also the CRC-32 of side information and directory, and check_padding().
  Result<CodedTensor> load_coded(size_t tensor, bool check_crc) const;
  /// Bytes [begin, end) of a raw tensor, inflated, in order and in pieces of at most kRawPieceBytes from multiples of
  /// it. Nothing more is read, except for what check_crc needs, which is all; that error comes after the last piece.
  using RawPiece = std::function<void(uint64_t at, Bytes piece)>;
  Status read_raw(size_t tensor, uint64_t begin, uint64_t end, bool check_crc, const RawPiece& use) const;
  /// The bytes of a raw tensor, inflated; `storage` holds them where the source cannot be viewed. check_crc: also
  /// check_padding().
  Result<Bytes> load_raw(size_t tensor, bool check_crc, std::vector<uint8_t>* storage) const;
  /// Checks that the bytes of DATA between the tensor before and this one are zero. It reads less than 4096 bytes, next
  /// to the tensor's own. A program that loads all tensors has then checked every byte of the file.
  Status check_padding(size_t tensor) const;

 private:
  NwcFile() = default;
  Status raw_crc_error(const TensorRecord& record) const;
  std::unique_ptr<StagedReader> reader_;
  Container container_;
  std::optional<CodecRecord> codec_;
  std::optional<ModelRecord> model_;
  std::optional<TokenizerRecord> tokenizer_;
  std::optional<ChatRecord> chat_;
  Status model_status_, tokenizer_status_, chat_status_;
  std::vector<TensorRecord> tensors_;
  std::unordered_map<std::string, size_t> index_;
  Metadata provenance_, quality_;
  uint64_t data_offset_ = 0;
};

}  // namespace nwc
