#include "runtime/engine/session_state.h"

#include <algorithm>

#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

constexpr char kStateMagic[8] = {'n', 'w', 'c', 's', 't', 'a', 't', 'e'};
constexpr uint32_t kVersion = 1;
/// Magic, version, identity, type, tokens, cached ones, bytes of the cache.
constexpr size_t kStateHeaderBytes = sizeof kStateMagic + 5 * sizeof(uint32_t) + sizeof(uint64_t);
constexpr size_t kChecksumBytes = sizeof(uint32_t);

/// What decides about logits. A quality card may be stored later.
bool decides(SectionType type) { return type != SectionType::kQuality && type != SectionType::kProvenance; }

}  // namespace

KeptCache::KeptCache(const ModelLayout& layout, uint32_t length, Dtype kv_dtype) {
  for (uint32_t l = 0; l < layout.layers.size(); ++l) {
    const BlockSpec& block = layout.block(l);
    const Layer layer{bytes_, std::min(length, oldest_seen(block, length)), length, block.num_kv_heads,
                      block.head_dim * dtype_size(kv_dtype)};
    bytes_ += uint64_t{layer.end - layer.begin} * 2 * layer.half();
    layers_.push_back(layer);
  }
}

uint32_t file_identity(const NwcFile& file) {
  std::vector<uint8_t> bytes;
  for (const SectionEntry& s : file.container().sections()) {
    if (!decides(s.type)) continue;
    const uint64_t fields[] = {static_cast<uint64_t>(s.type), s.size, s.crc};
    const auto* from = reinterpret_cast<const uint8_t*>(fields);
    bytes.insert(bytes.end(), from, from + sizeof fields);
  }
  return crc32(bytes);
}

uint64_t state_bytes(const ModelLayout& layout, size_t tokens, uint32_t cached, Dtype kv_dtype) {
  return kStateHeaderBytes + uint64_t{tokens} * sizeof(uint32_t) + KeptCache(layout, cached, kv_dtype).bytes() +
         kChecksumBytes;
}

MutableBytes begin_state(const SequenceState& state, MutableBytes out) {
  uint8_t* to = out.data();
  std::memcpy(to, kStateMagic, sizeof kStateMagic);
  to += sizeof kStateMagic;
  const size_t tokens = state.tokens.size() * sizeof(uint32_t);
  const size_t cache = out.size() - kStateHeaderBytes - tokens - kChecksumBytes;
  for (const uint32_t field : {kVersion, state.file_identity, static_cast<uint32_t>(state.kv_dtype),
                               static_cast<uint32_t>(state.tokens.size()), state.cached}) {
    store_le(to, field);
    to += sizeof field;
  }
  store_le(to, uint64_t{cache});
  to += sizeof(uint64_t);
  if (tokens != 0) std::memcpy(to, state.tokens.data(), tokens);
  return out.subspan(kStateHeaderBytes + tokens, cache);
}

void end_state(MutableBytes out) {
  const size_t covered = out.size() - kChecksumBytes;
  store_le(out.data() + covered, crc32(out.first(covered)));
}

Result<SequenceState> parse_state(Bytes bytes, const ModelLayout& layout, uint32_t identity, Dtype kv_dtype) {
  if (bytes.size() < sizeof kStateMagic || std::memcmp(bytes.data(), kStateMagic, sizeof kStateMagic) != 0)
    return Status(StatusCode::kUnrecognized, "these bytes are no state of a session");
  ByteReader reader(bytes.subspan(sizeof kStateMagic), sizeof kStateMagic);
  SequenceState out;
  uint32_t version = 0, type = 0, tokens = 0;
  uint64_t cache = 0;
  NWC_TRY(reader.read(&version, "the state's version"));
  if (version != kVersion)
    return Status(StatusCode::kUnsupportedVersion,
                  str_cat("the state has version ", version, ", and this library reads version ", kVersion));
  NWC_TRY(reader.read(&out.file_identity, "the state's file"));
  NWC_TRY(reader.read(&type, "the state's type of keys"));
  NWC_TRY(reader.read(&tokens, "the state's number of tokens"));
  NWC_TRY(reader.read(&out.cached, "the state's number of cached tokens"));
  NWC_TRY(reader.read(&cache, "the size of the state's cache"));
  NWC_TRY(reader.read_array(&out.tokens, tokens, "the state's tokens"));
  NWC_TRY(reader.read_bytes(&out.cache, cache, "the state's cache"));
  uint32_t checksum = 0;
  NWC_TRY(reader.read(&checksum, "the state's checksum"));
  if (reader.remaining() != 0) return corrupt(str_cat(reader.remaining(), " bytes follow the state"));
  if (checksum != crc32(bytes.first(bytes.size() - kChecksumBytes)))
    return Status(StatusCode::kChecksum, "the state's bytes do not have its checksum");
  if (out.file_identity != identity)
    return invalid_argument("the state is of another file: a session takes up what one of the same file has kept");
  if (type != static_cast<uint32_t>(kv_dtype))
    return invalid_argument(str_cat("the state has keys and values of type ",
                                    type == static_cast<uint32_t>(Dtype::kF32)   ? "f32"
                                    : type == static_cast<uint32_t>(Dtype::kF16) ? "f16"
                                                                                 : "?",
                                    ", and the session has ", dtype_name(kv_dtype)));
  out.kv_dtype = kv_dtype;
  if (out.cached > tokens) return corrupt("the state has more cached tokens than tokens");
  for (const uint32_t token : out.tokens) {
    if (token >= layout.model.vocab_size)
      return corrupt(str_cat("the state has token ", token, ", and the vocabulary has ", layout.model.vocab_size));
  }
  if (out.cache.size() != KeptCache(layout, out.cached, kv_dtype).bytes())
    return corrupt("the state's cache has another size than its tokens need");
  return out;
}

}  // namespace nwc
