// nwc run --chat: a conversation with an instruct model, through the public C API only.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "host-tools/cli.h"
#include "nwc/nwc.h"

namespace nwc::cli {

/// The status of a call of the C API, with the text that its handle keeps.
Status api_status(nwc_status status, const char* text);

/// The tokens of a text; flags: NWC_TOKENIZE_*.
Result<std::vector<uint32_t>> text_tokens(const nwc_model* model, const std::string& text, uint32_t flags);

/// errors: kUnsupported (the file has no chat template, or one that is not known), kInvalidArgument (a system text that
/// the model does not take)
Status check_chat(const nwc_model* model, const std::optional<std::string>& system);

/// The texts at which an answer of this model ends.
std::vector<std::string> chat_stops(const nwc_model* model);

/// A conversation. The session keeps its tokens, so that a turn evaluates only what it adds.
class Chat {
 public:
  /// model and session outlive the chat, and so do the texts that `generate` points to.
  Chat(const nwc_model* model, nwc_session* session, const nwc_generate_params& generate,
       std::optional<std::string> system);

  struct Answer {
    std::string text;
    std::vector<uint32_t> tokens;
    size_t prompt_tokens = 0;
    nwc_stop_reason reason = NWC_STOP_MAX_TOKENS;
    double prompt_seconds = 0, seconds = 0;
  };
  /// Asks and prints the answer to stdout as it comes, if `print`. Ctrl-C ends the answer.
  /// errors: kLimit (the context has no room for the question, which is then forgotten), those of the session
  Result<Answer> ask(const std::string& question, bool print);
  /// Forgets everything but the system text.
  Status clear();

 private:
  Result<std::string> format(size_t num_done, uint32_t* flags) const;

  const nwc_model* model_;
  nwc_session* session_;
  nwc_generate_params generate_;
  uint32_t context_ = 0;
  struct Message {
    nwc_chat_role role;
    std::string text;
  };
  std::vector<Message> messages_;
};

/// Reads questions from stdin, line by line, until it ends or /exit.
Status converse(Chat& chat, const Context& context);

}  // namespace nwc::cli
