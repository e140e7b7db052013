// How the tokens of a synthetic mixture choose their experts. Routers of random weights alternate between few sets of
// experts, or share none between neighbouring tokens; real ones do neither. Measured of Qwen3-30B-A3B (128 experts, 8 a
// token; three answers of 512 tokens; github.com/kekzl/imp, pull request 1359): 45 % of a token's experts are those of
// the token before, 80 % those of one of the eight before, and a cache of 40 % of a layer's experts, last used ones,
// holds 90 to 95 % of what is needed. Of a model of 512 experts, 10 a token, on mixed texts, an eighth of the experts
// holds 67 %, a quarter 81 % (github.com/ggml-org/llama.cpp, pull request 27861). Mixtral 8x7B repeats less: at layer
// 15 the first choice 23 to 28 % of the time, where chance would be 12.5 % (Jiang et al. 2024, table 5).
//
// The same comes about where hidden states have a part that all share, one that lasts for some tokens, a topic, and one
// of each token's own. Here embeddings have these parts, and they outweigh what the layers add.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace nwc::bench {

/// Embedding of a synthetic mixture, f16 [vocab][hidden]: the topic of a token is its number modulo some.
std::vector<uint8_t> topic_embedding(uint32_t vocab, uint32_t hidden);

/// A text that stays with a topic for some tens of tokens: what a model of random weights would write itself goes in
/// circles.
std::vector<uint32_t> topic_tokens(uint32_t vocab, uint32_t count);

/// Which experts the tokens of a text take.
struct Choices {
  uint32_t tokens = 0, layers = 0, per_token = 0;
  std::vector<uint32_t> experts;  ///< [tokens][layers][per_token]

  const uint32_t* of(uint32_t token, uint32_t layer) const {
    return &experts[(size_t{token} * layers + layer) * per_token];
  }
  /// Which part of a token's experts are also those of one of the `distance` tokens before, of tokens `first` and on.
  double reuse(uint32_t first, uint32_t distance) const;
  void save(const std::string& path) const;
  static Choices load(const std::string& path);
};

/// Those of a model, by a session on the CPU within a budget. weights: name of a weight type.
Choices choices_of(const std::string& model, const std::vector<uint32_t>& tokens, const std::string& weights,
                   uint64_t budget, uint32_t threads);

}  // namespace nwc::bench
