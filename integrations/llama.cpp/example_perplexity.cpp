// Perplexity of a .nwc file in llama.cpp: nwc-llama-perplexity MODEL.nwc TEXT [TYPE [CONTEXT [TOKENS]]]. Windows do not
// overlap, and every token but the first of each is predicted, as `nwc eval` does it.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "nwc_llama.h"

namespace {

double negative_log_likelihood(const float* logits, int32_t count, llama_token token) {
  const float most = *std::max_element(logits, logits + count);
  double sum = 0;
  for (int32_t i = 0; i < count; ++i) sum += std::exp(static_cast<double>(logits[i] - most));
  return std::log(sum) - static_cast<double>(logits[token] - most);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: nwc-llama-perplexity MODEL.nwc TEXT [TYPE [CONTEXT [TOKENS]]]\n");
    return 2;
  }
  const int32_t window = argc > 4 ? std::atoi(argv[4]) : 512, limit = argc > 5 ? std::atoi(argv[5]) : 8192;
  std::ifstream file(argv[2], std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file || text.empty() || window < 2 || limit < 1) {
    std::fprintf(stderr, "nwc-llama-perplexity: no text in %s, or a window of less than 2 tokens\n", argv[2]);
    return 2;
  }
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  ggml_backend_load_all();
  nwc_llama_options options;
  nwc_llama_options_init(&options);
  if (argc > 3) options.type = argv[3];
  llama_model* model = nwc_llama_load(argv[1], &options, nullptr);
  if (model == nullptr) return std::fprintf(stderr, "nwc-llama-perplexity: %s\n", nwc_llama_error()), 1;
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = static_cast<uint32_t>(window);
  llama_context* context = llama_init_from_model(model, params);
  if (context == nullptr) return std::fprintf(stderr, "nwc-llama-perplexity: no context\n"), 1;

  const llama_vocab* vocab = llama_model_get_vocab(model);
  std::vector<llama_token> tokens(text.size() + 2);
  const int32_t count = llama_tokenize(vocab, text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                                       static_cast<int32_t>(tokens.size()), false, false);
  llama_batch batch = llama_batch_init(window, 0, 1);
  double sum = 0;
  int32_t predicted = 0;
  for (int32_t at = 0; at + 1 < count && predicted < limit; at += window) {
    batch.n_tokens = std::min(window, count - at);
    for (int32_t i = 0; i < batch.n_tokens; ++i) {
      batch.token[i] = tokens[static_cast<size_t>(at + i)];
      batch.pos[i] = i;
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = 0;
      batch.logits[i] = 1;
    }
    llama_memory_clear(llama_get_memory(context), true);
    if (llama_decode(context, batch) != 0) return std::fprintf(stderr, "nwc-llama-perplexity: llama_decode\n"), 1;
    for (int32_t i = 0; i + 1 < batch.n_tokens && predicted < limit; ++i, ++predicted) {
      sum += negative_log_likelihood(llama_get_logits_ith(context, i), llama_vocab_n_tokens(vocab), batch.token[i + 1]);
    }
  }
  if (predicted == 0) return std::fprintf(stderr, "nwc-llama-perplexity: the text has less than two tokens\n"), 1;
  std::printf("perplexity %.4f of %d tokens, windows of %d\n", std::exp(sum / predicted), predicted, window);
  llama_batch_free(batch);
  llama_free(context);
  llama_model_free(model);
  return 0;
}
