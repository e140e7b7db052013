// The CHAT section: round trip, every bound, and files whose section cannot be used.
#include <gtest/gtest.h>

#include "runtime/format/chat_record.h"
#include "tests/codec/reference_encoder.h"

namespace nwc {
namespace {

ChatRecord full_record() {
  ChatRecord record;
  record.jinja = "{{ bos_token }}{% for message in messages %}...";
  ChatFormat& f = record.format.emplace();
  f.name = "test";
  f.begin = "<s>";
  f.system_prefix = "<sys>";
  f.system_suffix = "</sys>";
  f.user_prefix = "<user>";
  f.user_suffix = "\n";
  f.assistant_prefix = "<a>";
  f.assistant_suffix = "</a>\n";
  f.open_answer = "<a>";
  f.default_system = "You are \xc3\xa4.";
  f.stop = {"</a>", "<user>"};
  f.system = ChatSystem::kFirstUser;
  f.trim = {true, false, true, true};
  return record;
}

void expect_equal(const ChatRecord& a, const ChatRecord& b) {
  EXPECT_EQ(a.jinja, b.jinja);
  ASSERT_EQ(a.format.has_value(), b.format.has_value());
  if (!a.format) return;
  const ChatFormat &f = *a.format, &g = *b.format;
  EXPECT_EQ(f.name, g.name);
  EXPECT_EQ(f.begin, g.begin);
  EXPECT_EQ(f.system_prefix + "|" + f.system_suffix, g.system_prefix + "|" + g.system_suffix);
  EXPECT_EQ(f.user_prefix + "|" + f.user_suffix, g.user_prefix + "|" + g.user_suffix);
  EXPECT_EQ(f.assistant_prefix + "|" + f.assistant_suffix, g.assistant_prefix + "|" + g.assistant_suffix);
  EXPECT_EQ(f.open_answer, g.open_answer);
  EXPECT_EQ(f.default_system, g.default_system);
  EXPECT_EQ(f.stop, g.stop);
  EXPECT_EQ(f.system, g.system);
  EXPECT_EQ(f.trim.system, g.trim.system);
  EXPECT_EQ(f.trim.user, g.trim.user);
  EXPECT_EQ(f.trim.assistant, g.trim.assistant);
  EXPECT_EQ(f.trim.first_user, g.trim.first_user);
}

TEST(ChatRecord, RoundTrip) {
  const ChatRecord unknown{"{{ something }}", std::nullopt};
  ChatRecord dated = full_record();
  dated.format->begin = std::string("today is \0.", 11);
  dated.format->default_system.reset();
  for (const ChatRecord& record : {full_record(), unknown, ChatRecord{}, dated}) {
    const std::vector<uint8_t> bytes = serialize(record);
    const Result<ChatRecord> back = parse_chat_record(bytes, 0);
    ASSERT_TRUE(back.ok()) << back.status().message();
    expect_equal(record, *back);
    EXPECT_EQ(serialize(*back), bytes);
  }
}

TEST(ChatRecord, EveryCutIsAnError) {
  const std::vector<uint8_t> bytes = serialize(full_record());
  for (size_t size = 0; size < bytes.size(); ++size) {
    const Status status = parse_chat_record(Bytes(bytes).first(size), 100).status();
    EXPECT_EQ(status.code(), StatusCode::kTruncated) << size << ": " << status.message();
  }
  std::vector<uint8_t> longer = bytes;
  longer.push_back(0);
  EXPECT_EQ(parse_chat_record(longer, 0).status().code(), StatusCode::kCorrupt);
}

TEST(ChatRecord, UnknownValuesAreUnsupported) {
  for (const auto& [at, value] : {std::pair<size_t, uint8_t>{0, 2}, {4, 4}, {5, 3}, {6, 16}, {7, 1}}) {
    std::vector<uint8_t> bytes = serialize(full_record());
    bytes[at] = value;
    EXPECT_EQ(parse_chat_record(bytes, 0).status().code(), StatusCode::kUnsupported) << at;
  }
  std::vector<uint8_t> bytes = serialize(ChatRecord{});
  bytes[5] = 1;
  EXPECT_EQ(parse_chat_record(bytes, 0).status().code(), StatusCode::kCorrupt);
}

TEST(ChatRecord, TextsAndLimits) {
  const auto with = [](auto&& change) {
    ChatRecord record = full_record();
    change(&record);
    return validate(record);
  };
  EXPECT_EQ(with([](ChatRecord* r) { r->jinja.assign(kMaxChatTemplateBytes + 1, 'x'); }).code(), StatusCode::kLimit);
  EXPECT_EQ(with([](ChatRecord* r) { r->jinja = "\xff"; }).code(), StatusCode::kCorrupt);
  EXPECT_EQ(with([](ChatRecord* r) { r->format->user_prefix.assign(4097, 'x'); }).code(), StatusCode::kLimit);
  EXPECT_EQ(with([](ChatRecord* r) { r->format->user_prefix = std::string("a\0", 2); }).code(), StatusCode::kCorrupt);
  EXPECT_EQ(with([](ChatRecord* r) { r->format->begin = std::string("\0\0", 2); }).code(), StatusCode::kCorrupt);
  EXPECT_EQ(with([](ChatRecord* r) { r->format->open_answer = "\xc3"; }).code(), StatusCode::kCorrupt);
  EXPECT_EQ(with([](ChatRecord* r) { r->format->stop.assign(17, "x"); }).code(), StatusCode::kLimit);
  EXPECT_EQ(with([](ChatRecord* r) { r->format->stop = {""}; }).code(), StatusCode::kCorrupt);
  EXPECT_EQ(with([](ChatRecord* r) { r->format->default_system->assign(65536, 'x'); }).code(), StatusCode::kLimit);
  EXPECT_EQ(with([](ChatRecord* r) { r->format->system = ChatSystem::kNone; }).code(), StatusCode::kCorrupt);
  EXPECT_EQ(with([](ChatRecord* r) { r->format->system = ChatSystem::kOwnTurn; }).code(), StatusCode::kCorrupt);
  EXPECT_TRUE(with([](ChatRecord*) {}).ok());

  std::vector<uint8_t> bytes = serialize(ChatRecord{});
  store_le<uint32_t>(&bytes[8], UINT32_MAX);
  EXPECT_EQ(parse_chat_record(bytes, 0).status().code(), StatusCode::kLimit);
}

std::unique_ptr<NwcFile> open_with(const std::vector<uint8_t>* chat) {
  TensorRecord tensor;
  tensor.name = "t";
  tensor.dtype = Dtype::kU8;
  tensor.shape = {3};
  tensor.size = 3;
  const std::vector<uint8_t> data = {1, 2, 3};
  tensor.crc = crc32(data);
  std::vector<reference::Section> sections;
  if (chat != nullptr) sections.push_back({SectionType::kChat, *chat, true, true});
  sections.push_back({SectionType::kTensors, serialize(std::vector<TensorRecord>{tensor})});
  sections.push_back({SectionType::kProvenance, serialize(Metadata{})});
  sections.push_back({SectionType::kData, data});
  auto file = NwcFile::open(make_owned_reader(reference::make_container(FileKind::kModel, sections)));
  EXPECT_TRUE(file.ok()) << file.status().message();
  if (!file.ok()) return nullptr;
  std::vector<uint8_t> storage;
  EXPECT_TRUE((*file)->load_raw(0, true, &storage).ok());
  return std::move(*file);
}

TEST(ChatRecord, FilesOpenAndDecodeWhateverTheSectionHolds) {
  const std::vector<uint8_t> good = serialize(full_record());
  auto file = open_with(&good);
  ASSERT_NE(file, nullptr);
  ASSERT_TRUE(file->chat() && file->chat()->format);
  EXPECT_EQ(file->chat()->format->name, "test");
  EXPECT_TRUE(file->chat_status().ok());

  const std::vector<uint8_t> unknown = serialize(ChatRecord{"{{ x }}", std::nullopt});
  file = open_with(&unknown);
  ASSERT_TRUE(file != nullptr && file->chat());
  EXPECT_EQ(file->chat_status().code(), StatusCode::kUnsupported);
  EXPECT_NE(file->chat_status().message().find("template"), std::string::npos);

  std::vector<uint8_t> newer = good;
  newer[0] = 2;
  newer.resize(9);
  for (const std::vector<uint8_t>& bad : {newer, std::vector<uint8_t>{}, std::vector<uint8_t>(40, 0xff)}) {
    file = open_with(&bad);
    ASSERT_NE(file, nullptr);
    EXPECT_FALSE(file->chat().has_value());
    EXPECT_FALSE(file->chat_status().ok());
  }
  file = open_with(nullptr);
  ASSERT_NE(file, nullptr);
  EXPECT_EQ(file->chat_status().code(), StatusCode::kUnsupported);
}

}  // namespace
}  // namespace nwc
