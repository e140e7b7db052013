// Reads the parts of a tokenizer.json around its BPE model: normalizers, pre-tokenizers, post-processors and decoders.
#pragma once

#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/format/model_record.h"
#include "trainer/data/source_notes.h"

namespace nwc {

/// The regular expression of Llama 3's Split pre-tokenizer.
extern const std::string_view kLlama3Pattern;

struct HfPipeline {
  TokenizerKind kind = TokenizerKind::kByteLevelBpe;
  PreTokenizer pre_tokenizer = PreTokenizer::kNone;
  bool add_prefix_space = false;
  bool prefix_first_only = false;    ///< as in TokenizerRecord
  bool prefix_unless_space = false;  ///< as in TokenizerRecord
  bool prepends_always = false;    ///< a normalizer adds the space, so that it sees added tokens with `normalized` too
  bool splits_at_spaces = false;   ///< no token may reach across a space
  std::optional<uint32_t> bos_id;  ///< the token that the post-processor puts in front
};

/// Recognises the combinations that the engine implements. errors: kUnsupported, naming the part, option and value;
/// kCorrupt
Result<HfPipeline> parse_hf_pipeline(const nlohmann::json& tokenizer, SourceNotes* notes);

/// Fails with kUnsupported, and names the key, if the object has a key that is neither null nor one of `known`. An
/// unknown option may change every token. `where` names the object in the message.
Status refuse_other_keys(const nlohmann::json& object, const std::string& where,
                         std::initializer_list<std::string_view> known);

}  // namespace nwc
