#include "host-tools/run_chat.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>

#include "host-tools/process.h"

namespace nwc::cli {
namespace {

constexpr const char* kFull =
    "the context of {} tokens is full: /clear begins a new conversation, and --context makes room for a longer one";

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Listener {
  Chat::Answer* answer;
  bool print;
  Status printed;
  std::chrono::steady_clock::time_point start;
};

int on_token(void* user, uint32_t token, const char* text, size_t length) {
  auto* l = static_cast<Listener*>(user);
  if (l->answer->tokens.empty()) l->answer->prompt_seconds = seconds_since(l->start);
  l->answer->tokens.push_back(token);
  l->answer->text.append(text, length);
  if (l->print && l->printed.ok()) l->printed = write_stdout({text, length});
  return interrupted() || !l->printed.ok() ? 1 : 0;
}

/// One line of stdin without its end; false: there is none.
bool read_line(std::string* line) {
  line->clear();
  for (int c; (c = std::getc(stdin)) != EOF;) {
    if (c == '\n') return true;
    *line += static_cast<char>(c);
  }
  return !line->empty();
}

}  // namespace

Status api_status(nwc_status status, const char* text) {
  if (status == NWC_STATUS_OK) return {};
  return Status(static_cast<StatusCode>(status), *text != '\0' ? text : nwc_status_string(status));
}

Result<std::vector<uint32_t>> text_tokens(const nwc_model* model, const std::string& text, uint32_t flags) {
  std::vector<uint32_t> tokens(nwc_tokenize_bound(text.size()));
  size_t count = 0;
  const auto encode = [&] {
    return nwc_tokenize(model, text.data(), text.size(), flags, tokens.data(), tokens.size(), &count);
  };
  nwc_status status = encode();
  if (status == NWC_STATUS_BUFFER_TOO_SMALL) {  // a normalizer makes much more of the text
    tokens.resize(count);
    status = encode();
  }
  NWC_TRY(api_status(status, nwc_model_last_error(model)));
  tokens.resize(count);
  return tokens;
}

Status check_chat(const nwc_model* model, const std::optional<std::string>& system) {
  const std::string text = system.value_or("");
  const nwc_chat_message messages[] = {{NWC_CHAT_SYSTEM, 0, text.data(), text.size()}, {NWC_CHAT_USER, 0, "", 0}};
  size_t length = 0;
  const nwc_status status =
      nwc_chat_format(model, messages + (system ? 0 : 1), system ? 2 : 1, 0, nullptr, nullptr, 0, &length, nullptr);
  return api_status(status, nwc_model_last_error(model));
}

std::vector<std::string> chat_stops(const nwc_model* model) {
  std::vector<std::string> stops;
  const char* text = nullptr;
  while (nwc_model_get_string(model, fmt::format("chat_stop.{}", stops.size()).c_str(), &text) == NWC_STATUS_OK)
    stops.emplace_back(text);
  return stops;
}

Chat::Chat(const nwc_model* model, nwc_session* session, const nwc_generate_params& generate,
           std::optional<std::string> system)
    : model_(model), session_(session), generate_(generate) {
  if (system) messages_.push_back({NWC_CHAT_SYSTEM, std::move(*system)});
  nwc_session_plan plan;
  nwc_session_plan_init(&plan);
  if (nwc_session_get_plan(session, &plan) == NWC_STATUS_OK) context_ = plan.context;
}

Result<std::string> Chat::format(size_t num_done, uint32_t* flags) const {
  std::vector<nwc_chat_message> messages;
  for (const Message& m : messages_) messages.push_back({m.role, 0, m.text.data(), m.text.size()});
  std::string text;
  size_t length = 0;
  const auto write = [&](char* out) {
    return api_status(
        nwc_chat_format(model_, messages.data(), messages.size(), num_done, nullptr, out, text.size(), &length, flags),
        nwc_model_last_error(model_));
  };
  NWC_TRY(write(nullptr));
  text.resize(length);
  NWC_TRY(write(text.data()));
  return text;
}

Result<Chat::Answer> Chat::ask(const std::string& question, bool print) {
  const size_t num_done = messages_.size() > 1 ? messages_.size() : 0;  // a system text alone is not in the session
  messages_.push_back({NWC_CHAT_USER, question});
  const auto forget = [&](Status status) -> Status {
    messages_.pop_back();
    return status;
  };
  uint32_t flags = 0;
  Result<std::string> text = format(num_done, &flags);
  if (!text.ok()) return forget(text.status());
  Result<std::vector<uint32_t>> tokens = text_tokens(model_, *text, flags);
  if (!tokens.ok()) return forget(tokens.status());
  const uint32_t before = nwc_session_position(session_);
  if (tokens->size() >= context_ - before) return forget(limit_error(fmt::format(kFull, context_)));

  Answer answer;
  answer.prompt_tokens = tokens->size();
  Listener listener{&answer, print, {}, std::chrono::steady_clock::now()};
  const nwc_status status =
      nwc_session_generate(session_, tokens->data(), tokens->size(), &generate_, on_token, &listener, &answer.reason);
  if (status != NWC_STATUS_OK) return forget(api_status(status, nwc_session_last_error(session_)));
  NWC_TRY(listener.printed);
  answer.seconds = seconds_since(listener.start) - answer.prompt_seconds;
  messages_.push_back({NWC_CHAT_ASSISTANT, answer.text});
  return answer;
}

Status Chat::clear() {
  const bool has_system = !messages_.empty() && messages_[0].role == NWC_CHAT_SYSTEM;
  messages_.resize(has_system ? 1 : 0);
  return api_status(nwc_session_truncate(session_, 0), nwc_session_last_error(session_));
}

Status converse(Chat& chat, const Context& context) {
  const bool terminal = is_terminal(Stream::kIn);
  if (terminal && !context.quiet)
    fmt::print(stderr, "Ctrl-C ends an answer; /clear begins anew; /exit or Ctrl-D ends.\n");
  std::string line;
  while (true) {
    if (terminal) fmt::print(stderr, "> ");
    if (!read_line(&line) || line == "/exit") break;
    if (line == "/clear") {
      NWC_TRY(chat.clear());
      continue;
    }
    if (line.empty()) continue;
    clear_interrupt();  // one at the prompt ends no answer
    if (interrupted()) break;
    const Result<Chat::Answer> answer = chat.ask(line, true);
    if (!answer.ok() && answer.status().code() != StatusCode::kLimit) return answer.status();
    if (!answer.ok()) {
      context.logger().log(LogLevel::kWarning, answer.status().message());
      if (!terminal) return answer.status();
      continue;
    }
    NWC_TRY(write_stdout("\n"));
    if (answer->reason == NWC_STOP_CONTEXT_FULL)
      context.logger().log(LogLevel::kWarning,
                           "the answer is cut off, because the context is full: /clear begins a new "
                           "conversation, and --context makes room for a longer one");
    clear_interrupt();
    if (interrupted()) break;  // SIGTERM, SIGHUP
  }
  if (terminal) fmt::print(stderr, "\n");
  return {};
}

}  // namespace nwc::cli
