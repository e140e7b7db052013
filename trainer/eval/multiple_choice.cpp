#include "trainer/eval/multiple_choice.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "trainer/data/json_checked.h"
#include "trainer/eval/evaluate.h"

namespace nwc {
namespace {

constexpr size_t kMaxLineBytes = 1u << 20;
constexpr size_t kMaxChoices = 64;
constexpr uint64_t kChunkFloats = 1u << 22;

Result<ChoiceItem> parse_item(std::string_view line, const std::string& where) {
  if (line.size() > kMaxLineBytes) return limit_error(where + " is longer than 1 MiB");
  NWC_ASSIGN_OR_RETURN(const nlohmann::json json,
                       parse_json({reinterpret_cast<const uint8_t*>(line.data()), line.size()}, where));
  ChoiceItem item;
  const nlohmann::json* context = find_field(json, "context");
  const nlohmann::json* choices = find_field(json, "choices");
  const nlohmann::json* answer = find_field(json, "answer");
  const nlohmann::json* contexts = find_field(json, "contexts");
  if (contexts == nullptr && (context == nullptr || !context->is_string()))
    return corrupt(where + ": \"context\" must be a string");
  if (choices == nullptr || !choices->is_array() || choices->size() < 2) {
    return corrupt(where + ": \"choices\" must be a list of two or more strings");
  }
  if (choices->size() > kMaxChoices) return limit_error(where + ": more than 64 choices");
  if (contexts != nullptr) {
    if (!contexts->is_array() || contexts->size() != choices->size())
      return corrupt(where + ": \"contexts\" must be a list of strings, one for each choice");
    for (const nlohmann::json& text : *contexts) {
      if (!text.is_string()) return corrupt(where + ": \"contexts\" must be a list of strings, one for each choice");
      item.contexts.push_back(text.get<std::string>());
    }
  } else {
    item.context = context->get<std::string>();
  }
  for (const nlohmann::json& choice : *choices) {
    if (!choice.is_string() || choice.get_ref<const std::string&>().empty()) {
      return corrupt(where + ": \"choices\" must be a list of strings that are not empty");
    }
    item.choices.push_back(choice.get<std::string>());
  }
  const std::optional<uint64_t> index = answer == nullptr ? std::nullopt : as_u64(*answer);
  if (!index || *index >= item.choices.size()) {
    return corrupt(where + ": \"answer\" must be the index of a choice, 0 to " +
                   std::to_string(item.choices.size() - 1));
  }
  item.answer = static_cast<uint32_t>(*index);
  return item;
}

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

std::string joined(const std::string& context, const std::string& choice) {
  const bool has_space = context.empty() || is_space(context.back()) || is_space(choice.front());
  return context + (has_space ? "" : " ") + choice;
}

std::string without_spaces_behind(std::string text) {
  while (!text.empty() && is_space(text.back())) text.pop_back();
  return text;
}

/// Characters of valid UTF-8.
size_t count_characters(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

size_t common_prefix(std::span<const uint32_t> a, std::span<const uint32_t> b) {
  return static_cast<size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
}

/// Sum of log p(tokens[i] | tokens before), i from `first` > 0 on. The session already holds the `held` < first first
/// tokens; afterwards it holds all but the last.
Result<double> log_likelihood(Session& model, std::span<const uint32_t> tokens, size_t first, size_t held) {
  const uint32_t vocab = model.vocab_size();
  const size_t chunk = static_cast<size_t>(std::clamp<uint64_t>(kChunkFloats / vocab, 1, 64));
  if (first - 1 > held) NWC_TRY(model.eval(tokens.subspan(held, first - 1 - held), LogitsWanted::kNone, {}));
  std::vector<float> logits(std::min(chunk, tokens.size() - first) * vocab);
  double sum = 0;
  for (size_t at = first - 1; at + 1 < tokens.size();) {
    const size_t count = std::min(chunk, tokens.size() - 1 - at);
    NWC_TRY(model.eval(tokens.subspan(at, count), LogitsWanted::kAll, logits));
    for (size_t i = 0; i < count; ++i) {
      const std::span<const float> row = std::span<const float>(logits).subspan(i * vocab, vocab);
      sum += row[tokens[at + i + 1]] - log_sum_exp(row);
    }
    at += count;
  }
  return sum;
}

double standard_error(double share, uint64_t n) {
  return n < 2 ? 0 : std::sqrt(share * (1 - share) / static_cast<double>(n - 1));
}

/// Scores of all choices of one item.
Result<std::vector<double>> score_item(Session& model, const EncodeText& encode, const ChoiceItem& item) {
  std::vector<double> scores;
  std::vector<uint32_t> evaluated;  // what the session holds
  model.reset();
  for (size_t c = 0; c < item.choices.size(); ++c) {
    const std::string name = "choice " + std::to_string(c);
    const std::string& text = item.contexts.empty() ? item.context : item.contexts[c];
    NWC_ASSIGN_OR_RETURN(const std::vector<uint32_t> context, encode(without_spaces_behind(text)));
    NWC_ASSIGN_OR_RETURN(std::vector<uint32_t> tokens, encode(joined(text, item.choices[c])));
    size_t first = context.size();
    if (first >= tokens.size()) return invalid_argument(name + " adds no token to its context");
    if (first == 0) return invalid_argument("the context has no token that could come before " + name);
    // The last token is never evaluated, hence one more than the session holds.
    const size_t room = size_t{model.context()} + 1;
    if (tokens.size() > room) {
      const size_t excess = tokens.size() - room;
      if (excess >= first) return invalid_argument(name + " is longer than the session's context");
      tokens.erase(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(excess));
      first -= excess;
    }
    // Logits of the token before the choice are needed, so at most first - 1 tokens are taken over.
    const size_t held = std::min(common_prefix(tokens, evaluated), first - 1);
    NWC_TRY(model.truncate(static_cast<uint32_t>(held)));
    NWC_ASSIGN_OR_RETURN(const double score, log_likelihood(model, tokens, first, held));
    if (!std::isfinite(score)) return corrupt("the model's logits for " + name + " are not finite");
    scores.push_back(score);
    evaluated.assign(tokens.begin(), tokens.end() - 1);
  }
  return scores;
}

}  // namespace

Result<std::vector<ChoiceItem>> parse_choice_items(std::string_view jsonl) {
  std::vector<ChoiceItem> items;
  for (size_t line = 1; !jsonl.empty(); ++line) {
    const size_t end = std::min(jsonl.find('\n'), jsonl.size());
    const std::string_view text = jsonl.substr(0, end);
    jsonl.remove_prefix(std::min(end + 1, jsonl.size()));
    if (std::all_of(text.begin(), text.end(), is_space)) continue;
    NWC_ASSIGN_OR_RETURN(ChoiceItem item, parse_item(text, "line " + std::to_string(line)));
    items.push_back(std::move(item));
  }
  return items;
}

Result<ChoiceResult> evaluate_choices(Session& model, const EncodeText& encode, std::span<const ChoiceItem> items,
                                      const Progress& progress) {
  ChoiceResult result;
  uint64_t right = 0, right_normalized = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!progress.report(i, items.size())) return Status(StatusCode::kCancelled, "the evaluation was cancelled");
    const ChoiceItem& item = items[i];
    Result<std::vector<double>> scored = score_item(model, encode, item);
    if (!scored.ok()) return scored.status().with_context("item " + std::to_string(i));
    std::vector<double> scores = std::move(scored).value();
    const auto best = [&] {
      return static_cast<uint32_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
    };
    result.chosen.push_back(best());
    result.scores.push_back(scores);
    for (size_t c = 0; c < scores.size(); ++c)
      scores[c] /= static_cast<double>(std::max<size_t>(1, count_characters(item.choices[c])));
    result.chosen_normalized.push_back(best());
    right += result.chosen.back() == item.answer;
    right_normalized += result.chosen_normalized.back() == item.answer;
  }
  progress.report(items.size(), items.size());
  result.items = items.size();
  if (result.items == 0) return result;
  const double n = static_cast<double>(result.items);
  result.accuracy = static_cast<double>(right) / n;
  result.accuracy_normalized = static_cast<double>(right_normalized) / n;
  result.accuracy_se = standard_error(result.accuracy, result.items);
  result.accuracy_normalized_se = standard_error(result.accuracy_normalized, result.items);
  return result;
}

}  // namespace nwc
