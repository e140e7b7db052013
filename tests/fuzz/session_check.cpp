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
/// Sessions that are closer than this, by the size of the logits, need no look at the reference.
double close_enough(Dtype weights) { return weights == Dtype::kF32 ? 1e-5 : weights == Dtype::kF16 ? 5e-3 : 3e-2; }
constexpr double kLargest = 1e30;  // nothing is promised nearer to the end of f32's range

Runner& runner() {
  static const std::unique_ptr<Runner> one = make_thread_pool(1);
  return *one;
}

struct Outcome {
  Status status;
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

bool all_close(const std::vector<float>& a, const std::vector<float>& b, double ratio) {
  double most = 0, off = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    most = std::max(most, std::abs(static_cast<double>(a[i])));
    const double d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(d <= off)) off = d;
  }
  return off <= ratio * most;
}

void check_against_reference(const LlamaReference& reference, const SessionParams& params,
                             const std::vector<uint32_t>& tokens, const std::vector<float>& resident,
                             const std::vector<float>& fused) {
  ReferencePass pass{.weights = held_as(params.weight_dtype), .cache = held_as(params.kv_dtype)};
  const std::vector<double> exact = reference.logits(tokens, &pass);
  if (!(pass.largest < kLargest) || !pass.fits) return;
  const std::vector<double> allowed = reference.allowed_error(tokens, exact, pass);
  const size_t vocab = exact.size() / tokens.size();
  for (size_t t = 0; t < tokens.size(); ++t) {
    double largest = 0;
    for (size_t v = 0; v < vocab; ++v) largest = std::max(largest, std::abs(exact[t * vocab + v]));
    // From here on rounding decides: later tokens see this one.
    if (!(allowed[t] < largest)) return;
    for (size_t v = 0; v < vocab; ++v) {
      const size_t i = t * vocab + v;
      const auto off = [&](float x) { return !(std::abs(static_cast<double>(x) - exact[i]) <= allowed[t]); };
      if (!off(resident[i]) && !off(fused[i])) continue;
      fail(std::string(off(fused[i]) ? "fused" : "resident") + " is off: token " + std::to_string(t) + ", logit " +
           std::to_string(v) + ": exact " + std::to_string(exact[i]) + " +- " + std::to_string(allowed[t]) +
           ", resident " + std::to_string(resident[i]) + ", fused " + std::to_string(fused[i]));
    }
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
  const Outcome fused = run(file, params, tokens, split);
  if (!fused.status.ok()) fail("fused fails where resident does not: " + fused.status.message());
  if (all_close(resident.logits, fused.logits, close_enough(params.weight_dtype)) && !random.one_in(16)) return;
  if (const auto reference = LlamaReference::create(file, tables))
    check_against_reference(*reference, params, tokens, resident.logits, fused.logits);
}

}  // namespace nwc::fuzz
