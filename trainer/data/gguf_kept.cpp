#include "trainer/data/gguf_kept.h"

#include "trainer/data/gguf_mix.h"

namespace nwc {
namespace {

const std::string kTokenizer = "tokenizer.";
const std::string kChatTemplate = "tokenizer.chat_template";
constexpr char kFileType[] = "general.file_type", kVersion[] = "general.quantization_version";

}  // namespace

Result<GgufFile> open_kept_gguf(const SourceRecord& record) {
  if (record.kind != SourceKind::kGguf || record.files.empty()) return invalid_argument("not made from a GGUF file");
  std::optional<GgufFile> whole;
  for (const SourceFile& file : record.files) {
    Result<GgufFile> header = GgufFile::open_header(make_memory_reader(file.bytes));
    Status status = header.status();
    if (status.ok() && whole) status = whole->append(std::move(*header));
    if (!status.ok()) return status.with_context("SOURCE file " + file.name);
    if (!whole) whole = std::move(*header);
  }
  return std::move(*whole);
}

Result<GgufMetadata> copy_gguf_metadata(const GgufFile& file, uint32_t file_type, bool quantized) {
  GgufMetadata metadata;
  for (const GgufFile::RawPair& pair : file.raw_metadata()) {
    if (pair.key.starts_with("split.")) continue;
    if (pair.key == kFileType) {
      metadata.add_u32(kFileType, file_type);
    } else if (pair.key == kVersion && quantized) {
      metadata.add_u32(kVersion, kGgufQuantizationVersion);
    } else {
      metadata.add_raw(pair.bytes);
    }
  }
  if (quantized && !file.has(kVersion)) metadata.add_u32(kVersion, kGgufQuantizationVersion);
  if (quantized && !file.has(kFileType)) metadata.add_u32(kFileType, file_type);
  uint32_t alignment = metadata.alignment();
  NWC_TRY(file.get("general.alignment", &alignment));
  constexpr uint32_t kMaxAlignment = 1u << 20;
  if (alignment == 0 || alignment > kMaxAlignment || (alignment & (alignment - 1)) != 0) {
    return corrupt("general.alignment is " + std::to_string(alignment) + ", not a power of two up to 1048576");
  }
  metadata.set_alignment(alignment);
  return metadata;
}

Result<TokenizerConfig> read_gguf_tokenizer_config(const GgufFile& file) {
  TokenizerConfig config;
  const std::string ggml = kTokenizer + "ggml.";
  NWC_TRY(file.get(ggml + "bos_token_id", &config.bos_id));
  NWC_TRY(file.get(ggml + "eos_token_id", &config.eos_id));
  NWC_TRY(file.get(ggml + "unknown_token_id", &config.unk_id));
  NWC_TRY(file.get(ggml + "padding_token_id", &config.pad_id));
  for (const GgufFile::RawPair& pair : file.raw_metadata()) {
    const bool named = pair.key.starts_with(kChatTemplate + ".");
    if (pair.key != kChatTemplate && !named) continue;
    std::string text;
    NWC_TRY(file.get(pair.key, &text));
    config.chat_templates.emplace_back(named ? pair.key.substr(kChatTemplate.size() + 1) : "default", std::move(text));
  }
  return config;
}

uint32_t kept_head_dim(const GgufFile& file) {
  std::string architecture;
  uint32_t width = 0, heads = 0, head_dim = 0;
  const Status status = [&]() -> Status {
    NWC_TRY(file.get("general.architecture", &architecture));
    NWC_TRY(file.get(architecture + ".embedding_length", &width));
    NWC_TRY(file.get(architecture + ".attention.head_count", &heads));
    return file.get(architecture + ".attention.key_length", &head_dim);
  }();
  if (!status.ok()) return 0;
  return head_dim != 0 || heads == 0 ? head_dim : width / heads;
}

}  // namespace nwc
