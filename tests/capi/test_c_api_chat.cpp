// Conversations, stop strings and sampling through the public interface.
#include <algorithm>

#include "tests/capi/c_api_fixture.h"

namespace nwc::test {
namespace {

nwc_chat_message message(nwc_chat_role role, const std::string& text) { return {role, 0, text.data(), text.size()}; }

class CApiChat : public CApi {
 protected:
  nwc_status format(const std::vector<nwc_chat_message>& messages, size_t num_done, std::string* out) {
    size_t length = 0;
    const nwc_status status =
        nwc_chat_format(model, messages.data(), messages.size(), num_done, "2026-11-26", nullptr, 0, &length, &flags);
    if (status != NWC_STATUS_OK) return status;
    out->resize(length);
    return nwc_chat_format(model, messages.data(), messages.size(), num_done, nullptr, out->data(), length, &length,
                           nullptr);
  }
  uint32_t flags = 0;
};

TEST_F(CApiChat, TextsAndWhatATurnAdds) {
  const std::string u = "Hi", a = "Hello.", u2 = "Bye", s = "Be kind.";
  std::string text;
  ASSERT_EQ(format({message(NWC_CHAT_SYSTEM, s), message(NWC_CHAT_USER, u)}, 0, &text), NWC_STATUS_OK);
  EXPECT_EQ(text, "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_NE(flags & NWC_TOKENIZE_PARSE_SPECIAL, 0u);
  ASSERT_EQ(format({message(NWC_CHAT_USER, u), message(NWC_CHAT_ASSISTANT, a), message(NWC_CHAT_USER, u2)}, 2, &text),
            NWC_STATUS_OK);
  EXPECT_EQ(text, "<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(flags, static_cast<uint32_t>(NWC_TOKENIZE_PARSE_SPECIAL));

  const char* value = nullptr;
  ASSERT_EQ(nwc_model_get_string(model, "chat_format", &value), NWC_STATUS_OK);
  EXPECT_STREQ(value, "chatml");
  ASSERT_EQ(nwc_model_get_string(model, "chat_stop.0", &value), NWC_STATUS_OK);
  EXPECT_STREQ(value, "<|im_end|>");
  ASSERT_EQ(nwc_model_get_string(model, "chat_template", &value), NWC_STATUS_OK);
  EXPECT_EQ(nwc_model_get_string(model, "chat_default_system", &value), NWC_STATUS_NOT_FOUND);
}

TEST_F(CApiChat, WrongArguments) {
  const std::string u = "Hi";
  std::string text;
  expect_model_error(format({message(NWC_CHAT_ASSISTANT, u)}, 0, &text), NWC_STATUS_INVALID_ARGUMENT, "message 0");
  expect_model_error(format({message(NWC_CHAT_USER, u)}, 1, &text), NWC_STATUS_INVALID_ARGUMENT, "nothing to add");
  expect_model_error(format({message(7, u)}, 0, &text), NWC_STATUS_INVALID_ARGUMENT, "role 7");
  nwc_chat_message m = message(NWC_CHAT_USER, u);
  m.reserved = 1;
  expect_model_error(format({m}, 0, &text), NWC_STATUS_INVALID_ARGUMENT, "reserved");
  m = {NWC_CHAT_USER, 0, nullptr, 3};
  expect_model_error(format({m}, 0, &text), NWC_STATUS_INVALID_ARGUMENT, "text");
  char small[4];
  size_t length = 0;
  m = message(NWC_CHAT_USER, u);
  expect_model_error(nwc_chat_format(model, &m, 1, 0, nullptr, small, sizeof small, &length, nullptr),
                     NWC_STATUS_BUFFER_TOO_SMALL, "4");
  EXPECT_GT(length, 4u);
  EXPECT_EQ(nwc_chat_format(model, nullptr, 1, 0, nullptr, nullptr, 0, &length, nullptr), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_chat_format(nullptr, &m, 1, 0, nullptr, nullptr, 0, &length, nullptr), NWC_STATUS_INVALID_ARGUMENT);
}

struct Drawn {
  std::vector<uint32_t> tokens;
  std::string text;
};
int on_token(void* user, uint32_t token, const char* text, size_t length) {
  auto* drawn = static_cast<Drawn*>(user);
  drawn->tokens.push_back(token);
  drawn->text.append(text, length);
  return 0;
}

class CApiSampling : public CApi {
 protected:
  void SetUp() override {
    CApi::SetUp();
    nwc_session_params p = zeroed<nwc_session_params>();
    p.backend = NWC_BACKEND_CPU;
    p.context = 128;
    Detail d;
    ASSERT_EQ(nwc_session_create(model, &p, nullptr, nullptr, &d.detail, &session.p), NWC_STATUS_OK) << d.text;
    g = zeroed<nwc_generate_params>();
    g.max_tokens = 24;
    g.ignore_eos = 1;
    size_t count = 0;
    const std::string text = "It was the best of times";
    prompt.resize(nwc_tokenize_bound(text.size()));
    ASSERT_EQ(nwc_tokenize(model, text.data(), text.size(), 0, prompt.data(), prompt.size(), &count), NWC_STATUS_OK);
    prompt.resize(count);
  }
  nwc_status generate(Drawn* drawn) {
    *drawn = {};
    EXPECT_EQ(nwc_session_truncate(session, 0), NWC_STATUS_OK);
    return nwc_session_generate(session, prompt.data(), prompt.size(), &g, on_token, drawn, &reason);
  }
  Session session;
  nwc_generate_params g{};
  nwc_stop_reason reason = 99;
  std::vector<uint32_t> prompt;
};

TEST_F(CApiSampling, StopStringsEndTheAnswerInFrontOfThem) {
  Drawn all, cut;
  ASSERT_EQ(generate(&all), NWC_STATUS_OK);
  ASSERT_GT(all.text.size(), 20u);
  const std::string stop = all.text.substr(10, 6);
  const size_t at = all.text.find(stop);
  const char* stops[] = {"\x01 never", stop.c_str()};
  g.stop_strings = stops;
  g.num_stop_strings = 2;
  ASSERT_EQ(generate(&cut), NWC_STATUS_OK) << nwc_session_last_error(session);
  EXPECT_EQ(reason, static_cast<uint32_t>(NWC_STOP_STRING));
  EXPECT_EQ(cut.text, all.text.substr(0, at));
  EXPECT_EQ(nwc_session_position(session), prompt.size() + cut.tokens.size());
  ASSERT_LT(cut.tokens.size(), all.tokens.size());
  EXPECT_TRUE(std::equal(cut.tokens.begin(), cut.tokens.end(), all.tokens.begin()));

  g.num_stop_strings = 1;  // one that does not come changes nothing
  ASSERT_EQ(generate(&cut), NWC_STATUS_OK);
  EXPECT_EQ(reason, static_cast<uint32_t>(NWC_STOP_MAX_TOKENS));
  EXPECT_EQ(cut.tokens, all.tokens);
  EXPECT_EQ(cut.text, all.text);

  stops[0] = "";
  EXPECT_EQ(generate(&cut), NWC_STATUS_INVALID_ARGUMENT);
  stops[0] = nullptr;
  EXPECT_EQ(generate(&cut), NWC_STATUS_INVALID_ARGUMENT);
  g.stop_strings = nullptr;
  EXPECT_EQ(generate(&cut), NWC_STATUS_INVALID_ARGUMENT);
  g.num_stop_strings = 0;
  g.reserved = 1;
  EXPECT_EQ(generate(&cut), NWC_STATUS_INVALID_ARGUMENT);
}

TEST_F(CApiSampling, PenaltiesAndMinP) {
  Drawn plain, other;
  ASSERT_EQ(generate(&plain), NWC_STATUS_OK);
  g.repetition_penalty = 1;  // off, as 0 is
  ASSERT_EQ(generate(&other), NWC_STATUS_OK);
  EXPECT_EQ(other.tokens, plain.tokens);
  g.repetition_penalty = 0;
  g.presence_penalty = 1e6f;  // no token twice
  ASSERT_EQ(generate(&other), NWC_STATUS_OK);
  std::sort(other.tokens.begin(), other.tokens.end());
  EXPECT_EQ(std::adjacent_find(other.tokens.begin(), other.tokens.end()), other.tokens.end());
  g.presence_penalty = 0;
  g.temperature = 1;
  g.min_p = 1;  // the likeliest alone
  ASSERT_EQ(generate(&other), NWC_STATUS_OK);
  EXPECT_EQ(other.tokens, plain.tokens);
  for (float nwc_generate_params::*field : {&nwc_generate_params::min_p, &nwc_generate_params::repetition_penalty}) {
    g.*field = -1;
    EXPECT_EQ(generate(&other), NWC_STATUS_INVALID_ARGUMENT);
    g.*field = 0;
  }
}

// A caller that was compiled before the new fields existed gets what it got then.
TEST_F(CApiSampling, OlderCallersKeepTheirDefaults) {
  Drawn plain, older;
  ASSERT_EQ(generate(&plain), NWC_STATUS_OK);
  g.struct_size = 32;
  g.presence_penalty = 1e6f;  // beyond the caller's struct: never read
  g.num_stop_strings = 7;
  ASSERT_EQ(generate(&older), NWC_STATUS_OK) << nwc_session_last_error(session);
  EXPECT_EQ(older.tokens, plain.tokens);
}

}  // namespace
}  // namespace nwc::test
