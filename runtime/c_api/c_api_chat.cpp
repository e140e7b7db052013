// nwc_chat_format.
#include <ctime>

#include "runtime/base/os.h"
#include "runtime/base/str_cat.h"
#include "runtime/c_api/handles.h"
#include "runtime/model/chat_format.h"

namespace nwc::c_api {
namespace {

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  char text[16] = "";
  if (os::local_time(now, &local)) (void)std::strftime(text, sizeof text, "%Y-%m-%d", &local);
  return text;
}

Result<std::vector<ChatMessage>> to_messages(const nwc_chat_message* messages, size_t count) {
  std::vector<ChatMessage> out;
  for (size_t i = 0; i < count; ++i) {
    const nwc_chat_message& m = messages[i];
    if (m.role > NWC_CHAT_ASSISTANT)
      return invalid_argument(str_cat("message ", i, ": role ", m.role, " does not exist"));
    if (m.reserved != 0) return invalid_argument(str_cat("message ", i, ": reserved is not 0"));
    if (m.text == nullptr && m.length_bytes != 0) return null_argument("messages[].text");
    out.push_back({static_cast<ChatRole>(m.role),
                   m.length_bytes == 0 ? std::string_view() : std::string_view(m.text, m.length_bytes)});
  }
  return out;
}

/// BOS is the tokenizer's business unless the text has it already.
uint32_t tokenize_flags(const NwcFile& file, std::string_view text, size_t num_done) {
  const std::optional<TokenizerRecord>& tokenizer = file.tokenizer();
  if (num_done != 0 || !tokenizer || !tokenizer->add_bos) return NWC_TOKENIZE_PARSE_SPECIAL;
  const bool there = text.starts_with(tokenizer->tokens[tokenizer->bos_id].bytes);
  return there ? uint32_t{NWC_TOKENIZE_PARSE_SPECIAL} : NWC_TOKENIZE_PARSE_SPECIAL | NWC_TOKENIZE_ADD_SPECIAL;
}

}  // namespace
}  // namespace nwc::c_api

using namespace nwc;
using namespace nwc::c_api;

nwc_status nwc_chat_format(const nwc_model* model, const nwc_chat_message* messages, size_t num_messages,
                           size_t num_done, const char* date, char* out_text, size_t capacity_bytes,
                           size_t* out_length_bytes, uint32_t* out_tokenize_flags) {
  return call(model, [&](const nwc_model& m) -> Status {
    if (messages == nullptr) return null_argument("messages");
    if (out_text == nullptr && capacity_bytes != 0) return null_argument("out_text");
    if (out_length_bytes == nullptr) return null_argument("out_length_bytes");
    const NwcFile& file = m.state->file();
    NWC_TRY(file.chat_status());
    NWC_ASSIGN_OR_RETURN(const std::vector<ChatMessage> conversation, to_messages(messages, num_messages));
    NWC_ASSIGN_OR_RETURN(const std::string text,
                         format_chat(*file.chat()->format, conversation, num_done, date != nullptr ? date : today()));
    *out_length_bytes = text.size();
    if (out_tokenize_flags != nullptr) *out_tokenize_flags = tokenize_flags(file, text, num_done);
    return give_text(text, out_text, capacity_bytes);
  });
}
