// Layout and rules: doc/format_chat.md.
#include "runtime/format/chat_record.h"

#include <algorithm>
#include <cassert>

#include "runtime/base/str_cat.h"
#include "runtime/format/utf8_check.h"

namespace nwc {
namespace {

constexpr uint32_t kRecordVersion = 1;
constexpr uint8_t kFlagFormat = 1;
constexpr uint8_t kFlagDefaultSystem = 2;
constexpr size_t kMaxNameBytesOfFormat = 64;
constexpr size_t kMaxAffixBytes = 4096;
constexpr size_t kMaxSystemBytes = 65535;

/// A text of the format, in the order in which the section has them.
struct Field {
  std::string ChatFormat::*text;
  const char* name;
  size_t max_bytes;
};
constexpr Field kFields[] = {
    {&ChatFormat::name, "name", kMaxNameBytesOfFormat},
    {&ChatFormat::begin, "begin", kMaxAffixBytes},
    {&ChatFormat::system_prefix, "system_prefix", kMaxAffixBytes},
    {&ChatFormat::system_suffix, "system_suffix", kMaxAffixBytes},
    {&ChatFormat::user_prefix, "user_prefix", kMaxAffixBytes},
    {&ChatFormat::user_suffix, "user_suffix", kMaxAffixBytes},
    {&ChatFormat::assistant_prefix, "assistant_prefix", kMaxAffixBytes},
    {&ChatFormat::assistant_suffix, "assistant_suffix", kMaxAffixBytes},
    {&ChatFormat::open_answer, "open_answer", kMaxAffixBytes},
};

Status check_text(const std::string& text, const char* field, size_t max_bytes, size_t nuls_allowed = 0) {
  if (text.size() > max_bytes)
    return limit_error(str_cat("chat field ", field, " has ", text.size(), " bytes, the limit is ", max_bytes));
  if (!is_valid_utf8(text)) return corrupt(str_cat("chat field ", field, " is not UTF-8"));
  if (static_cast<size_t>(std::count(text.begin(), text.end(), '\0')) > nuls_allowed)
    return corrupt(str_cat("chat field ", field, " holds a NUL"));
  return {};
}

Status validate_format(const ChatFormat& format) {
  for (const Field& field : kFields)
    NWC_TRY(check_text(format.*field.text, field.name, field.max_bytes, field.text == &ChatFormat::begin ? 1 : 0));
  if (format.default_system) NWC_TRY(check_text(*format.default_system, "default_system", kMaxSystemBytes));
  if (format.default_system && format.system == ChatSystem::kNone)
    return corrupt("chat field default_system: there is one, but the format takes no system text");
  if (format.trim.first_user && format.system != ChatSystem::kFirstUser)
    return corrupt("chat field trims: bit 3 is set, but the system text does not stand in the first user turn");
  if (format.stop.size() > kMaxChatStops)
    return limit_error(str_cat("chat field stop has ", format.stop.size(), " entries, the limit is ", kMaxChatStops));
  for (const std::string& stop : format.stop) {
    if (stop.empty()) return corrupt("chat field stop holds an empty string");
    NWC_TRY(check_text(stop, "stop", kMaxChatStopBytes));
  }
  return {};
}

Status read_text(ByteReader* reader, std::string* out, const char* field) {
  uint16_t size = 0;
  NWC_TRY(reader->read(&size, field));
  return reader->read_string(out, size, field);
}

void write_text(ByteWriter* writer, const std::string& text) {
  writer->write(static_cast<uint16_t>(text.size()));
  writer->write_string(text);
}

Status read_format(ByteReader* reader, bool default_system, ChatFormat* format) {
  for (const Field& field : kFields) NWC_TRY(read_text(reader, &(format->*field.text), field.name));
  if (default_system) NWC_TRY(read_text(reader, &format->default_system.emplace(), "default_system"));
  uint8_t stops = 0;
  NWC_TRY(reader->read(&stops, "number of stop strings"));
  for (uint32_t i = 0; i < stops; ++i) NWC_TRY(read_text(reader, &format->stop.emplace_back(), "stop"));
  return {};
}

}  // namespace

Status validate(const ChatRecord& record) {
  NWC_TRY(check_text(record.jinja, "template", kMaxChatTemplateBytes, kMaxChatTemplateBytes));
  return record.format ? validate_format(*record.format) : Status();
}

Result<ChatRecord> parse_chat_record(Bytes section, uint64_t file_offset) {
  ByteReader reader(section, file_offset);
  uint32_t version = 0, template_size = 0;
  uint8_t flags = 0, system = 0, trims = 0, reserved = 0;
  NWC_TRY(reader.read(&version, "CHAT version"));
  if (version != kRecordVersion) {
    return unsupported(str_cat("CHAT section at offset ", file_offset, " has record version ", version,
                               ", this build reads ", kRecordVersion, "; use a newer version of this program"));
  }
  NWC_TRY(reader.read(&flags, "flags"));
  NWC_TRY(reader.read(&system, "system"));
  NWC_TRY(reader.read(&trims, "trims"));
  NWC_TRY(reader.read(&reserved, "reserved"));
  // Unknown values come before everything else: what follows may mean something else then.
  if (flags > (kFlagFormat | kFlagDefaultSystem) || system > 2 || trims > 15 || reserved != 0) {
    return unsupported(str_cat("CHAT section: bytes 4 to 7 (offset ", file_offset + 4, ") are ", flags, ", ", system,
                               ", ", trims, " and ", reserved, ", known are at most 3, 2, 15 and 0"));
  }
  const bool has_format = (flags & kFlagFormat) != 0;
  if (!has_format && (flags | system | trims) != 0)
    return corrupt(str_cat("CHAT section: bytes 4 to 6 (offset ", file_offset + 4, ") must be 0 without a format"));
  NWC_TRY(reader.read(&template_size, "size of the template"));
  if (template_size > kMaxChatTemplateBytes)
    return limit_error(
        str_cat("chat field template has ", template_size, " bytes, the limit is ", kMaxChatTemplateBytes));
  ChatRecord record;
  NWC_TRY(reader.read_string(&record.jinja, template_size, "template"));
  if (has_format) {
    ChatFormat& format = record.format.emplace();
    format.system = static_cast<ChatSystem>(system);
    format.trim = {(trims & 1) != 0, (trims & 2) != 0, (trims & 4) != 0, (trims & 8) != 0};
    NWC_TRY(read_format(&reader, (flags & kFlagDefaultSystem) != 0, &format));
  }
  NWC_TRY(reader.expect_end("CHAT section"));
  NWC_TRY(validate(record).with_context(str_cat("CHAT section at offset ", file_offset)));
  return record;
}

std::vector<uint8_t> serialize(const ChatRecord& record) {
  assert(validate(record).ok());
  const ChatFormat none;
  const ChatFormat& format = record.format ? *record.format : none;
  ByteWriter writer;
  writer.write(kRecordVersion);
  writer.write(
      static_cast<uint8_t>((record.format ? kFlagFormat : 0) | (format.default_system ? kFlagDefaultSystem : 0)));
  writer.write(static_cast<uint8_t>(format.system));
  const ChatTrim& trim = format.trim;
  writer.write(static_cast<uint8_t>((trim.system ? 1 : 0) | (trim.user ? 2 : 0) | (trim.assistant ? 4 : 0) |
                                    (trim.first_user ? 8 : 0)));
  writer.write(uint8_t{0});
  writer.write(static_cast<uint32_t>(record.jinja.size()));
  writer.write_string(record.jinja);
  if (!record.format) return writer.take();
  for (const Field& field : kFields) write_text(&writer, format.*field.text);
  if (format.default_system) write_text(&writer, *format.default_system);
  writer.write(static_cast<uint8_t>(format.stop.size()));
  for (const std::string& stop : format.stop) write_text(&writer, stop);
  return writer.take();
}

}  // namespace nwc
