#include "runtime/decoder/vulkan/kernel_self_test.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "runtime/base/half.h"
#include "runtime/base/str_cat.h"
#include "runtime/codec/synthesis.h"
#include "runtime/decoder/vulkan/network_synthesis.h"

namespace nwc {
namespace {

constexpr uint32_t kFirstRow = 3, kEndRow = 29;  // not aligned to row blocks, so that both ends are cut

float known_scale(uint32_t column) { return column % 5 == 0 ? 0.0f : 0.25f + static_cast<float>(column); }
float known_row_scale(uint32_t row) { return 0.5f + 0.125f * static_cast<float>(row); }
float known_x(uint32_t v, uint32_t column) { return static_cast<float>((column * 5 + v * 3) % 7) - 2.5f; }

Status wrong(const std::string& what) { return Status(StatusCode::kNoDevice, str_cat("Vulkan self-test: ", what)); }

}  // namespace

std::vector<AliasTable> VulkanSelfTest::extra_tables() {
  std::vector<AliasTable> tables;
  for (const FrequencyTable& t : known_tables()) tables.push_back(build_alias_table(t.freq));
  return tables;
}

VulkanSelfTest::VulkanSelfTest(VulkanKernels& kernels, WindowSlot& slot, VulkanDevice& device, const CodecRecord& codec,
                               uint32_t num_codec_tables, const VulkanOptions& options, const Logger& log)
    : kernels_(kernels),
      slot_(slot),
      device_(device),
      codec_(codec),
      forced_(options.variant),
      quarantine_mask_(options.quarantine_mask),
      log_(log),
      scalar_(make_window(scalar_known_tile(), num_codec_tables)),
      trellis_(make_window(trellis_known_tile(), num_codec_tables)) {}

VulkanSelfTest::Window VulkanSelfTest::make_window(KnownTile tile, uint32_t num_codec_tables) const {
  Window w;
  w.tile = std::move(tile);
  w.coded.level = w.tile.level;
  w.coded.row_class = w.tile.row_class;
  // The skip weights of the codec under test, at levels that the known tile's tables have, too.
  CodecRecord& codec = w.tile.codec;
  codec.synthesis.skip_weight = codec_.synthesis.skip_weight;
  for (uint32_t level = 0; level < codec.num_levels; ++level) {
    codec.step[level] = 0.5f + 0.375f * static_cast<float>(level);
    codec.shrink[level] = 0.125f * static_cast<float>(level);
  }
  w.contexts = build_contexts(build_decode_tables(codec), w.coded, linear_numbers(codec));
  for (size_t i = 0; i < w.contexts.global.size(); i += 2) w.contexts.global[i] += num_codec_tables * kBuckets;
  for (uint32_t& table : w.contexts.used) table += num_codec_tables;
  for (uint32_t column = 0; column < kKnownCols; ++column) {
    w.coded.scale.push_back(known_scale(column));
    w.synthesis_levels.push_back(static_cast<uint8_t>(column * 7 % codec_.num_levels));
  }
  for (uint32_t row = 0; row < w.tile.grid.m; ++row) w.coded.row_scale.push_back(known_row_scale(row));
  w.coded.tiles = {{0, static_cast<uint32_t>(w.tile.payload.size()), 0}};
  w.layout = layout_window(w.tile.grid, w.coded, {0, 1, 0, 1}, w.contexts);
  // Levels of the codec under test for its network; those above belong to the known tile's tables.
  w.synthesis_level_at = static_cast<uint32_t>(w.layout.total_words);
  w.layout.total_words += ceil_div(kKnownCols, 4);
  return w;
}

WindowRun VulkanSelfTest::make_run(const Window& window, const RansVariant& variant) {
  WindowRun run;
  run.layout = &window.layout;
  run.contexts = &window.contexts;
  run.variant = variant;
  run.path.rans = variant.consumer;
  run.path.values_only = true;
  run.synthesis_level_at = window.synthesis_level_at;
  return run;
}

WindowRun VulkanSelfTest::make_weights_run(const Window& window, const RansVariant& variant, bool network,
                                           Dtype dtype) {
  WindowRun run = make_run(window, variant);
  run.path.values_only = false;
  run.path.network = network;
  run.path.dtype = dtype;
  run.row_begin = kFirstRow;
  run.row_end = kEndRow;
  return run;
}

void VulkanSelfTest::pack(const Window& w, const RansVariant& variant, MutableBytes input) const {
  pack_head(w.coded, w.layout, w.contexts, variant.shared_tables != 0, input);
  const Bytes payload = w.tile.payload;
  pack_tile_record(w.layout, 0, w.tile.grid.tile(0), static_cast<uint32_t>(payload.size()), input);
  std::memcpy(input.data() + size_t{w.layout.payload_at[0]} * 4, payload.data(), payload.size());
  std::memcpy(input.data() + size_t{w.synthesis_level_at} * 4, w.synthesis_levels.data(), kKnownCols);
}

Status VulkanSelfTest::run(const Window& w, WindowRun* run) {
  const std::span<WindowRun> runs(run, 1);
  NWC_TRY(slot_.prepare(runs));
  pack(w, run->variant, slot_.input(*run));
  NWC_TRY(kernels_.submit(slot_, runs));
  return slot_.wait();
}

Status VulkanSelfTest::check_variant(const Window& window, const RansVariant& variant) {
  if (variant.consumer == Consumer::kProduct) return check_product(window, variant);
  const bool values = variant.consumer == Consumer::kValues, nothing = variant.consumer == Consumer::kNothing;
  const Dtype dtype = variant.consumer == Consumer::kF16    ? Dtype::kF16
                      : variant.consumer == Consumer::kBf16 ? Dtype::kBf16
                                                            : Dtype::kF32;
  WindowRun test = values || nothing ? make_run(window, variant) : make_weights_run(window, variant, false, dtype);
  test.path.direct = nothing;
  NWC_TRY(run(window, &test));
  if (const uint32_t status = slot_.tile_status(test)[0]; status != 0) {
    return wrong(str_cat("rANS kernel reports status ", status, " for the known tile"));
  }
  if (nothing) return {};
  if (!values) return check_weights(window, test, window.tile.codec, window.tile.level);
  const std::vector<int16_t>& expected = window.tile.values;
  const Bytes got = slot_.result(test);
  if (got.size() != expected.size() * 2 || std::memcmp(got.data(), expected.data(), got.size()) != 0) {
    return wrong("rANS kernel decodes the known tile to wrong values");
  }
  return {};
}

Status VulkanSelfTest::check_product(const Window& w, const RansVariant& variant) {
  // One vector less than the kernel has room for, in memory that the host sees.
  ProductRun run{.vectors = std::max(1u, variant.batch - 1), .row_begin = kFirstRow, .row_end = kEndRow};
  for (uint32_t i = 0; i < run.vectors * kKnownCols; ++i) run.x.push_back(known_x(i / kKnownCols, i % kKnownCols));
  NWC_ASSIGN_OR_RETURN(const DeviceBuffer input,
                       DeviceBuffer::create(device_, w.layout.total_words * 4, MemoryKind::kUpload));
  NWC_ASSIGN_OR_RETURN(const DeviceBuffer x,
                       DeviceBuffer::create(device_, run.x.size() * sizeof(float), MemoryKind::kUpload));
  NWC_ASSIGN_OR_RETURN(run.partials, partials_for(run));
  pack(w, variant, input.mapped());
  std::memcpy(x.mapped().data(), run.x.data(), run.x.size() * sizeof(float));
  for (const DeviceBuffer* buffer : {&input, &x}) NWC_TRY(buffer->flush());
  RansPush push = VulkanKernels::rans_push(w.layout, w.contexts);
  push.row_begin = run.row_begin;
  push.row_end = run.row_end;
  push.x_stride = kKnownCols;
  push.num_vectors = run.vectors;
  push.tile_cols = w.tile.grid.tile_cols;
  CommandBatch& batch = slot_.batch();
  NWC_TRY(batch.begin());
  NWC_TRY(batch.dispatch(kernels_.rans_pipeline(variant), {&kernels_.tables(), &input, &x, &run.partials}, push,
                         kernels_.rans_groups(variant, 1)));
  return check_sums(w, run, input, w.tile.codec, w.tile.level);
}

Status VulkanSelfTest::check_network_product(NetworkSynthesis& network) {
  if (known_network_product_) return {};
  const Window& w = scalar_;
  ProductRun run{.vectors = 3, .row_begin = 0, .row_end = kEndRow};
  run.bands = static_cast<uint32_t>(network.product_bands(w.tile.grid));
  // Escaped values are so large that nothing else would count. The last vector leaves their columns out.
  std::vector<uint8_t> escapes(kKnownCols);
  for (size_t i = 0; i < w.tile.values.size(); ++i) {
    if (std::abs(w.tile.values[i]) > 64) escapes[i / kChunk % kKnownCols] = 1;
  }
  for (uint32_t i = 0; i < run.vectors * kKnownCols; ++i) {
    const uint32_t v = i / kKnownCols, column = i % kKnownCols;
    run.x.push_back(v == 2 && escapes[column] != 0 ? 0.0f : known_x(v, column));
  }
  // x, the tile's status, values.
  NetworkPush push;
  push.level_at = w.synthesis_level_at;
  push.scale_at = w.layout.scale_at;
  push.width = kKnownCols;
  push.num_levels = codec_.num_levels;
  push.status_at = static_cast<uint32_t>(run.x.size());
  push.values_at = push.status_at + 1;
  push.tile_cols = w.tile.grid.tile_cols;
  push.tile_blocks = w.layout.blocks;
  push.num_vectors = run.vectors;
  push.num_rows = run.row_end;
  const size_t value_bytes = w.tile.values.size() * sizeof(int16_t);
  NWC_ASSIGN_OR_RETURN(const DeviceBuffer input,
                       DeviceBuffer::create(device_, w.layout.total_words * 4, MemoryKind::kUpload));
  NWC_ASSIGN_OR_RETURN(const DeviceBuffer values,
                       DeviceBuffer::create(device_, push.values_at * 4 + value_bytes, MemoryKind::kUpload));
  NWC_ASSIGN_OR_RETURN(run.partials, partials_for(run));
  pack(w, {}, input.mapped());
  uint8_t* to = values.mapped().data();
  std::memcpy(to, run.x.data(), run.x.size() * sizeof(float));
  store_le(to + push.status_at * 4, static_cast<uint32_t>(TileStatus::kOk));
  std::memcpy(to + push.values_at * 4, w.tile.values.data(), value_bytes);
  for (const DeviceBuffer* buffer : {&input, &values}) NWC_TRY(buffer->flush());
  CommandBatch& batch = slot_.batch();
  NWC_TRY(batch.begin());
  NWC_TRY(network.dispatch_product(batch, &input, &values, &run.partials, push, w.layout.blocks));
  NWC_TRY(check_sums(w, run, input, codec_, w.synthesis_levels).with_context("network"));
  known_network_product_ = true;
  return {};
}

Result<DeviceBuffer> VulkanSelfTest::partials_for(const ProductRun& run) const {
  const uint64_t numbers = uint64_t{run.bands} * run.vectors * (run.row_end - run.row_begin);
  NWC_ASSIGN_OR_RETURN(DeviceBuffer partials,
                       DeviceBuffer::create(device_, numbers * sizeof(float), MemoryKind::kUpload));
  std::memset(partials.mapped().data(), 0xff, partials.mapped().size());  // NaN
  NWC_TRY(partials.flush());
  return partials;
}

Status VulkanSelfTest::check_sums(const Window& w, const ProductRun& run, const DeviceBuffer& input,
                                  const CodecRecord& codec, std::span<const uint8_t> column_levels) {
  const uint32_t rows = run.row_end - run.row_begin;
  NWC_ASSIGN_OR_RETURN(
      const DeviceBuffer sums,
      DeviceBuffer::create(device_, uint64_t{run.vectors} * rows * sizeof(float), MemoryKind::kReadback));
  const ReducePush reduction{.num_bands = run.bands,
                             .num_vectors = run.vectors,
                             .num_rows = rows,
                             .row_scale_at = w.layout.row_scale_at + run.row_begin,
                             .y_stride = rows};
  CommandBatch& batch = slot_.batch();
  batch.barrier();
  NWC_TRY(dispatch_reduce(batch, reduction, &run.partials, &input, &sums));
  batch.barrier();
  NWC_TRY(batch.submit_and_wait());
  NWC_TRY(sums.invalidate());

  const std::vector<int16_t>& values = w.tile.values;
  std::vector<uint8_t> levels;
  for (size_t i = 0; i < values.size() / kChunk; ++i) levels.push_back(column_levels[i % kKnownCols]);
  std::vector<float> y(values.size());
  synthesize_chunks(CpuLevel::kScalar, codec, values, levels.data(), y);
  for (uint32_t i = 0; i < run.vectors * rows; ++i) {
    const uint32_t row = run.row_begin + i % rows;
    double expected = 0, tolerance = 0;
    for (uint32_t column = 0; column < kKnownCols; ++column) {
      const float* chunk = y.data() + size_t{row / kChunk * kKnownCols + column} * kChunk;
      const double factor =
          static_cast<double>(run.x[i / rows * kKnownCols + column] * known_scale(column) * known_row_scale(row));
      if (factor == 0) continue;  // whatever the weight is
      double most = 0;
      for (uint32_t c = 0; c < kChunk; ++c) most = std::max(most, std::fabs(static_cast<double>(chunk[c])));
      expected += factor * static_cast<double>(chunk[row % kChunk]);
      tolerance += 0x1p-14 * std::fabs(factor) * (1 + most);
    }
    const double got = static_cast<double>(load_le<float>(sums.mapped().data() + i * sizeof(float)));
    if (std::isfinite(expected) && std::isfinite(tolerance) && !(std::fabs(got - expected) <= tolerance)) {
      return wrong(str_cat("product gives ", std::to_string(got), " where the CPU gives ", std::to_string(expected)));
    }
  }
  return {};
}

std::optional<RansVariant> VulkanSelfTest::choose(size_t used_tables, Consumer consumer, uint32_t batch) {
  // The kernel has room for the tables of the tiles that it has to prove itself on, too.
  used_tables = std::max({used_tables, scalar_.contexts.used.size(), trellis_.contexts.used.size()});
  for (const bool ballot : {true, false}) {
    if (ballot && (!device_.info().ballot || forced_ == VulkanOptions::Variant::kShared)) continue;
    if (!ballot && forced_ == VulkanOptions::Variant::kBallot) continue;
    const uint32_t shared = kernels_.shared_tables(used_tables, ballot);
    for (const bool storage16 : {true, false}) {
      if (storage16 && (!device_.info().storage16 || !is_half(consumer))) continue;
      for (const uint32_t tables : {shared, 0u}) {
        const RansVariant variant{ballot, storage16, tables, consumer, batch};
        if (works(variant)) return variant;
        if (tables == 0) break;
      }
    }
  }
  return std::nullopt;
}

bool VulkanSelfTest::works(const RansVariant& variant) {
  const auto found = known_.find(variant);
  if (found != known_.end()) return found->second;
  Status status = check_variant(scalar_, variant);
  if (status.ok()) status = check_variant(trellis_, variant).with_context("trellis");
  if (status.ok() && (quarantine_mask_ >> (variant.ballot ? 0 : 1) & 1u) != 0) {
    status = wrong("rANS kernel is quarantined by request");
  }
  known_[variant] = true;
  if (!status.ok()) quarantine(variant, status.message());
  return status.ok();
}

void VulkanSelfTest::quarantine(const RansVariant& variant, const std::string& why) {
  log_.log(LogLevel::kWarning, str_cat("quarantined Vulkan kernel (", variant.name(), "): ", why));
  known_[variant] = false;
}

Status VulkanSelfTest::check_network(const RansVariant& variant, Dtype dtype) {
  if (known_networks_[dtype]) return {};
  WindowRun test = make_weights_run(scalar_, variant, true, dtype);
  NWC_TRY(run(scalar_, &test));
  NWC_TRY(check_weights(scalar_, test, codec_, scalar_.synthesis_levels));
  known_networks_[dtype] = true;
  return {};
}

Status VulkanSelfTest::check_weights(const Window& window, const WindowRun& run, const CodecRecord& codec,
                                     std::span<const uint8_t> column_levels) const {
  const std::vector<int16_t>& values = window.tile.values;
  std::vector<uint8_t> levels;
  for (size_t i = 0; i < values.size() / kChunk; ++i) levels.push_back(column_levels[i % kKnownCols]);
  std::vector<float> y(values.size());
  synthesize_chunks(CpuLevel::kScalar, codec, values, levels.data(), y);
  const Dtype dtype = run.path.dtype;
  // Half a unit in the last place, and of f16's subnormals.
  const float rounding = dtype == Dtype::kF32 ? 0 : dtype == Dtype::kF16 ? 0x1p-11f : 0x1p-8f;
  for (uint32_t row = kFirstRow; row < kEndRow; ++row) {
    for (uint32_t column = 0; column < kKnownCols; ++column) {
      const float* chunk = y.data() + size_t{row / kChunk * kKnownCols + column} * kChunk;
      const float most =
          *std::max_element(chunk, chunk + kChunk, [](float a, float b) { return std::fabs(a) < std::fabs(b); });
      const float scale = known_scale(column) * known_row_scale(row);
      const float expected = chunk[row % kChunk] * scale;
      const uint8_t* at =
          slot_.result(run).data() + (size_t{row - kFirstRow} * kKnownCols + column) * dtype_size(dtype);
      const float got = dtype == Dtype::kF32   ? load_le<float>(at)
                        : dtype == Dtype::kF16 ? f16_to_f32(load_le<uint16_t>(at))
                                               : bf16_to_f32(load_le<uint16_t>(at));
      // A network that overflows on these values says nothing, nor does what f16 cannot hold.
      if (!std::isfinite(most) || !std::isfinite(expected)) continue;
      if (dtype == Dtype::kF16 && std::fabs(expected) > 60000.0f) continue;
      const float tolerance = 0x1p-14f * scale * (1 + std::fabs(most));
      if (!(std::fabs(got - expected) <= tolerance + rounding * (std::fabs(expected) + tolerance + 0x1p-13f))) {
        return wrong(str_cat(dtype_name(dtype), " weights: ", std::to_string(got), " where the CPU gives ",
                             std::to_string(expected)));
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
        return wrong(str_cat("conversion to ", dtype_name(dtype), " gives ", halves[i], " for bits ", bits[i], ", ",
                             expected, " is right"));
      }
    }
  }
  return {};
}

}  // namespace nwc
