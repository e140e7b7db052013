#include "host-tools/cost_text.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "host-tools/cli.h"

namespace nwc::cli {

std::string format_seconds(double s) {
  if (s < 1) return fmt::format("{:.3g} ms", 1e3 * s);
  if (s < 120) return fmt::format("{:.3g} s", s);
  if (s < 7200) return fmt::format("{:.3g} min", s / 60);
  return fmt::format("{:.3g} h", s / 3600);
}

std::string format_weight_rate(double rate) {
  return rate >= 1e8 ? fmt::format("{:.3g} Gweight/s", 1e-9 * rate) : fmt::format("{:.3g} Mweight/s", 1e-6 * rate);
}

nlohmann::json estimate_json(const nwc_session_estimate& e) {
  return {{"mac_per_weight", e.mac_per_weight},
          {"decode_weights_per_second", e.decode_weights_per_second},
          {"fused_weights_per_second", e.fused_weights_per_second},
          {"memory_bytes_per_second", e.memory_bytes_per_second},
          {"resident_weights", e.resident_weights},
          {"weights_per_token", e.weights_per_token},
          {"load_seconds", e.load_seconds},
          {"decode_seconds_per_token", e.decode_seconds_per_token},
          {"multiply_seconds_per_token", e.multiply_seconds_per_token},
          {"expert_hits", e.expert_hits},
          {"read_bytes_per_second", e.read_bytes_per_second},
          {"read_bytes_per_token", e.read_bytes_per_token},
          {"read_seconds_per_token", e.read_seconds_per_token},
          {"seconds_per_token", e.seconds_per_token}};
}

std::string estimate_text(const nwc_session_estimate& e) {
  std::string experts;
  if (e.expert_hits < 1) {
    experts = fmt::format("  experts: {:.0f} % expected in memory, {} a token read for the others", 100 * e.expert_hits,
                          format_bytes(e.read_bytes_per_token));
    if (e.read_bytes_per_second > 0)
      experts += fmt::format(", in {} at {}/s", format_seconds(e.read_seconds_per_token),
                             format_bytes(static_cast<uint64_t>(e.read_bytes_per_second)));
    experts += "\n";
  }
  return fmt::format(
             "  expected: {} to decode what stays; {} per token, of which {} for decoding {} weights and {} for "
             "products\n"
             "  measured: {} decoded ({:.0f} multiply-accumulates per weight), {}/s of decoded weights multiplied\n",
             format_seconds(e.load_seconds), format_seconds(e.seconds_per_token),
             format_seconds(e.decode_seconds_per_token), format_count(e.weights_per_token),
             format_seconds(e.multiply_seconds_per_token), format_weight_rate(e.decode_weights_per_second),
             e.mac_per_weight, format_bytes(static_cast<uint64_t>(e.memory_bytes_per_second))) +
         experts;
}

bool is_slow(const nwc_session_estimate& e, double seconds) {
  return e.seconds_per_token > seconds || e.load_seconds > 30 * seconds;
}

std::string slow_warning(const nwc_session_estimate& e, const std::string& mode, const nwc_session_plan* resident_plan,
                         const nwc_session_estimate* resident) {
  std::string text = fmt::format("mode {} is expected to take ", mode);
  if (e.load_seconds > 1) text += fmt::format("{} to load and ", format_seconds(e.load_seconds));
  text += fmt::format("{} per token: {} weights are decoded at {}, {:.0f} multiply-accumulates each; instead, ",
                      format_seconds(e.seconds_per_token), format_count(e.resident_weights + e.weights_per_token),
                      format_weight_rate(e.decode_weights_per_second), e.mac_per_weight);
  if (e.weights_per_token != 0 && resident != nullptr)
    text += fmt::format("use --mode resident ({} to load, {} per token, {}), ", format_seconds(resident->load_seconds),
                        format_seconds(resident->seconds_per_token), format_bytes(resident_plan->total_bytes));
  else if (e.weights_per_token != 0)
    text += "give it memory for --mode resident, ";
  return text + "choose a faster device with --backend and --device, or compress with a cheaper codec (the default)";
}

}  // namespace nwc::cli
