// The CHAT section: how a conversation becomes the text that an instruct model was trained on (doc/format_chat.md).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/base/bytes.h"

namespace nwc {

/// Where a system text goes.
enum class ChatSystem : uint8_t {
  kNone = 0,       ///< the template takes none
  kOwnTurn = 1,    ///< in a turn of its own, before all others
  kFirstUser = 2,  ///< in front of the first user text, in the same turn
};

/// Ends of texts at which white space is removed.
struct ChatTrim {
  bool system = false, user = false, assistant = false;
  bool first_user = false;  ///< ChatSystem::kFirstUser: system and first user text together
};

struct ChatFormat {
  /// In `begin`, this byte stands for the day on which the text is made.
  static constexpr char kDate = '\0';

  std::string name;   ///< "chatml", "llama3", ...: information only
  std::string begin;  ///< BOS where the template writes it
  std::string system_prefix, system_suffix;
  std::string user_prefix, user_suffix;
  std::string assistant_prefix, assistant_suffix;
  std::string open_answer;
  std::optional<std::string> default_system;  ///< for a conversation that has no system text
  std::vector<std::string> stop;
  ChatSystem system = ChatSystem::kNone;
  ChatTrim trim;
};

struct ChatRecord {
  std::string jinja;                 ///< the template as the model has it; nothing runs it
  std::optional<ChatFormat> format;  ///< nullopt: the template is not one that the encoder knows
};

inline constexpr size_t kMaxChatTemplateBytes = 1u << 20;
inline constexpr size_t kMaxChatStops = 16;
inline constexpr size_t kMaxChatStopBytes = 1024;

/// errors: kLimit, kCorrupt (not UTF-8, NUL, trims that the kind of system text does not have). The message names the
/// field.
Status validate(const ChatRecord& record);
/// errors: kUnsupported (version, flags, numbers, which the message names), kTruncated, and those of validate
Result<ChatRecord> parse_chat_record(Bytes section, uint64_t file_offset);
std::vector<uint8_t> serialize(const ChatRecord& record);

}  // namespace nwc
