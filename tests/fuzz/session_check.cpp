#include "tests/fuzz/session_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "runtime/engine/session.h"
#include "tests/fuzz/harness_support.h"
#include "tests/fuzz/llama_reference.h"

namespace nwc::fuzz {
namespace {

constexpr uint32_t kTokens = 6;
constexpr uint64_t kMaxElements = 1 << 15;
/// Logits that are closer to the exact ones than this, by the size of the largest, need no look at what is allowed.
constexpr double kClose = 1e-5;
constexpr double kLargest = 1e30;  // nothing is promised nearer to the end of f32's range

Runner& runner() {
  static const std::unique_ptr<Runner> one = make_thread_pool(1);
  return *one;
}

struct Outcome {
  Status status;
  MemoryPlan plan;
  std::vector<float> logits;  ///< [tokens][vocab]
};

/// Tokens in calls of `split`, each with all its logits.
Outcome run(const NwcFile& file, const SessionParams& params, const std::vector<uint32_t>& tokens, uint32_t split) {
  Outcome out;
  const auto decoder = create_cpu_decoder(file, runner(), params.max_cpu);
  require(decoder.ok(), "a decoder for the CPU");
  auto session = Session::create(file, **decoder, runner(), params);
  out.status = session.status();
  if (!session.ok()) return out;
  out.plan = (*session)->plan();
  require((*session)->allocated_bytes() <= out.plan.total, "a session keeps to its plan");
  const size_t vocab = (*session)->vocab_size();
  out.logits.resize(tokens.size() * vocab);
  for (uint32_t done = 0; done < tokens.size() && out.status.ok(); done += split) {
    const size_t count = std::min<size_t>(split, tokens.size() - done);
    out.status = (*session)->eval(std::span(tokens).subspan(done, count), LogitsWanted::kAll,
                                  std::span(out.logits).subspan(done * vocab, count * vocab));
  }
  return out;
}

void require_same(const Outcome& resident, const Outcome& other, const char* what) {
  if (!other.status.ok()) fail(std::string(what) + " fails where resident does not: " + other.status.message());
  if (std::memcmp(resident.logits.data(), other.logits.data(), resident.logits.size() * sizeof(float)) != 0)
    fail(std::string(what) + " has other logits than resident");
}

/// A session that was fed with single tokens, against the exact logits of what it computes with.
void check_against_reference(const NwcFile& file, const DecodeTables& tables, const SessionParams& params,
                             const std::vector<uint32_t>& tokens, const Outcome& outcome) {
  const auto decoder = create_cpu_decoder(file, runner(), params.max_cpu);
  require(decoder.ok(), "a decoder for the CPU");
  const auto reference = LlamaReference::create(file, tables, **decoder, params, outcome.plan);
  if (!reference) return;
  ReferencePass pass;
  const std::vector<double> exact = reference->logits(tokens, &pass);
  if (!(pass.largest < kLargest)) return;
  const size_t vocab = exact.size() / tokens.size();
  std::vector<double> allowed;
  for (size_t t = 0; t < tokens.size(); ++t) {
    double largest = 0, off = 0;
    size_t at = 0;
    for (size_t i = t * vocab; i < (t + 1) * vocab; ++i) {
      largest = std::max(largest, std::abs(exact[i]));
      const double d = std::abs(static_cast<double>(outcome.logits[i]) - exact[i]);
      if (!(d <= off)) off = d, at = i;
    }
    if (off <= kClose * largest) continue;
    if (allowed.empty()) allowed = reference->allowed_error(tokens, exact);
    // From here on rounding decides: later tokens see this one.
    if (!(allowed[t] < largest)) return;
    if (off <= allowed[t]) continue;
    fail(std::string(session_mode_name(params.mode)) + " in " + dtype_name(params.weight_dtype) + " on " +
         cpu_level_name(params.max_cpu) + " is off: token " + std::to_string(t) + ", logit " +
         std::to_string(at % vocab) + " is " + std::to_string(outcome.logits[at]) + ", exact " +
         std::to_string(exact[at]) + " +- " + std::to_string(allowed[t]));
  }
}

}  // namespace

void check_sessions(const NwcFile& file, const DecodeTables& tables, uint64_t choice) {
  uint64_t elements = 0;
  for (const TensorRecord& t : file.tensors()) elements += t.num_elements();
  if (!file.model() || elements > kMaxElements || file.model()->num_layers > 4) return;
  Random random(choice);
  const std::vector<CpuLevel>& levels = cpu_levels();
  SessionParams params;
  params.max_cpu = levels[random.below(levels.size())];
  constexpr Dtype kTypes[] = {Dtype::kF32, Dtype::kF32, Dtype::kF16, Dtype::kBf16};
  params.weight_dtype = kTypes[random.below(std::size(kTypes))];
  params.kv_dtype = params.weight_dtype == Dtype::kF32 ? Dtype::kF32 : Dtype::kF16;
  params.context = std::min(file.model()->max_positions, kTokens);
  params.batch = 1 + static_cast<uint32_t>(random.below(4));
  params.num_threads = 1;
  std::vector<uint32_t> tokens(params.context);
  for (uint32_t& t : tokens) t = static_cast<uint32_t>(random.below(file.model()->vocab_size));
  const uint32_t split = random.one_in(3) ? 3 : 1;

  params.mode = SessionMode::kResident;
  const Outcome resident = run(file, params, tokens, split);
  params.mode = SessionMode::kStreamed;
  const Outcome streamed = run(file, params, tokens, split);
  if (!resident.status.ok()) return;  // a damaged row of an embedding may hurt only who decodes all of it
  require_same(resident, streamed, "streamed");

  params.mode = SessionMode::kCached;
  const auto plan = plan_session(file, params);
  require(plan.ok(), "a plan without a budget");
  params.memory_budget_bytes = std::max(plan->needed_streamed, (plan->needed_streamed + plan->needed_resident) / 2);
  require_same(resident, run(file, params, tokens, split), "cached");
  params.memory_budget_bytes = 0;

  params.mode = SessionMode::kFused;
  const Outcome fused = run(file, params, tokens, 1);
  if (!fused.status.ok()) fail("fused fails where resident does not: " + fused.status.message());
  check_against_reference(file, tables, params, tokens, fused);
  if (split == 1 && random.one_in(4)) {
    params.mode = SessionMode::kResident;
    check_against_reference(file, tables, params, tokens, resident);
  }
  // Several tokens at once are decoded for, as in the other modes.
  if (split != 1 && params.batch >= split && tokens.size() % split == 0) {
    params.mode = SessionMode::kFused;
    require_same(resident, run(file, params, tokens, split), "fused, with several tokens at once,");
  }
}

}  // namespace nwc::fuzz
