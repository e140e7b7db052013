#include "runtime/decoder/decoder_vulkan_self_test.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "runtime/base/half.h"
#include "runtime/codec/synthesis.h"
#include "runtime/decoder/decoder_vulkan_known_tile.h"

namespace nwc {
namespace {

constexpr uint32_t kFirstRow = 3, kEndRow = 29;  // not aligned to row blocks, so that both ends are cut

float known_scale(uint32_t column) { return column % 5 == 0 ? 0.0f : 0.25f + static_cast<float>(column); }
float known_row_scale(uint32_t row) { return 0.5f + 0.125f * static_cast<float>(row); }

Status wrong(const std::string& what) { return Status(StatusCode::kNoDevice, "Vulkan self-test: " + what); }

}  // namespace

std::vector<AliasTable> VulkanSelfTest::known_tables() { return build_decode_tables(known_codec()).alias; }

VulkanSelfTest::VulkanSelfTest(VulkanKernels& kernels, const CodecRecord& codec, uint32_t num_codec_tables,
                               const Logger& log, uint32_t quarantine_mask)
    : kernels_(kernels), codec_(codec), log_(log), quarantine_mask_(quarantine_mask) {
  window_.coded.level = known_levels();
  window_.contexts = build_contexts(build_decode_tables(known_codec()), window_.coded.level);
  for (size_t i = 0; i < window_.contexts.global.size(); i += 2) {
    window_.contexts.global[i] += num_codec_tables * kBuckets;
  }
  for (uint32_t& table : window_.contexts.used) table += num_codec_tables;
  for (uint32_t column = 0; column < kKnownCols; ++column) {
    window_.coded.scale.push_back(known_scale(column));
    window_.synthesis_levels.push_back(static_cast<uint8_t>(column * 7 % codec.num_levels));
  }
  for (uint32_t row = 0; row < kKnownRows; ++row) window_.coded.row_scale.push_back(known_row_scale(row));
  window_.coded.tiles = {{0, static_cast<uint32_t>(known_payload().size()), 0}};
  const TileGrid grid = known_grid();
  window_.layout = layout_window(grid, window_.coded, {0, 1, 0, 1}, window_.contexts.global,
                                 static_cast<uint32_t>(window_.contexts.used.size()));
  // Levels of the codec under test for its network; those above belong to the known tile's tables.
  window_.synthesis_level_at = static_cast<uint32_t>(window_.layout.total_words);
  window_.layout.total_words += ceil_div(kKnownCols, 4);
}

WindowRun VulkanSelfTest::make_run(const RansVariant& variant) const {
  WindowRun run;
  run.layout = &window_.layout;
  run.variant = variant;
  run.num_used = static_cast<uint32_t>(window_.contexts.used.size());
  run.any_raw_bits = window_.contexts.any_raw_bits;
  run.values_only = true;
  run.synthesis_level_at = window_.synthesis_level_at;
  return run;
}

Status VulkanSelfTest::run(const WindowRun& run) {
  NWC_ASSIGN_OR_RETURN(const MutableBytes input, kernels_.prepare(run));
  const std::vector<uint32_t>& contexts =
      run.variant.shared_tables != 0 ? window_.contexts.compact : window_.contexts.global;
  pack_head(window_.coded, window_.layout, contexts, window_.contexts.used, input);
  const Bytes payload = known_payload();
  pack_tile_record(window_.layout, 0, known_grid().tile(0), static_cast<uint32_t>(payload.size()), input);
  std::memcpy(input.data() + size_t{window_.layout.payload_at[0]} * 4, payload.data(), payload.size());
  std::memcpy(input.data() + size_t{window_.synthesis_level_at} * 4, window_.synthesis_levels.data(), kKnownCols);
  return kernels_.run(run);
}

Status VulkanSelfTest::check_variant(const RansVariant& variant) {
  NWC_TRY(run(make_run(variant)));
  if (kernels_.tile_status()[0] != 0) {
    return wrong("rANS kernel reports status " + std::to_string(kernels_.tile_status()[0]) + " for the known tile");
  }
  const std::vector<int16_t> expected = known_values();
  const Bytes got = kernels_.result();
  if (got.size() != expected.size() * 2 || std::memcmp(got.data(), expected.data(), got.size()) != 0) {
    return wrong("rANS kernel decodes the known tile to wrong values");
  }
  return {};
}

bool VulkanSelfTest::works(const RansVariant& variant) {
  const auto found = known_.find(variant);
  if (found != known_.end()) return found->second;
  Status status = check_variant(variant);
  if (status.ok() && (quarantine_mask_ >> (variant.ballot ? 0 : 1) & 1u) != 0) {
    status = wrong("rANS kernel is quarantined by request");
  }
  if (!status.ok()) {
    log_.log(LogLevel::kWarning, "quarantined Vulkan kernel (" + variant.name() + "): " + status.message());
  }
  known_.emplace(variant, status.ok());
  return status.ok();
}

Status VulkanSelfTest::check_synthesis(const RansVariant& variant) {
  WindowRun weights_run = make_run(variant);
  weights_run.values_only = false;
  weights_run.row_begin = kFirstRow;
  weights_run.row_end = kEndRow;
  NWC_TRY(run(weights_run));
  const std::vector<int16_t> values = known_values();
  const size_t chunks = values.size() / kChunk;
  std::vector<uint8_t> levels;
  for (size_t i = 0; i < chunks; ++i) levels.push_back(window_.synthesis_levels[i % kKnownCols]);
  std::vector<float> y(values.size());
  synthesize_chunks(CpuLevel::kScalar, codec_, values, levels.data(), y);

  for (uint32_t row = kFirstRow; row < kEndRow; ++row) {
    for (uint32_t column = 0; column < kKnownCols; ++column) {
      const float* chunk = y.data() + size_t{row / kChunk * kKnownCols + column} * kChunk;
      const float most =
          *std::max_element(chunk, chunk + kChunk, [](float a, float b) { return std::fabs(a) < std::fabs(b); });
      const float scale = known_scale(column) * known_row_scale(row);
      const float expected = chunk[row % kChunk] * scale;
      const size_t at = size_t{row - kFirstRow} * kKnownCols + column;
      const float got = load_le<float>(kernels_.result().data() + at * 4);
      // A network that overflows on these values says nothing.
      if (!std::isfinite(most) || !std::isfinite(expected)) continue;
      if (!(std::fabs(got - expected) <= 0x1p-14f * scale * (1 + std::fabs(most)))) {
        return wrong("synthesis gives " + std::to_string(got) + " where the CPU gives " + std::to_string(expected));
      }
    }
  }
  return {};
}

Status VulkanSelfTest::check_conversion() {
  // Around every boundary: zero, half's subnormals and their ties, its largest number, infinities, NaN.
  std::vector<uint32_t> bits;
  for (const uint32_t exponent :
       {0u, 1u, 100u, 101u, 102u, 103u, 107u, 112u, 113u, 127u, 141u, 142u, 143u, 254u, 255u}) {
    for (const uint32_t mantissa : {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x2fffu, 0x3000u, 0x7fffu, 0x8000u, 0x18000u,
                                    0x400000u, 0x7fe000u, 0x7ff000u, 0x7fffffu}) {
      bits.push_back(exponent << 23 | mantissa);
      bits.push_back(0x80000000u | exponent << 23 | mantissa);
    }
  }
  bits.push_back(std::bit_cast<uint32_t>(1.0f));  // an odd number of them
  for (const Dtype dtype : {Dtype::kF16, Dtype::kBf16}) {
    NWC_ASSIGN_OR_RETURN(const std::vector<uint16_t> halves, kernels_.convert(bits, dtype));
    for (size_t i = 0; i < bits.size(); ++i) {
      const float f = std::bit_cast<float>(bits[i]);
      const uint16_t expected = dtype == Dtype::kF16 ? f32_to_f16(f) : f32_to_bf16(f);
      if (halves[i] != expected) {
        return wrong(std::string("conversion to ") + dtype_name(dtype) + " gives " + std::to_string(halves[i]) +
                     " for bits " + std::to_string(bits[i]) + ", " + std::to_string(expected) + " is right");
      }
    }
  }
  return {};
}

}  // namespace nwc
