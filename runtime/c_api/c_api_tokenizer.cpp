// Text to tokens and back, on a model.
#include "runtime/base/str_cat.h"
#include "runtime/c_api/handles.h"
#include "runtime/model/tokenizer.h"

namespace nwc::c_api {

// Here, and not with the other members, because nwc_decode goes without this file.
Result<const Tokenizer*> ModelState::tokenizer() const {
  std::lock_guard lock(tokenizer_mutex_);
  if (tokenizer_ == nullptr) {
    NWC_TRY(file_->tokenizer_status());
    NWC_ASSIGN_OR_RETURN(tokenizer_, Tokenizer::create_from(*file_->tokenizer()));
  }
  return tokenizer_.get();
}

}  // namespace nwc::c_api

using namespace nwc;
using namespace nwc::c_api;

nwc_status nwc_tokenize(const nwc_model* model, const char* text, size_t length_bytes, uint32_t flags,
                        uint32_t* out_tokens, size_t capacity, size_t* out_count) {
  return call(model, [&](const nwc_model& m) -> Status {
    if (text == nullptr && length_bytes != 0) return null_argument("text");
    if (out_tokens == nullptr && capacity != 0) return null_argument("out_tokens");
    if (out_count == nullptr) return null_argument("out_count");
    if (flags > (NWC_TOKENIZE_ADD_SPECIAL | NWC_TOKENIZE_PARSE_SPECIAL | NWC_TOKENIZE_ADD_END))
      return invalid_argument(str_cat("flags ", flags, " hold an unknown bit"));
    NWC_ASSIGN_OR_RETURN(const Tokenizer* tokenizer, m.state->tokenizer());
    Tokenizer::EncodeOptions options;
    options.add_special = (flags & NWC_TOKENIZE_ADD_SPECIAL) != 0;
    options.parse_special = (flags & NWC_TOKENIZE_PARSE_SPECIAL) != 0;
    options.add_end = (flags & NWC_TOKENIZE_ADD_END) != 0;
    NWC_ASSIGN_OR_RETURN(const std::vector<uint32_t> tokens,
                         tokenizer->encode(std::string_view(text, length_bytes), options));
    *out_count = tokens.size();
    if (out_tokens == nullptr) return {};
    if (capacity < tokens.size())
      return Status(StatusCode::kBufferTooSmall,
                    str_cat("the text has ", tokens.size(), " tokens, the buffer holds ", capacity));
    std::copy(tokens.begin(), tokens.end(), out_tokens);
    return {};
  });
}

nwc_status nwc_detokenize(const nwc_model* model, const uint32_t* tokens, size_t num_tokens, char* out_text,
                          size_t capacity_bytes, size_t* out_length_bytes) {
  return call(model, [&](const nwc_model& m) -> Status {
    if (tokens == nullptr && num_tokens != 0) return null_argument("tokens");
    if (out_text == nullptr && capacity_bytes != 0) return null_argument("out_text");
    if (out_length_bytes == nullptr) return null_argument("out_length_bytes");
    NWC_ASSIGN_OR_RETURN(const Tokenizer* tokenizer, m.state->tokenizer());
    const std::vector<uint32_t> ids(tokens, tokens + num_tokens);
    for (size_t i = 0; i < num_tokens; ++i) {
      if (ids[i] >= tokenizer->vocab_size())
        return invalid_argument(
            str_cat("token ", ids[i], " at index ", i, " is not in the vocabulary of ", tokenizer->vocab_size()));
    }
    const std::string text = tokenizer->decode(ids);
    *out_length_bytes = text.size();
    return give_text(text, out_text, capacity_bytes);
  });
}
