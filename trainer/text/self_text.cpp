#include "trainer/text/self_text.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <deque>

#include "runtime/base/str_cat.h"
#include "runtime/model/chat_format.h"
#include "runtime/model/tokenizer.h"
#include "trainer/nn/random.h"

namespace nwc {
namespace {

/// Tokens that the model writes after a random one before a sequence begins with the last of them: it has forgotten
/// the random one as far as the sequence is concerned, which begins with a token that texts have.
constexpr uint32_t kWarmUp = 8;
constexpr uint64_t kCacheBytes = uint64_t{2} << 30;
constexpr uint64_t kMostSequences = 256;
constexpr uint64_t kFirstStream = 0x5f1, kWarmUpStream = 0x5f2,
                   kTextStream = 0x5f3;  // name the random numbers' purpose

/// What is put in front of each turn of a conversation.
struct ChatScript {
  std::vector<uint32_t> begin, answer, question;
  bool empty() const { return begin.empty() || answer.empty() || question.empty(); }
};

class Writer {
 public:
  Writer(const NwcFile& file, Session& session, Runner& runner, const SelfTextOptions& options)
      : model_(session.model()),
        session_(session),
        runner_(runner),
        options_(options),
        tokenizer_(file.tokenizer()),
        count_(session.plan().batch),
        logits_(size_t{count_} * model_.vocab_size) {}

  Status read_script(const NwcFile& file);
  /// Sequences first .. first + count_ - 1 into out [count_][context].
  Status write(uint64_t first, uint32_t* out, const std::function<Status()>& step);

 private:
  /// A sequence that is being written.
  struct Sequence {
    std::deque<uint32_t> forced;  ///< come next, whatever the model predicts
    bool chat = false, answering = false;
  };
  Status draw(uint64_t first, uint64_t stream, uint32_t position, std::vector<uint32_t>* tokens);
  Status warm_up(uint64_t first, const std::function<Status()>& step, std::vector<uint32_t>* tokens);
  uint32_t first_token(uint64_t sequence) const;
  bool begins_with_bos() const { return tokenizer_ && tokenizer_->add_bos && tokenizer_->bos_id < model_.vocab_size; }
  bool ends_turn(uint32_t token) const;
  uint32_t next(Sequence* sequence, uint32_t drawn) const;

  const ModelRecord& model_;
  Session& session_;
  Runner& runner_;
  const SelfTextOptions& options_;
  const std::optional<TokenizerRecord>& tokenizer_;
  const uint32_t count_;
  std::vector<float> logits_;  ///< [count_][vocab]
  ChatScript script_;
};

// A format that the tokenizer cannot write is as good as none.
Status Writer::read_script(const NwcFile& file) {
  if (!file.chat() || !file.chat()->format || !tokenizer_) return {};
  const ChatFormat& format = *file.chat()->format;
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::create_from(*tokenizer_));
  const ChatMessage question{ChatRole::kUser, ""};
  const Result<std::string> opening = format_chat(format, {&question, 1}, 0, "2026-01-01");
  const std::string answer = format.user_suffix + format.open_answer;
  if (!opening.ok() || !opening->ends_with(answer)) return {};
  const auto encode = [&](const std::string& text, bool add_special) {
    return tokenizer->encode(text, {.add_special = add_special, .parse_special = true});
  };
  const bool bos = begins_with_bos() && !format.begin.starts_with(tokenizer_->tokens[tokenizer_->bos_id].bytes);
  NWC_ASSIGN_OR_RETURN(script_.begin, encode(opening->substr(0, opening->size() - answer.size()), bos));
  NWC_ASSIGN_OR_RETURN(script_.answer, encode(answer, false));
  NWC_ASSIGN_OR_RETURN(script_.question, encode(format.assistant_suffix + format.user_prefix, false));
  return {};
}

bool Writer::ends_turn(uint32_t token) const {
  if (std::find(model_.eos_ids.begin(), model_.eos_ids.end(), token) != model_.eos_ids.end()) return true;
  return token < tokenizer_->tokens.size() && tokenizer_->tokens[token].type == TokenType::kControl;
}

uint32_t Writer::first_token(uint64_t sequence) const {
  Random random({options_.seed, kFirstStream, sequence});
  for (uint32_t tries = 0;; ++tries) {
    const auto token = static_cast<uint32_t>(random.below(model_.vocab_size));
    const bool known = tokenizer_ && token < tokenizer_->tokens.size();
    if (!tokenizer_ || tries == 1000 || (known && tokenizer_->tokens[token].type == TokenType::kNormal)) return token;
  }
}

// One token of each sequence's prediction, by the inverse of its cumulative distribution.
Status Writer::draw(uint64_t first, uint64_t stream, uint32_t position, std::vector<uint32_t>* tokens) {
  std::atomic<bool> finite{true};
  parallel_for(runner_, count_, [&](uint32_t s, uint32_t) {
    float* const row = logits_.data() + size_t{s} * model_.vocab_size;
    float largest = row[0];
    for (uint32_t v = 1; v < model_.vocab_size; ++v) largest = std::max(largest, row[v]);
    double sum = 0;
    for (uint32_t v = 0; v < model_.vocab_size; ++v) {
      row[v] = std::exp(row[v] - largest);
      sum += double{row[v]};
    }
    if (!std::isfinite(sum)) {
      finite = false;
      return;
    }
    Random random({options_.seed, stream, first + s, position});
    double left = random.uniform() * sum;
    uint32_t token = 0, possible = 0;
    for (; token < model_.vocab_size; ++token) {
      left -= double{row[token]};
      if (row[token] > 0) possible = token;
      if (left < 0) break;
    }
    (*tokens)[s] = std::min(token, possible);
  });
  if (finite) return {};
  return corrupt("the model's predictions are not finite: its weights or its description must be wrong");
}

Status Writer::warm_up(uint64_t first, const std::function<Status()>& step, std::vector<uint32_t>* tokens) {
  for (uint32_t s = 0; s < count_; ++s) (*tokens)[s] = begins_with_bos() ? tokenizer_->bos_id : first_token(first + s);
  if (begins_with_bos()) return {};
  std::vector<uint32_t> drawn = *tokens;
  for (uint32_t t = 0; t < std::min(kWarmUp, options_.context); ++t) {
    NWC_TRY(session_.step(drawn, logits_));
    NWC_TRY(draw(first, kWarmUpStream, t, &drawn));
    NWC_TRY(step());
    for (uint32_t s = 0; s < count_; ++s) {
      if (!tokenizer_ || !ends_turn(drawn[s])) (*tokens)[s] = drawn[s];
    }
  }
  session_.reset();
  return {};
}

/// What comes next in a sequence for which `drawn` was drawn.
uint32_t Writer::next(Sequence* s, uint32_t drawn) const {
  if (!s->forced.empty()) {
    const uint32_t token = s->forced.front();
    s->forced.pop_front();
    return token;
  }
  if (!tokenizer_ || !ends_turn(drawn)) return drawn;
  if (!s->chat) {  // another text follows
    if (begins_with_bos() && drawn != tokenizer_->bos_id) s->forced.push_back(tokenizer_->bos_id);
    return drawn;
  }
  const std::vector<uint32_t>& turn = s->answering ? script_.question : script_.answer;
  s->answering = !s->answering;
  s->forced.assign(turn.begin() + 1, turn.end());
  return turn[0];
}

Status Writer::write(uint64_t first, uint32_t* out, const std::function<Status()>& step) {
  session_.reset();
  std::vector<uint32_t> tokens(count_);
  NWC_TRY(warm_up(first, step, &tokens));
  std::vector<Sequence> sequences(count_);
  for (uint32_t s = 0; s < count_; ++s) {
    sequences[s].chat = !script_.empty() && (first + s) % 2 == 1;
    if (!sequences[s].chat) continue;
    sequences[s].forced.assign(script_.begin.begin() + 1, script_.begin.end());
    tokens[s] = script_.begin[0];
  }
  for (uint32_t t = 0; t < options_.context; ++t) {
    for (uint32_t s = 0; s < count_; ++s) out[size_t{s} * options_.context + t] = tokens[s];
    NWC_TRY(step());
    if (t + 1 == options_.context) break;
    NWC_TRY(session_.step(tokens, logits_));
    NWC_TRY(draw(first, kTextStream, t, &tokens));
    for (uint32_t s = 0; s < count_; ++s) tokens[s] = next(&sequences[s], tokens[s]);
  }
  return {};
}

uint64_t cache_bytes_of_token(const ModelRecord& model) {
  uint64_t bytes = 0;
  for (uint32_t l = 0; l < model.num_layers; ++l) bytes += uint64_t{4} * model.block(l).kv_width();  // f16, both
  return bytes;
}

/// How the sequences of a text are written.
struct Rounds {
  uint64_t wanted = 0, rounds = 0;  ///< sequences, and how often `session.sequences` of them are written
  SessionParams session;
};

Result<Rounds> plan_rounds(const NwcFile& file, const SelfTextOptions& options) {
  NWC_TRY(file.model_status());
  const ModelRecord& model = *file.model();
  if (model.is_encoder()) return unsupported("the model is an encoder, which writes no text");
  if (options.context < 2 || options.context > model.max_positions)
    return invalid_argument(str_cat("sequences of ", options.context, " tokens: 2 to ", model.max_positions));
  Rounds out;
  out.wanted = std::max<uint64_t>(1, ceil_div(options.tokens, uint64_t{options.context}));
  const uint64_t fit = kCacheBytes / std::max<uint64_t>(1, cache_bytes_of_token(model) * options.context);
  const uint64_t most =
      options.max_sequences != 0 ? options.max_sequences : std::clamp<uint64_t>(fit, 1, kMostSequences);
  out.rounds = ceil_div(out.wanted, most);
  out.session.fit_weight_dtype = true;
  out.session.context = options.context;
  out.session.sequences = static_cast<uint32_t>(ceil_div(out.wanted, out.rounds));
  out.session.memory_budget_bytes = options.memory_budget_bytes;
  return out;
}

}  // namespace

Result<uint64_t> self_text_memory_bytes(const NwcFile& file, const SelfTextOptions& options) {
  NWC_ASSIGN_OR_RETURN(const Rounds plan, plan_rounds(file, options));
  NWC_ASSIGN_OR_RETURN(const MemoryPlan memory, plan_session(file, plan.session));
  return memory.total + sizeof(float) * plan.session.sequences * file.model()->vocab_size;
}

Result<std::vector<uint32_t>> write_self_text(const NwcFile& file, Decoder& decoder, Runner& runner,
                                              const SelfTextOptions& options, const Progress& progress,
                                              const Logger& log) {
  NWC_ASSIGN_OR_RETURN(const Rounds plan, plan_rounds(file, options));
  const uint64_t rounds = plan.rounds, at_once = plan.session.sequences;
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session,
                       Session::create(file, decoder, runner, plan.session, log));
  Writer writer(file, *session, runner, options);
  NWC_TRY(writer.read_script(file));
  std::vector<uint32_t> tokens(static_cast<size_t>(rounds * at_once * options.context));
  uint64_t done = 0;
  const uint64_t total = rounds * (options.context + kWarmUp);
  for (uint64_t r = 0; r < rounds; ++r) {
    const auto step = [&] {
      return progress.report(std::min(++done, total), total)
                 ? Status()
                 : Status(StatusCode::kCancelled, "writing the model's own text was cancelled");
    };
    NWC_TRY(writer.write(r * at_once, tokens.data() + r * at_once * options.context, step));
  }
  tokens.resize(static_cast<size_t>(plan.wanted * options.context));
  return tokens;
}

}  // namespace nwc
