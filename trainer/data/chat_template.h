// The chat template of a model source, and the chat format that the encoder derives from it.
#pragma once

#include <optional>
#include <string>

#include "runtime/format/chat_record.h"
#include "runtime/format/tokenizer_record.h"
#include "trainer/data/source_record.h"

namespace nwc {

/// A template with the texts of the tokens that it refers to; empty where the source does not say.
struct ChatTemplate {
  std::string jinja;
  std::string bos, eos;
};

/// The template that chats take: of a folder chat_template.jinja, or chat_template in tokenizer_config.json or
/// chat_template.json; of a GGUF file tokenizer.chat_template. tokenizer: nullptr where there is none; it knows the
/// texts of a GGUF file's tokens. nullopt: the source has none that can be read.
std::optional<ChatTemplate> find_chat_template(const SourceRecord& source, const TokenizerRecord* tokenizer);

/// Recognises templates of the families ChatML, Llama 2, Llama 3, Gemma, Phi-3, Mistral, Zephyr and harmony by what is
/// distinctive of their text. nullopt: another template, or one that needs a token whose text is not known.
std::optional<ChatFormat> recognise_chat_template(const ChatTemplate& chat);

/// The record that a file keeps; nullopt: the source has no template. *warning: a sentence for the user where the
/// template is not recognised or too long to be kept, otherwise empty.
std::optional<ChatRecord> derive_chat_record(const SourceRecord& source, const TokenizerRecord* tokenizer,
                                             std::string* warning);

}  // namespace nwc
