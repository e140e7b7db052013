#include "runtime/decoder/decode_rate.h"

#include <algorithm>
#include <bit>
#include <chrono>

#include "runtime/codec/fused_product.h"

namespace nwc {
namespace {

constexpr double kMostMacs = 2e9;      // of one pass: 40 ms of a core with AVX-512, 1 s of the scalar code
constexpr double kLongPass = 0.01;     // seconds: noise and cold caches no longer matter
constexpr double kShortPass = 0.001;   // seconds: starting threads or a device would count too much
constexpr double kMostSeconds = 0.02;  // of all timed passes
constexpr size_t kMostPasses = 5;

double mac_per_weight(const NwcFile& file) { return file.codec() ? file.codec()->synthesis.mac_per_weight() : 0; }

/// Weights of a coded tensor, 0 of any other.
uint64_t coded_weights(const TensorRecord& record) {
  return record.storage == Storage::kCoded ? record.num_elements() : 0;
}

/// The first tensor of the size, in powers of two, that most coded weights belong to; nullptr: nothing is coded.
const TensorRecord* typical_tensor(const NwcFile& file) {
  struct Size {
    uint64_t weights = 0;
    const TensorRecord* first = nullptr;
  };
  Size sizes[65];
  const Size* most = sizes;
  for (const TensorRecord& r : file.tensors()) {
    Size& size = sizes[std::bit_width(coded_weights(r))];
    if (size.weights == 0) size.first = &r;
    size.weights += coded_weights(r);
    if (size.weights > most->weights) most = &size;
  }
  return most->weights == 0 ? nullptr : most->first;
}

const TensorRecord* narrowest_tensor(const NwcFile& file) {
  const TensorRecord* best = nullptr;
  for (const TensorRecord& r : file.tensors())
    if (coded_weights(r) != 0 && (best == nullptr || r.cols() < best->cols())) best = &r;
  return best;
}

uint64_t first_rows(const TensorRecord& r, uint64_t most_weights) {
  const uint64_t bands = std::min(r.rows(), 2 * uint64_t{r.tile_rows});
  // NOLINTNEXTLINE(clang-analyzer-core.DivideZero): a coded tensor has columns.
  const uint64_t most = std::max<uint64_t>(kChunk, most_weights / r.cols() / kChunk * kChunk);
  return std::min({bands, most, r.rows()});
}

template <typename Pass>
Result<double> seconds_of(const Pass& pass) {
  const auto start = std::chrono::steady_clock::now();
  NWC_TRY(pass());
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// first: seconds of a pass that has run already.
template <typename Pass>
Result<double> median_seconds(double first, const Pass& pass) {
  if (first >= kLongPass) return first;
  double times[kMostPasses];  // ascending
  size_t count = 0;
  for (double sum = 0; count == 0 || (count < kMostPasses && sum < kMostSeconds); ++count) {
    NWC_ASSIGN_OR_RETURN(const double seconds, seconds_of(pass));
    sum += seconds;
    size_t at = count;
    for (; at > 0 && times[at - 1] > seconds; --at) times[at] = times[at - 1];
    times[at] = seconds;
  }
  return times[count / 2];
}

}  // namespace

uint64_t most_rate_weights(double mac) {
  return mac <= 0 ? kMostRateWeights : std::min(kMostRateWeights, static_cast<uint64_t>(kMostMacs / mac));
}

Result<DecodeRate> measure_decode_rate(const NwcFile& file, Decoder& decoder) {
  DecodeRate rate;
  const TensorRecord* typical = typical_tensor(file);
  if (typical == nullptr) return rate;
  const uint64_t most = most_rate_weights(mac_per_weight(file));
  // NOLINTNEXTLINE(clang-analyzer-core.NullDereference): where a typical tensor is, there is a narrowest one.
  const TensorRecord& record = kChunk * typical->cols() > most ? *narrowest_tensor(file) : *typical;
  rate.tensor = static_cast<size_t>(&record - file.tensors().data());
  std::vector<uint8_t> out;
  DecodeRequest request;
  request.tensor = rate.tensor;
  request.check_crc = false;
  const auto pass = [&] { return decoder.decode(request); };
  const auto set_rows = [&](uint64_t rows) {
    rate.weights = rows * record.cols();
    out.resize(static_cast<size_t>(rate.weights * dtype_size(request.dtype)));
    request.row_end = rows;
    request.out = out;
  };
  set_rows(first_rows(record, most));
  NWC_ASSIGN_OR_RETURN(double first, seconds_of(pass));
  while (first < kShortPass && request.row_end < record.rows() && 2 * rate.weights <= most) {
    set_rows(std::min(record.rows(), 2 * request.row_end));
    NWC_ASSIGN_OR_RETURN(first, seconds_of(pass));
  }
  NWC_ASSIGN_OR_RETURN(rate.seconds, median_seconds(first, pass));
  return rate;
}

Result<DecodeRate> measure_fused_rate(const NwcFile& file, Runner& runner, CpuLevel cpu, uint64_t most_weights) {
  DecodeRate rate;
  for (const TensorRecord& r : file.tensors()) {
    const uint64_t weights = coded_weights(r);
    if (weights > most_weights || weights <= rate.weights) continue;
    rate.tensor = static_cast<size_t>(&r - file.tensors().data());
    rate.weights = weights;
  }
  if (rate.weights == 0) return rate;
  const TensorRecord& record = file.tensors()[rate.tensor];
  const DecodeTables tables = build_decode_tables(*file.codec());
  FusedProduct product(file, tables);
  const std::vector<float> x(static_cast<size_t>(record.cols()), 1.0f);
  std::vector<float> y(static_cast<size_t>(record.rows()));
  TensorDecodeOptions options;
  options.cpu = cpu;
  options.check_crc = false;
  const auto pass = [&] { return product.multiply(rate.tensor, 1, x, y, runner, options); };
  NWC_ASSIGN_OR_RETURN(const double first, seconds_of(pass));
  NWC_ASSIGN_OR_RETURN(rate.seconds, median_seconds(first, pass));
  return rate;
}

}  // namespace nwc
