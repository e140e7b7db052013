// The families of chat templates, by what their normal form (jinja_code.h) has in common.
#include <array>

#include "trainer/data/chat_template.h"
#include "trainer/data/jinja_code.h"

namespace nwc {
namespace {

const std::string kContent = "message['content']";

/// A template's normal form, and how it is searched.
struct Code {
  std::string text;
  const ChatTemplate& chat;

  bool has(const std::string& part) const { return text.find(part) != std::string::npos; }
  bool writes_bos() const { return has("bos_token"); }
};

std::string unescape(std::string_view literal) {
  std::string out;
  for (size_t i = 0; i < literal.size(); ++i) {
    char c = literal[i];
    if (c == '\\' && i + 1 < literal.size()) {
      c = literal[++i];
      if (c == 'n') c = '\n';
      if (c == 't') c = '\t';
    }
    out += c;
  }
  return out;
}

/// The rest of the literal that contains position `at`, up to its closing quote.
std::string literal_from(const std::string& text, size_t at) {
  size_t end = at;
  while (end < text.size() && text[end] != '\'') end += text[end] == '\\' ? 2 : 1;
  return unescape(std::string_view(text).substr(at, std::min(end, text.size()) - at));
}

/// What is printed first for add_generation_prompt; nullopt: nothing, or no literal.
std::optional<std::string> opening(const Code& code) {
  const std::string condition = "add_generation_prompt%}{'";
  const size_t at = code.text.rfind(condition);  // an earlier one may be "not add_generation_prompt"
  if (at == std::string::npos) return std::nullopt;
  return literal_from(code.text, at + condition.size());
}

/// Prefix and suffix that the literals around the first `name` in a print give it: 'PREFIX'+name+'SUFFIX'.
struct Affixes {
  std::string prefix, suffix;
};
std::optional<Affixes> affixes_of(const Code& code, const std::string& prefix_end, const std::string& name) {
  const size_t at = code.text.find(prefix_end + "'+" + name + "+'");
  if (at == std::string::npos) return std::nullopt;
  const size_t open = code.text.rfind('\'', at);
  if (open == std::string::npos) return std::nullopt;
  const size_t close = at + prefix_end.size();
  return Affixes{unescape(std::string_view(code.text).substr(open + 1, close - open - 1)),
                 literal_from(code.text, close + 3 + name.size() + 1)};
}

/// A format in which every role has the same shape.
ChatFormat by_role(const char* name, const std::array<std::string, 3>& prefixes, const std::string& suffix) {
  ChatFormat f;
  f.name = name;
  f.system = ChatSystem::kOwnTurn;
  f.system_prefix = prefixes[0];
  f.user_prefix = prefixes[1];
  f.assistant_prefix = f.open_answer = prefixes[2];
  f.system_suffix = f.user_suffix = f.assistant_suffix = suffix;
  return f;
}

std::optional<ChatFormat> chatml(const Code& code) {
  std::string suffix;
  for (const std::string& content : {kContent, std::string("content"), "(" + kContent + ")"}) {
    for (const std::string& role :
         {std::string("<|im_start|>'+message['role']+'\\n'+"), std::string("<|im_start|>user\\n'+")}) {
      const size_t at = code.text.find("'" + role + content + "+'<|im_end|>");
      if (at != std::string::npos && suffix.empty())
        suffix = literal_from(code.text, at + 1 + role.size() + content.size() + 2);
    }
  }
  const std::optional<std::string> open = opening(code);
  if (suffix.empty() || !open || !open->starts_with("<|im_start|>assistant\n")) return std::nullopt;
  if (suffix != "<|im_end|>\n" && suffix != "<|im_end|>") return std::nullopt;
  ChatFormat f = by_role("chatml", {"<|im_start|>system\n", "<|im_start|>user\n", "<|im_start|>assistant\n"}, suffix);
  f.open_answer = *open;
  if (code.writes_bos()) f.begin = code.chat.bos;
  // A literal that holds a whole system turn is the default one.
  const std::string turn = "'<|im_start|>system\\n";
  for (size_t at = code.text.find(turn); at != std::string::npos; at = code.text.find(turn, at + 1)) {
    const std::string text = literal_from(code.text, at + turn.size());
    const size_t end = text.find("<|im_end|>");
    if (end == std::string::npos) continue;
    f.default_system = text.substr(0, end);
    break;
  }
  f.stop = {"<|im_end|>"};
  return f;
}

std::optional<ChatFormat> llama3(const Code& code) {
  const std::string turn = "'<|start_header_id|>'+message['role']+'<|end_header_id|>\\n\\n'+";
  const std::string open = "<|start_header_id|>assistant<|end_header_id|>\n\n";
  if (!code.has(turn + kContent + "|trim+'<|eot_id|>'")) return std::nullopt;
  if (!code.has("'<|start_header_id|>assistant<|end_header_id|>\\n\\n'")) return std::nullopt;
  ChatFormat f =
      by_role("llama3",
              {"<|start_header_id|>system<|end_header_id|>\n\n", "<|start_header_id|>user<|end_header_id|>\n\n", open},
              "<|eot_id|>");
  f.trim = {true, true, true, false};
  if (code.writes_bos()) f.begin = code.chat.bos;
  if (code.has("date_string")) {  // 3.1 and later write a system turn always, with two dates
    const std::string cutoff = "Cutting Knowledge Date: December 2023\\nToday Date: ";
    const std::string today = "setdate_string='";
    const size_t at = code.text.find(today);
    if (at == std::string::npos || !code.has(cutoff + "'+date_string+'\\n\\n'")) return std::nullopt;
    f.system_prefix += unescape(cutoff) + literal_from(code.text, at + today.size()) + "\n\n";
    f.default_system = "";
  }
  f.stop = {"<|eot_id|>"};
  return f;
}

std::optional<ChatFormat> llama2(const Code& code) {
  if (!code.has("'<<SYS>>\\n'+system_message+'\\n<</SYS>>\\n\\n'+" + kContent)) return std::nullopt;
  if (!code.has("bos_token+'[INST] '+content.strip()+' [/INST]'")) return std::nullopt;
  if (!code.has("' '+content.strip()+' '+eos_token")) return std::nullopt;
  ChatFormat f;
  f.name = "llama2";
  f.system = ChatSystem::kFirstUser;
  f.system_prefix = "<<SYS>>\n";
  f.system_suffix = "\n<</SYS>>\n\n";
  f.user_prefix = code.chat.bos + "[INST] ";
  f.user_suffix = " [/INST]";
  f.assistant_prefix = " ";
  f.assistant_suffix = " " + code.chat.eos;
  f.trim = {false, true, true, true};
  f.stop = {code.chat.eos};
  return f;
}

std::optional<ChatFormat> mistral(const Code& code) {
  if (code.has("<<SYS>>") || code.has("[SYSTEM_PROMPT]")) return std::nullopt;
  const std::optional<Affixes> user = affixes_of(code, "[INST] ", kContent);
  if (!user || (user->suffix != " [/INST]" && user->suffix != "[/INST]") || user->prefix.size() > 8)
    return std::nullopt;
  ChatFormat f;
  f.name = "mistral";
  f.user_prefix = user->prefix;
  f.user_suffix = user->suffix;
  if (code.writes_bos()) f.begin = code.chat.bos;
  f.assistant_suffix = code.chat.eos;
  if (code.has("' '+" + kContent + "|trim+eos_token") || code.has("' '+" + kContent + "+eos_token")) {
    f.assistant_prefix = " ";
    f.trim.assistant = code.has(kContent + "|trim+eos_token");
  } else if (code.has("{" + kContent + "+eos_token+' '}")) {
    f.assistant_suffix += " ";
  } else if (!code.has("{" + kContent + "+eos_token}")) {
    return std::nullopt;
  }
  if (code.has("system_message")) {  // later versions; some write it into the last turn, which cannot go on
    const std::optional<Affixes> system = affixes_of(code, "[INST] ", "system_message");
    if (!system || system->suffix != "\n\n" || !code.has("ifloop.firstandsystem_messageisdefined%}"))
      return std::nullopt;
    f.system = ChatSystem::kFirstUser;
    f.system_suffix = system->suffix;
  } else if (!code.has("raise_exception(")) {
    return std::nullopt;
  }
  f.stop = {code.chat.eos};
  return f;
}

std::optional<ChatFormat> gemma(const Code& code) {
  if (!code.has("'<start_of_turn>'+role+'\\n'+") || !code.has("setrole='model'")) return std::nullopt;
  if (!code.has(kContent + "|trim") || !code.has("'<end_of_turn>\\n'")) return std::nullopt;
  const std::optional<std::string> open = opening(code);
  if (!open || *open != "<start_of_turn>model\n") return std::nullopt;
  ChatFormat f = by_role("gemma", {"", "<start_of_turn>user\n", *open}, "<end_of_turn>\n");
  f.trim = {false, true, true, false};
  f.system_suffix.clear();
  f.system = ChatSystem::kNone;
  if (code.has("first_user_prefix")) {
    if (!code.has("setfirst_user_prefix=messages[0]['content']+'\\n\\n'")) return std::nullopt;
    f.system = ChatSystem::kFirstUser;
    f.system_suffix = "\n\n";
  }
  if (code.writes_bos()) f.begin = code.chat.bos;
  f.stop = {"<end_of_turn>"};
  return f;
}

std::optional<ChatFormat> phi3(const Code& code) {
  ChatFormat f;
  if (code.has("'<|'+message['role']+'|>'+" + kContent + "+'<|end|>'")) {  // Phi-4-mini
    f = by_role("phi3", {"<|system|>", "<|user|>", "<|assistant|>"}, "<|end|>");
    if (opening(code) != "<|assistant|>") return std::nullopt;
  } else if (code.has("'<|user|>\\n'+" + kContent + "+'<|end|>\\n")) {
    f = by_role("phi3", {"<|system|>\n", "<|user|>\n", "<|assistant|>\n"}, "<|end|>\n");
    if (!code.has("<|assistant|>\\n'")) return std::nullopt;
    if (!code.has("'<|system|>\\n'+" + kContent + "+'<|end|>\\n'")) {
      f.system = ChatSystem::kNone;
      f.system_prefix.clear();
      f.system_suffix.clear();
    }
  } else {
    return std::nullopt;
  }
  if (code.writes_bos()) f.begin = code.chat.bos;
  f.stop = {"<|end|>"};
  return f;
}

std::optional<ChatFormat> zephyr(const Code& code) {
  const std::string behind = "'+" + kContent + "+eos_token+'\\n'";
  for (const char* role : {"user", "system", "assistant"}) {
    if (!code.has(std::string("'<|") + role + "|>\\n" + behind)) return std::nullopt;
  }
  if (opening(code) != "<|assistant|>\n") return std::nullopt;
  ChatFormat f = by_role("zephyr", {"<|system|>\n", "<|user|>\n", "<|assistant|>\n"}, code.chat.eos + "\n");
  if (code.writes_bos()) f.begin = code.chat.bos;
  f.stop = {code.chat.eos};
  return f;
}

std::optional<ChatFormat> harmony(const Code& code) {
  for (const char* part :
       {"You are ChatGPT, a large language model trained by OpenAI.", "Knowledge cutoff: 2024-06\\n",
        "Current date: '+strftime_now('%Y-%m-%d')", "<|channel|>final<|message|>",
        "# Valid channels: analysis, commentary, final. Channel must be included for every message."}) {
    if (!code.has(part)) return std::nullopt;
  }
  if (opening(code) != "<|start|>assistant") return std::nullopt;
  const std::string developer = "# Instructions\\n\\n'+developer_message";
  const size_t at = code.text.find(developer);
  if (at == std::string::npos) return std::nullopt;
  ChatFormat f = by_role("harmony",
                         {"<|start|>developer<|message|># Instructions\n\n", "<|start|>user<|message|>",
                          "<|start|>assistant<|channel|>final<|message|>"},
                         "<|end|>");
  f.begin =
      "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: "
      "2024-06\nCurrent date: ";
  f.begin += ChatFormat::kDate;
  f.begin +=
      "\n\nReasoning: medium\n\n# Valid channels: analysis, commentary, final. Channel must be included for every "
      "message.<|end|>";
  if (code.text.compare(at + developer.size(), 2, "+'") == 0)
    f.system_suffix = literal_from(code.text, at + developer.size() + 2);
  if (!f.system_suffix.ends_with("<|end|>")) f.system_suffix += "<|end|>";
  f.open_answer = *opening(code);
  f.stop = {"<|return|>"};
  return f;
}

}  // namespace

std::optional<ChatFormat> recognise_chat_template(const ChatTemplate& chat) {
  if (chat.jinja.size() > kMaxChatTemplateBytes) return std::nullopt;
  const Code code{jinja_code(chat.jinja), chat};
  // What a template writes of a token whose text is not known would be missing.
  if ((code.writes_bos() && chat.bos.empty()) || (code.has("+eos_token") && chat.eos.empty())) return std::nullopt;
  for (const auto family : {harmony, llama3, llama2, gemma, zephyr, phi3, chatml, mistral}) {
    const bool dated = code.has("strftime_now") && family != harmony && family != llama3;
    if (dated) continue;
    if (std::optional<ChatFormat> format = family(code)) return format;
  }
  return std::nullopt;
}

}  // namespace nwc
