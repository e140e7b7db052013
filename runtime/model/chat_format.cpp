#include "runtime/model/chat_format.h"

#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

/// Code points that Python's str.isspace accepts beyond ASCII, in UTF-8.
constexpr std::string_view kWideSpaces[] = {
    "\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\x80", "\xe2\x80\x81", "\xe2\x80\x82", "\xe2\x80\x83",
    "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86", "\xe2\x80\x87", "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a",
    "\xe2\x80\xa8", "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};

bool is_ascii_space(char c) { return (c >= '\t' && c <= '\r') || (c >= '\x1c' && c <= ' '); }

size_t leading_space(std::string_view text) {
  if (is_ascii_space(text[0])) return 1;
  for (const std::string_view space : kWideSpaces) {
    if (text.starts_with(space)) return space.size();
  }
  return 0;
}

size_t trailing_space(std::string_view text) {
  if (is_ascii_space(text.back())) return 1;
  for (const std::string_view space : kWideSpaces) {
    if (text.ends_with(space)) return space.size();
  }
  return 0;
}

std::string_view strip_if(bool wanted, std::string_view text) { return wanted ? strip(text) : text; }

Status check_order(const ChatFormat& format, std::span<const ChatMessage> messages, size_t num_done) {
  if (num_done >= messages.size())
    return invalid_argument(str_cat(num_done, " of ", messages.size(), " messages are done: there is nothing to add"));
  if (num_done != 0 && messages[num_done - 1].role != ChatRole::kAssistant)
    return invalid_argument(
        str_cat("message ", num_done - 1, " is the last one that is done, and has to be the assistant's"));
  const bool has_system = messages[0].role == ChatRole::kSystem;
  if (has_system && format.system == ChatSystem::kNone)
    return invalid_argument("this model's chat template takes no system text; write it into the first question");
  for (size_t i = has_system ? 1 : 0; i < messages.size(); ++i) {
    const bool user_turn = (i - (has_system ? 1 : 0)) % 2 == 0;
    if (messages[i].role != (user_turn ? ChatRole::kUser : ChatRole::kAssistant))
      return invalid_argument(str_cat("message ", i, " has to be the ", user_turn ? "user" : "assistant",
                                      "'s: after at most one system text the two take turns, the user first"));
  }
  if (has_system && messages.size() == 1) return invalid_argument("message 1 is missing: it has to be the user's");
  return {};
}

void append_first_user(const ChatFormat& f, std::string_view system, std::string_view user, std::string* out) {
  std::string text = f.system_prefix;
  text += strip_if(f.trim.system, system);
  text += f.system_suffix;
  text += strip_if(f.trim.user && !f.trim.first_user, user);
  out->append(f.user_prefix).append(strip_if(f.trim.first_user, text)).append(f.user_suffix);
}

}  // namespace

std::string_view strip(std::string_view text) {
  for (size_t n; !text.empty() && (n = leading_space(text)) != 0;) text.remove_prefix(n);
  for (size_t n; !text.empty() && (n = trailing_space(text)) != 0;) text.remove_suffix(n);
  return text;
}

Result<std::string> format_chat(const ChatFormat& format, std::span<const ChatMessage> messages, size_t num_done,
                                std::string_view date) {
  NWC_TRY(check_order(format, messages, num_done));
  const bool has_system = messages[0].role == ChatRole::kSystem;
  std::optional<std::string_view> system;
  if (has_system) {
    system = messages[0].text;
  } else if (format.default_system) {
    system = *format.default_system;
  }
  std::string out;
  if (num_done != 0) {
    out = format.assistant_suffix;
  } else {
    out = format.begin;
    if (const size_t at = out.find(ChatFormat::kDate); at != std::string::npos) out.replace(at, 1, date);
    if (system && format.system == ChatSystem::kOwnTurn)
      out.append(format.system_prefix).append(strip_if(format.trim.system, *system)).append(format.system_suffix);
  }
  const size_t first_user = has_system ? 1 : 0;
  for (size_t i = std::max(num_done, first_user); i < messages.size(); ++i) {
    const std::string_view text = messages[i].text;
    if (messages[i].role == ChatRole::kAssistant) {
      out.append(format.assistant_prefix).append(strip_if(format.trim.assistant, text)).append(format.assistant_suffix);
    } else if (i == first_user && system && format.system == ChatSystem::kFirstUser) {
      append_first_user(format, *system, text, &out);
    } else {
      out.append(format.user_prefix).append(strip_if(format.trim.user, text)).append(format.user_suffix);
    }
  }
  if (messages.back().role != ChatRole::kAssistant) out.append(format.open_answer);
  return out;
}

}  // namespace nwc
