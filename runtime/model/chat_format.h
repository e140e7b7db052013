// From a conversation to the text that an instruct model expects (doc/format_chat.md).
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "runtime/base/status.h"
#include "runtime/format/chat_record.h"

namespace nwc {

enum class ChatRole : uint8_t { kSystem = 0, kUser = 1, kAssistant = 2 };

struct ChatMessage {
  ChatRole role;
  std::string_view text;
};

/// The text of a conversation: at most one system text, which comes first, then user and assistant by turns. If the
/// last message is not the assistant's, the text ends with what opens its answer.
///
/// num_done: so many first messages are in the sequence already, the last of them an answer of the model as it was
/// drawn. The text is then what the others add, so that a KV cache goes on; it begins with what stands behind an
/// answer. date: the day, as "2026-11-26", for formats that write it. errors: kInvalidArgument (the order of the roles,
/// num_done, a system text that the format does not take)
Result<std::string> format_chat(const ChatFormat& format, std::span<const ChatMessage> messages, size_t num_done,
                                std::string_view date);

/// Removes white space at both ends, as Python's str.strip does.
std::string_view strip(std::string_view text);

}  // namespace nwc
