#include "bench/routing.h"

#include <cmath>
#include <fstream>
#include <random>

#include "bench/bench_report.h"
#include "runtime/base/half.h"
#include "runtime/engine/session.h"
#include "runtime/engine/weight_type.h"

namespace nwc::bench {
namespace {

// Variances, and how long a topic lasts, that give what routing.h quotes: `nwc-bench mixture` prints what came of them.
constexpr float kCommon = 0.1f, kTopic = 0.6f, kOwn = 0.3f;
constexpr uint32_t kTopics = 64, kTokensOfTopic = 18;
/// Deviation of an embedding's numbers. Blocks add numbers of about 1 each.
constexpr float kDeviation = 32;

}  // namespace

std::vector<uint8_t> topic_embedding(uint32_t vocab, uint32_t hidden) {
  std::mt19937_64 rng(5);
  std::normal_distribution<float> normal;
  std::vector<float> shared(size_t{kTopics} * hidden), common(hidden);
  for (float& x : common) x = std::sqrt(kCommon) * normal(rng);
  for (float& x : shared) x = std::sqrt(kTopic) * normal(rng);
  std::vector<uint8_t> out(size_t{vocab} * hidden * sizeof(uint16_t));
  for (size_t i = 0; i < size_t{vocab} * hidden; ++i) {
    const size_t topic = i / hidden % kTopics, j = i % hidden;
    const float x = common[j] + shared[topic * hidden + j] + std::sqrt(kOwn) * normal(rng);
    store_le<uint16_t>(&out[i * sizeof(uint16_t)], f32_to_f16(kDeviation * x));
  }
  return out;
}

std::vector<uint32_t> topic_tokens(uint32_t vocab, uint32_t count) {
  std::mt19937 rng(11);
  const uint32_t topics = std::min(kTopics, vocab);
  uint32_t topic = 0;
  std::vector<uint32_t> tokens;
  for (uint32_t t = 0; t < count; ++t) {
    if (rng() % kTokensOfTopic == 0) topic = static_cast<uint32_t>(rng() % topics);
    tokens.push_back(topic + topics * static_cast<uint32_t>(rng() % (vocab / topics)));
  }
  return tokens;
}

double Choices::reuse(uint32_t first, uint32_t distance) const {
  uint64_t again = 0, all = 0;
  for (uint32_t t = std::max(first, distance); t < tokens; ++t) {
    for (uint32_t l = 0; l < layers; ++l) {
      for (uint32_t i = 0; i < per_token; ++i, ++all) {
        const uint32_t expert = of(t, l)[i];
        bool found = false;
        for (uint32_t d = 1; d <= distance && !found; ++d)
          found = std::find(of(t - d, l), of(t - d, l) + per_token, expert) != of(t - d, l) + per_token;
        again += found ? 1 : 0;
      }
    }
  }
  return all == 0 ? 0 : static_cast<double>(again) / static_cast<double>(all);
}

void Choices::save(const std::string& path) const {
  std::ofstream file(path, std::ios::binary);
  const uint32_t head[] = {tokens, layers, per_token};
  file.write(reinterpret_cast<const char*>(head), sizeof head);
  file.write(reinterpret_cast<const char*>(experts.data()),
             static_cast<std::streamsize>(experts.size() * sizeof(uint32_t)));
  if (!file.flush()) check(io_error(path + ": cannot be written"));
}

Choices Choices::load(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  uint32_t head[3] = {};
  file.read(reinterpret_cast<char*>(head), sizeof head);
  Choices c{head[0], head[1], head[2], {}};
  c.experts.resize(size_t{c.tokens} * c.layers * c.per_token);
  file.read(reinterpret_cast<char*>(c.experts.data()),
            static_cast<std::streamsize>(c.experts.size() * sizeof(uint32_t)));
  if (!file) check(io_error(path + ": cannot be read"));
  return c;
}

Choices choices_of(const std::string& model, const std::vector<uint32_t>& tokens, const std::string& weights,
                   uint64_t budget, uint32_t threads) {
  auto reader = open_file_reader(model);
  check(reader.status());
  const auto file = NwcFile::open(std::move(reader).value());
  check(file.status());
  const auto runner = make_thread_pool(threads), decode_runner = make_thread_pool(threads);
  const auto decoder = create_cpu_decoder(**file, *decode_runner, detect_cpu_level());
  check(decoder.status());
  Choices choices;
  choices.tokens = static_cast<uint32_t>(tokens.size());
  SessionParams params;
  ask_for(weight_type_named(weights), &params);
  params.context = choices.tokens;
  params.memory_budget_bytes = budget;
  params.batch = 1;  // so that layers come token by token
  params.experts_chosen = [&](uint32_t, std::span<const uint32_t> experts) {
    choices.per_token = static_cast<uint32_t>(experts.size());
    choices.experts.insert(choices.experts.end(), experts.begin(), experts.end());
  };
  const auto session = Session::create(**file, **decoder, *runner, params);
  check(session.status());
  choices.layers = (*session)->model().num_layers;
  check((*session)->eval(tokens, LogitsWanted::kNone, {}));
  if (choices.experts.size() != size_t{choices.tokens} * choices.layers * choices.per_token)
    check(unsupported(model + ": not all layers have experts"));
  return choices;
}

}  // namespace nwc::bench
