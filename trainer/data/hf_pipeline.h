// Reads the parts of a tokenizer.json around its model: normalizers, pre-tokenizers, post-processors and decoders.
#pragma once

#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/format/tokenizer_record.h"
#include "trainer/data/source_notes.h"

namespace nwc {

struct HfPipeline {
  TokenizerKind kind = TokenizerKind::kByteLevelBpe;
  PreTokenizer pre_tokenizer = PreTokenizer::kNone;
  // As in TokenizerRecord.
  bool add_prefix_space = false;
  bool prefix_first_only = false;
  bool prefix_unless_space = false;
  bool keep_leading_space = false;
  bool drop_leading_space = false;
  bool prepends_always = false;   ///< a normalizer adds the space, so that it sees added tokens with `normalized` too
  bool splits_at_spaces = false;  ///< no token may reach across a space
  std::vector<NormalizerStep> normalizer;
  std::vector<uint8_t> charsmap;
  std::vector<uint32_t> before, after;  ///< the special tokens that the post-processor puts around the text
};

/// Recognises the combinations that the engine implements. `model_type` is that of the file's model: "BPE", "Unigram" or
/// "WordPiece". errors: kUnsupported, naming the part, option and value; kCorrupt
Result<HfPipeline> parse_hf_pipeline(const nlohmann::json& tokenizer, std::string_view model_type, SourceNotes* notes);

/// Fails with kUnsupported, and names the key, if the object has a key that is neither null nor one of `known`. An
/// unknown option may change every token. `where` names the object in the message.
Status refuse_other_keys(const nlohmann::json& object, const std::string& where,
                         std::initializer_list<std::string_view> known);

}  // namespace nwc
