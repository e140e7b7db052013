#include "runtime/engine/expert_rate.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "runtime/engine/expert_schedule.h"
#include "runtime/engine/file_layout.h"

namespace nwc {
namespace {

constexpr double kExponent = 0.15;
constexpr double kEnoughSeconds = 0.1;
constexpr uint32_t kMostExperts = 64, kAtOnce = 8;

uint64_t size_of(const std::vector<ExpertReads::Piece>& pieces) {
  uint64_t size = 0;
  for (const ExpertReads::Piece& piece : pieces) size += piece.size;
  return size;
}

}  // namespace

double expected_expert_hits(double share, uint32_t experts_in_layer) {
  share = std::clamp(share, 0.0, 1.0);
  return experts_in_layer >= kLocalExperts ? std::pow(share, kExponent) : share;
}

Result<double> measure_expert_read_rate(const NwcFile& file, const MemoryPlan& plan) {
  if (plan.experts_read_ahead == 0) return 0.0;
  NWC_ASSIGN_OR_RETURN(const ModelLayout layout, resolve_file_layout(file));
  // Experts from all over the file, because a disk's own read-ahead would serve neighbours.
  std::vector<std::vector<ExpertReads::Piece>> experts;
  uint64_t largest = 0;
  const uint64_t all = layout.num_experts(), wanted = std::min<uint64_t>(all, kMostExperts);
  uint64_t before = 0;
  for (const LayerLayout& layer : layout.layers) {
    for (uint32_t e = 0; e < layer.num_experts(); ++e) {
      if ((before + e) * wanted / all == experts.size()) stored_pieces(file, layer, e, &experts.emplace_back());
      if (!experts.empty()) largest = std::max(largest, size_of(experts.back()));
    }
    before += layer.num_experts();
  }
  for (const auto& pieces : experts) {
    for (const ExpertReads::Piece& piece : pieces) file.reader().forget(piece.offset, piece.size);
  }
  HostMemory memory;
  ExpertReads reads(file.reader());
  NWC_TRY(reads.start(std::min(plan.experts_read_ahead, kAtOnce), largest, &memory));
  const ExpertReads::Running running(&reads);
  const auto start = std::chrono::steady_clock::now();
  double seconds = 0;
  uint64_t bytes = 0;
  std::vector<uint64_t> asked;
  std::vector<size_t> read;
  for (uint64_t next = 0; seconds < kEnoughSeconds;) {
    while (next < experts.size() && reads.need(next, experts[next])) asked.push_back(next++);
    if (asked.empty()) break;
    NWC_TRY(reads.wait(asked, &read));
    for (const size_t i : read) {
      bytes += size_of(experts[asked[i]]);
      reads.release(asked[i]);
    }
    for (size_t i = read.size(); i > 0; --i) asked.erase(asked.begin() + static_cast<std::ptrdiff_t>(read[i - 1]));
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  return seconds > 0 ? static_cast<double>(bytes) / seconds : 0;
}

}  // namespace nwc
