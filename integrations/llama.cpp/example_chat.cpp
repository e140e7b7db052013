// A conversation with a .nwc file in llama.cpp: nwc-llama-chat MODEL.nwc [TYPE]. Questions are read line by line.
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "nwc_llama.h"

namespace {

/// The model's chat template around the conversation so far.
std::string format_chat(const llama_model* model, const std::vector<llama_chat_message>& messages) {
  const char* chat_template = llama_model_chat_template(model, nullptr);
  std::string text(1024, '\0');
  for (;;) {
    const int32_t size = llama_chat_apply_template(chat_template, messages.data(), messages.size(), true, text.data(),
                                                   static_cast<int32_t>(text.size()));
    if (size < 0) return messages.back().content;  // no template that llama.cpp knows
    const bool fits = static_cast<size_t>(size) <= text.size();
    text.resize(static_cast<size_t>(size));
    if (fits) return text;
  }
}

std::vector<llama_token> tokenize(const llama_vocab* vocab, const std::string& text, bool first) {
  std::vector<llama_token> tokens(text.size() + 2);
  const int32_t count = llama_tokenize(vocab, text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                                       static_cast<int32_t>(tokens.size()), first, true);
  tokens.resize(count < 0 ? 0 : static_cast<size_t>(count));
  return tokens;
}

/// Feeds the prompt, and writes tokens until the model ends its turn. Returns the answer.
std::string answer(llama_context* context, llama_sampler* sampler, const llama_vocab* vocab, const std::string& prompt,
                   bool first) {
  std::vector<llama_token> tokens = tokenize(vocab, prompt, first);
  std::string text;
  llama_batch batch = llama_batch_get_one(tokens.data(), static_cast<int32_t>(tokens.size()));
  llama_token next = 0;
  while (!tokens.empty() && llama_decode(context, batch) == 0) {
    next = llama_sampler_sample(sampler, context, -1);
    if (llama_vocab_is_eog(vocab, next)) break;
    char piece[256];
    const int32_t size = llama_token_to_piece(vocab, next, piece, sizeof piece, 0, false);
    if (size > 0) {
      std::fwrite(piece, 1, static_cast<size_t>(size), stdout);
      std::fflush(stdout);
      text.append(piece, static_cast<size_t>(size));
    }
    batch = llama_batch_get_one(&next, 1);
  }
  std::puts("");
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "usage: nwc-llama-chat MODEL.nwc [f16|bf16|f32|q8_0|...]\n"), 2;
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  ggml_backend_load_all();
  nwc_llama_options options;
  nwc_llama_options_init(&options);
  if (argc > 2) options.type = argv[2];
  llama_model* model = nwc_llama_load(argv[1], &options, nullptr);
  if (model == nullptr) return std::fprintf(stderr, "nwc-llama-chat: %s\n", nwc_llama_error()), 1;
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = 4096;
  llama_context* context = llama_init_from_model(model, params);
  if (context == nullptr) return std::fprintf(stderr, "nwc-llama-chat: no context\n"), 1;
  llama_sampler* sampler = llama_sampler_init_greedy();

  std::vector<std::string> texts;  // questions and answers in turn
  std::string line, seen;
  while (std::fputs("> ", stderr), std::getline(std::cin, line)) {
    texts.push_back(line);
    std::vector<llama_chat_message> messages;
    for (size_t i = 0; i < texts.size(); ++i) messages.push_back({i % 2 == 0 ? "user" : "assistant", texts[i].c_str()});
    const std::string whole = format_chat(model, messages);
    // The cache holds what was said before; the template's text goes on from there.
    const bool goes_on = !seen.empty() && whole.compare(0, seen.size(), seen) == 0;
    if (!goes_on) llama_memory_clear(llama_get_memory(context), true);
    texts.push_back(
        answer(context, sampler, llama_model_get_vocab(model), goes_on ? whole.substr(seen.size()) : whole, !goes_on));
    seen = whole + texts.back();
  }
  llama_sampler_free(sampler);
  llama_free(context);
  llama_model_free(model);
  return 0;
}
