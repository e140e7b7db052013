#include "host-tools/run_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "host-tools/cli.h"
#include "host-tools/cost_text.h"

namespace nwc::cli {
namespace {

const char* choice_name(nwc_weight_choice choice) {
  static const char* const kChoices[] = {"asked", "no_integers", "on_device", "smaller", "not_measured", "faster"};
  return kChoices[std::min<uint32_t>(choice, NWC_WEIGHT_CHOICE_FASTER)];
}

/// What the forms of the weights come to, and why one is taken: a line, or none.
std::string forms_text(const nwc_session_plan& plan) {
  if (plan.q8_weight_bytes == 0) return {};
  static const char* const kReasons[] = {
      "as asked for", "", "as devices do", "as q8 does not fit into memory", "as nothing could be measured",
      "as measured"};
  std::string text =
      fmt::format("  all matrices as f16 {}, q8 {}, packed {}: {}, {}", format_bytes(plan.f16_weight_bytes),
                  format_bytes(plan.q8_weight_bytes), format_bytes(plan.packed_weight_bytes),
                  nwc_session_precision_string(plan.weight_precision),
                  kReasons[std::min<uint32_t>(plan.weight_choice, NWC_WEIGHT_CHOICE_FASTER)]);
  if (plan.q8_weights_per_second > 0)
    text += fmt::format(" (q8 {}, packed {})", format_weight_rate(plan.q8_weights_per_second),
                        format_weight_rate(plan.packed_weights_per_second));
  return text + "\n";
}

}  // namespace

const char* mode_name(nwc_weight_mode mode) {
  static const char* const kModes[] = {"auto", "resident", "streamed", "cached", "fused"};
  return kModes[std::min<uint32_t>(mode, NWC_WEIGHTS_FUSED)];
}

nlohmann::json plan_json(const nwc_session_plan& plan) {
  return {{"mode", mode_name(plan.mode)},
          {"context", plan.context},
          {"batch", plan.batch},
          {"resident_layers", plan.num_resident_layers},
          {"experts", plan.num_experts},
          {"expert_slots", plan.num_expert_slots},
          {"weights", nwc_session_precision_string(plan.weight_precision)},
          {"weights_requantized", plan.weights_requantized != 0},
          {"weight_choice", choice_name(plan.weight_choice)},
          {"f16_weight_bytes", plan.f16_weight_bytes},
          {"q8_weight_bytes", plan.q8_weight_bytes},
          {"packed_weight_bytes", plan.packed_weight_bytes},
          {"q8_weights_per_second", plan.q8_weights_per_second},
          {"packed_weights_per_second", plan.packed_weights_per_second},
          {"weight_bytes", plan.weight_bytes},
          {"stream_buffer_bytes", plan.stream_buffer_bytes},
          {"kv_cache_bytes", plan.kv_cache_bytes},
          {"activation_bytes", plan.activation_bytes},
          {"decoder_bytes", plan.decoder_bytes},
          {"total_bytes", plan.total_bytes},
          {"needed_resident_bytes", plan.needed_resident_bytes},
          {"needed_streamed_bytes", plan.needed_streamed_bytes},
          {"needed_fused_bytes", plan.needed_fused_bytes}};
}

void print_plan(FILE* out, const nwc_session_plan& plan) {
  fmt::print(out, "memory plan: {} mode, {} of {} layers resident as {}{}, context {}\n", mode_name(plan.mode),
             plan.num_resident_layers, plan.num_layers, nwc_session_precision_string(plan.weight_precision),
             plan.weights_requantized != 0 ? " (requantized)" : "", plan.context);
  if (plan.num_experts != 0)
    fmt::print(out, "  {} of {} experts are kept decoded\n", plan.num_expert_slots, plan.num_experts);
  fmt::print(out, "  weights {}, stream buffers {}, KV cache {}, activations {}, decoder {}: {} in total\n",
             format_bytes(plan.weight_bytes), format_bytes(plan.stream_buffer_bytes), format_bytes(plan.kv_cache_bytes),
             format_bytes(plan.activation_bytes), format_bytes(plan.decoder_bytes), format_bytes(plan.total_bytes));
  fmt::print(out, "{}", forms_text(plan));
  fmt::print(out, "  resident would need {}, streamed at least {}, fused {}\n",
             format_bytes(plan.needed_resident_bytes), format_bytes(plan.needed_streamed_bytes),
             format_bytes(plan.needed_fused_bytes));
}

void print_speed(const nwc_session* session, const nwc_session_plan& plan, size_t tokens, double seconds) {
  fmt::print(stderr, "\n{} tokens at {:.1f} tokens/s, {} mode, {}, {} of memory planned\n", tokens,
             seconds > 0 ? static_cast<double>(tokens) / seconds : 0, mode_name(plan.mode), nwc_session_name(session),
             format_bytes(plan.total_bytes));
  nwc_expert_stats experts;
  nwc_expert_stats_init(&experts);
  if (plan.num_experts == 0 || nwc_session_get_expert_stats(session, &experts) != NWC_STATUS_OK) return;
  const uint64_t needed = experts.hits + experts.misses;
  fmt::print(stderr,
             "experts: {:.1f} % of {} lay in memory, {} read for the others and decoded in {:.2f} s, {:.2f} s "
             "of that waiting for the disk\n",
             needed != 0 ? 100.0 * static_cast<double>(experts.hits) / static_cast<double>(needed) : 0, needed,
             format_bytes(experts.bytes_read), experts.stall_seconds, experts.read_seconds);
}

nlohmann::json experts_json(const nwc_session* session) {
  nwc_expert_stats experts;
  nwc_expert_stats_init(&experts);
  if (nwc_session_get_expert_stats(session, &experts) != NWC_STATUS_OK) return nullptr;
  return {{"hits", experts.hits},
          {"misses", experts.misses},
          {"bytes_read", experts.bytes_read},
          {"stall_seconds", experts.stall_seconds},
          {"read_seconds", experts.read_seconds},
          {"predicted", experts.predicted},
          {"predicted_used", experts.predicted_used}};
}

}  // namespace nwc::cli
