// Chat templates: every family is recognised, and what nwc makes of a conversation is what Jinja makes of the template
// (tests/fixtures/chat/rendered.json, by tests/scripts/make_chat_fixture.py), byte for byte.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "runtime/model/chat_format.h"
#include "tests/data/gguf_builder.h"
#include "tests/test_paths.h"
#include "trainer/data/chat_template.h"
#include "trainer/data/jinja_code.h"

namespace nwc {
namespace {

using Json = nlohmann::json;

const Json& fixture() {
  static const Json json = Json::parse(std::ifstream(test::source_path("tests/fixtures/chat/rendered.json")));
  return json;
}

struct Conversation {
  std::vector<std::string> texts;
  std::vector<ChatMessage> messages;
};
Conversation conversation_of(const Json& item) {
  Conversation out;
  for (const Json& text : item[1]) out.texts.push_back(text);
  for (size_t i = 0; i < out.texts.size(); ++i) {
    const std::string role = item[0][i];
    out.messages.push_back({role == "s"   ? ChatRole::kSystem
                            : role == "u" ? ChatRole::kUser
                                          : ChatRole::kAssistant,
                            out.texts[i]});
  }
  return out;
}

ChatFormat format_of(const Json& family) {
  const auto format = recognise_chat_template({family["template"], family["bos"], family["eos"]});
  EXPECT_TRUE(format.has_value()) << jinja_code(family["template"].get<std::string>());
  return format.value_or(ChatFormat());
}

TEST(ChatTemplate, FormatsAsJinjaDoes) {
  size_t cases = 0;
  for (const Json& family : fixture()["families"]) {
    const ChatFormat format = format_of(family);
    EXPECT_EQ(format.name, family["name"]);
    EXPECT_TRUE(validate(ChatRecord{family["template"], format}).ok());
    EXPECT_FALSE(format.stop.empty());
    for (const Json& item : family["cases"]) {
      const Conversation c = conversation_of(item);
      const Result<std::string> text = format_chat(format, c.messages, 0, fixture()["date"].get<std::string>());
      ASSERT_TRUE(text.ok()) << text.status().message();
      EXPECT_EQ(*text, item[2].get<std::string>()) << family["template"];
      ++cases;
    }
    const std::vector<ChatMessage> with_system = {{ChatRole::kSystem, "s"}, {ChatRole::kUser, "u"}};
    EXPECT_EQ(format_chat(format, with_system, 0, "").ok(), family["system"] != "none") << family["template"];
  }
  EXPECT_GE(cases, 200u);
}

// Turn by turn, with answers as the model writes them, the text is the whole conversation's.
TEST(ChatTemplate, TurnsAddUpToTheWhole) {
  for (const Json& family : fixture()["families"]) {
    const ChatFormat format = format_of(family);
    const Conversation c = conversation_of(family["cases"][2]);
    ASSERT_EQ(c.messages.size(), 5u);
    ASSERT_TRUE(format.assistant_prefix.starts_with(format.open_answer));
    std::string text;
    for (size_t done = 0; done < 5; done += 2) {
      const Result<std::string> added = format_chat(format, std::span(c.messages).first(done + 1), done, "2026-11-26");
      ASSERT_TRUE(added.ok()) << added.status().message();
      text += *added;
      if (done < 4) text += format.assistant_prefix.substr(format.open_answer.size()) + c.texts[done + 1];
    }
    EXPECT_EQ(text, family["cases"][2][2].get<std::string>()) << family["template"];
  }
}

TEST(ChatTemplate, OrderOfTheMessagesIsChecked) {
  ChatFormat format;
  format.system = ChatSystem::kOwnTurn;
  const ChatMessage s{ChatRole::kSystem, "s"}, u{ChatRole::kUser, "u"}, a{ChatRole::kAssistant, "a"};
  const auto status = [&](std::vector<ChatMessage> messages, size_t done) {
    return format_chat(format, messages, done, "").status().code();
  };
  EXPECT_EQ(status({s, u}, 0), StatusCode::kOk);
  EXPECT_EQ(status({s, u, a, u}, 3), StatusCode::kOk);
  for (const auto& messages : {std::vector{s}, {a}, {u, u}, {u, s}, {s, s, u}, {u, a, a}})
    EXPECT_EQ(status(messages, 0), StatusCode::kInvalidArgument);
  EXPECT_EQ(status({}, 0), StatusCode::kInvalidArgument);
  EXPECT_EQ(status({u, a, u}, 1), StatusCode::kInvalidArgument);
  EXPECT_EQ(status({u, a, u}, 3), StatusCode::kInvalidArgument);
}

TEST(ChatTemplate, OthersAreNotRecognised) {
  const std::string chatml = fixture()["families"][0]["template"];
  EXPECT_FALSE(recognise_chat_template({"", "<s>", "</s>"}));
  EXPECT_FALSE(recognise_chat_template({"{{ messages }}", "<s>", "</s>"}));
  EXPECT_FALSE(recognise_chat_template({"{% unfinished '", "<s>", "</s>"}));
  EXPECT_FALSE(recognise_chat_template({chatml + "{{ strftime_now('%Y') }}", "<s>", "</s>"}));
  EXPECT_FALSE(recognise_chat_template({"<|im_start|><|im_end|>", "<s>", "</s>"}));
  for (const Json& family : fixture()["families"]) {  // what a missing token would leave out
    const std::string text = family["template"];
    const bool needs_bos = text.find("bos_token") != std::string::npos;
    EXPECT_EQ(recognise_chat_template({text, "", family["eos"]}).has_value(), !needs_bos);
    for (size_t size = 0; size < text.size(); size += 7)  // no cut reads beyond the text
      (void)recognise_chat_template({text.substr(0, size), "<s>", "</s>"});
  }
}

TEST(ChatTemplate, NormalFormOfCode) {
  EXPECT_EQ(jinja_code("{{ \"a\" + 'b' }}{{- x }}"), "{'ab'+x}");
  EXPECT_EQ(jinja_code("{% if a %}\n  {{ 'it\\'s' }}\n{% endif %}\n"), "{%ifa%}{'  it\\'s\\n'}{%endif%}");
  EXPECT_EQ(jinja_code("{%- if a -%}\n  {{ message.role }}\n  {%- endif %}"), "{%ifa%}{message['role']}{%endif%}");
  EXPECT_EQ(jinja_code("a {# no #} b"), "{'a  b'}");
  EXPECT_EQ(jinja_code("{{ '}{' + '+' + \"'\" }}"), "{'}{+\\''}");
  EXPECT_EQ(jinja_code("{{ '}}' }}{{ unclosed"), "{'}}{{ unclosed'}");
}

SourceFile file(const char* name, const std::string& text) {
  return {name, std::vector<uint8_t>(text.begin(), text.end())};
}

TEST(ChatTemplate, FoundInAFolder) {
  const std::string chatml = fixture()["families"][0]["template"];
  std::string warning;
  SourceRecord source;
  EXPECT_FALSE(derive_chat_record(source, nullptr, &warning));
  EXPECT_EQ(warning, "");

  const Json config = {{"chat_template", chatml}, {"bos_token", {{"content", "<s>"}}}, {"eos_token", "</s>"}};
  source.files = {file("tokenizer_config.json", config.dump())};
  auto chat = find_chat_template(source, nullptr);
  ASSERT_TRUE(chat);
  EXPECT_EQ(chat->jinja + chat->bos + chat->eos, chatml + "<s></s>");
  auto record = derive_chat_record(source, nullptr, &warning);
  ASSERT_TRUE(record && record->format);
  EXPECT_EQ(record->jinja, chatml);
  EXPECT_EQ(warning, "");

  const Json named = {
      {"chat_template", {{{"name", "tools"}, {"template", "x"}}, {{"name", "default"}, {"template", chatml}}}}};
  source.files = {file("tokenizer_config.json", named.dump()),
                  file("special_tokens_map.json", "{\"eos_token\":\"</s>\"}")};
  chat = find_chat_template(source, nullptr);
  ASSERT_TRUE(chat);
  EXPECT_EQ(chat->jinja + chat->eos, chatml + "</s>");

  source.files = {file("tokenizer_config.json", config.dump()), file("chat_template.jinja", "{{ other }}")};
  record = derive_chat_record(source, nullptr, &warning);
  ASSERT_TRUE(record);
  EXPECT_EQ(record->jinja, "{{ other }}");
  EXPECT_FALSE(record->format);
  EXPECT_NE(warning, "");

  source.files = {file("tokenizer_config.json", "{broken"), file("chat_template.json", "[]")};
  EXPECT_FALSE(derive_chat_record(source, nullptr, &warning));
  source.files = {file("chat_template.jinja", std::string(kMaxChatTemplateBytes + 1, 'x'))};
  EXPECT_FALSE(derive_chat_record(source, nullptr, &warning));
  EXPECT_NE(warning, "");
  source.files = {file("chat_template.jinja", "\xff")};
  EXPECT_FALSE(derive_chat_record(source, nullptr, &warning));
}

TEST(ChatTemplate, FoundInAGguf) {
  const std::string zephyr = fixture()["families"][14]["template"];
  const auto record_of = [&](const std::string& key) {
    const std::string header = test::GgufBuilder()
                                   .string("general.architecture", "llama")
                                   .string(key, zephyr)
                                   .u32("tokenizer.ggml.bos_token_id", 0)
                                   .u32("tokenizer.ggml.eos_token_id", 1)
                                   .build();
    return SourceRecord{SourceKind::kGguf, {file("model.gguf", header)}};
  };
  TokenizerRecord tokenizer;
  tokenizer.tokens = {{"<s>", TokenType::kControl}, {"</end>", TokenType::kControl}};
  std::string warning;
  auto record = derive_chat_record(record_of("tokenizer.chat_template"), &tokenizer, &warning);
  ASSERT_TRUE(record && record->format);
  EXPECT_EQ(record->format->name, "zephyr");
  EXPECT_EQ(record->format->user_suffix, "</end>\n");
  record = derive_chat_record(record_of("tokenizer.chat_template"), nullptr, &warning);
  ASSERT_TRUE(record);
  EXPECT_FALSE(record->format);  // it writes the end token, whose text is not known
  EXPECT_FALSE(derive_chat_record(record_of("tokenizer.chat_template.tools"), &tokenizer, &warning));
}

}  // namespace
}  // namespace nwc
