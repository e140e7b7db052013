#include "tests/fuzz/decode_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "runtime/base/half.h"
#include "runtime/codec/fused_product.h"
#include "tests/fuzz/harness_support.h"
#include "tests/fuzz/synthesis_bound.h"

namespace nwc::fuzz {
namespace {

constexpr double kTiniest = 1e-37;  // f32 loses precision below
constexpr double kLargest = 1e30;

Runner& runner() {
  static const std::unique_ptr<Runner> one = make_thread_pool(1);
  return *one;
}

[[noreturn]] void fail_at(const char* what, const NwcFile& file, size_t tensor, CpuLevel level) {
  fail(std::string(what) + ": tensor '" + file.tensors()[tensor].name + "', " + cpu_level_name(level));
}

size_t num_values(const TensorRecord& r) { return static_cast<size_t>((r.rows() + 15) / 16 * r.cols() * 16); }

Status decode_rows(const NwcFile& file, const DecodeTables& tables, size_t tensor, CpuLevel level, uint64_t begin,
                   uint64_t end, Dtype dtype, std::vector<uint8_t>* out) {
  out->assign(static_cast<size_t>((end - begin) * file.tensors()[tensor].cols() * dtype_size(dtype)), 0xcc);
  TensorDecodeOptions options;
  options.cpu = level;
  return decode_tensor_rows(file, tables, tensor, begin, end, dtype, *out, runner(), options);
}

bool same_half(uint16_t got, uint16_t expected, float value) { return got == expected || std::isnan(value); }

void check_types(const NwcFile& file, const DecodeTables& tables, size_t tensor, CpuLevel level,
                 const std::vector<uint8_t>& f32, uint64_t choice) {
  const TensorRecord& r = file.tensors()[tensor];
  std::vector<uint8_t> part;
  for (const Dtype dtype : {Dtype::kF16, Dtype::kBf16}) {
    if (!decode_rows(file, tables, tensor, level, 0, r.rows(), dtype, &part).ok())
      fail_at("a type cannot be decoded to, though f32 can", file, tensor, level);
    for (size_t i = 0; i < part.size() / 2; ++i) {
      const float v = load_le<float>(f32.data() + 4 * i);
      const uint16_t expected = dtype == Dtype::kF16 ? f32_to_f16(v) : f32_to_bf16(v);
      if (!same_half(load_le<uint16_t>(part.data() + 2 * i), expected, v))
        fail_at("a weight is not the f32 result, rounded", file, tensor, level);
    }
  }
  const uint64_t begin = choice % r.rows(), end = begin + 1 + choice / 7 % (r.rows() - begin);
  if (!decode_rows(file, tables, tensor, level, begin, end, Dtype::kF32, &part).ok())
    fail_at("some rows cannot be decoded, though all can", file, tensor, level);
  if (std::memcmp(part.data(), f32.data() + begin * r.cols() * 4, part.size()) != 0)
    fail_at("some rows differ from the same rows of the whole", file, tensor, level);
}

// Products are within the bound that fused_product.h states, beside what rounding does in any order.
void check_products(const NwcFile& file, const DecodeTables& tables, size_t tensor, const ExactMatrix& exact,
                    CpuLevel level, uint64_t choice) {
  const uint32_t batch = 1 + static_cast<uint32_t>(choice % 3);
  Random random(choice);
  std::vector<float> x(batch * exact.cols), y(batch * exact.rows), first(exact.rows);
  for (float& v : x) v = random.one_in(8) ? 0 : static_cast<float>(static_cast<double>(random.below(4001)) / 1000 - 2);
  FusedProduct product(file, tables);
  TensorDecodeOptions options;
  options.cpu = level;
  if (!product.multiply(tensor, batch, x, y, runner(), options).ok())
    fail_at("a product fails, though the tensor can be decoded", file, tensor, level);
  for (uint32_t b = 0; b < batch; ++b) {
    for (uint64_t i = 0; i < exact.rows; ++i) {
      double sum = 0, allowed = kTiniest;
      for (uint64_t j = 0; j < exact.cols; ++j) {
        const double v = x[b * exact.cols + j];
        sum += v * exact.weight[i * exact.cols + j];
        allowed += std::abs(v) * exact.error[i * exact.cols + j];
      }
      if (!(std::abs(y[b * exact.rows + i] - sum) <= allowed))
        fail_at("a product is off by more than it may be", file, tensor, level);
    }
  }
  if (!product.multiply(tensor, 1, std::span(x).first(exact.cols), first, runner(), options).ok() ||
      std::memcmp(first.data(), y.data(), first.size() * sizeof(float)) != 0)
    fail_at("a product depends on what else is in the batch", file, tensor, level);
}

}  // namespace

const std::vector<CpuLevel>& cpu_levels() {
  static const std::vector<CpuLevel> levels = [] {
    std::vector<CpuLevel> here;
    for (const CpuLevel level : kCpuLevels) {
      if (level <= detect_cpu_level()) here.push_back(level);
    }
    return here;
  }();
  return levels;
}

std::optional<ExactMatrix> exact_matrix(const NwcFile& file, const DecodeTables& tables, size_t tensor) {
  const TensorRecord& r = file.tensors()[tensor];
  ExactMatrix exact{r.rows(), r.cols(), {}, {}};
  exact.weight.resize(static_cast<size_t>(r.num_elements()));
  exact.error.resize(exact.weight.size());
  if (r.storage != Storage::kCoded) {
    std::vector<uint8_t> storage;
    const auto bytes = file.load_raw(tensor, true, &storage);
    if (!bytes.ok()) return std::nullopt;
    for (size_t i = 0; i < exact.weight.size(); ++i) {
      const uint8_t* at = bytes->data() + i * dtype_size(r.dtype);
      switch (r.dtype) {
        case Dtype::kF32: exact.weight[i] = load_le<float>(at); break;
        case Dtype::kF16: exact.weight[i] = f16_to_f32(load_le<uint16_t>(at)); break;
        case Dtype::kBf16: exact.weight[i] = bf16_to_f32(load_le<uint16_t>(at)); break;
        default: return std::nullopt;
      }
      if (!(std::abs(exact.weight[i]) < kLargest)) return std::nullopt;
    }
    return exact;
  }
  std::vector<int16_t> q(num_values(r));
  const auto coded = file.load_coded(tensor, true);
  if (!coded.ok() || !decode_tensor_values(file, tables, tensor, q, runner(), {}).ok()) return std::nullopt;
  for (uint64_t chunk = 0; chunk < q.size() / kChunk; ++chunk) {
    const uint64_t column = chunk % exact.cols, row = chunk / exact.cols * kChunk;
    SynthesisBound bound;
    if (!bound_synthesis(*file.codec(), q.data() + chunk * kChunk, coded->level[column], &bound)) return std::nullopt;
    for (uint64_t i = 0; i < std::min<uint64_t>(kChunk, exact.rows - row); ++i) {
      // The product of the scales is an f32 of its own, and may be rounded to a denormal one, or to infinity.
      const float scale = coded->scale[column] * (coded->row_scale.empty() ? 1.0f : coded->row_scale[row + i]);
      const size_t at = static_cast<size_t>((row + i) * exact.cols + column);
      exact.weight[at] = bound.y[i] * static_cast<double>(scale);
      exact.error[at] = bound.error[i] * static_cast<double>(scale) + kTiniest * (1 + bound.largest);
      if (!(std::abs(exact.weight[at]) + exact.error[at] < kLargest) || !(coded->scale[column] < kLargest))
        return std::nullopt;
    }
  }
  return exact;
}

void check_coded_tensor(const NwcFile& file, const DecodeTables& tables, size_t tensor, uint64_t choice) {
  const TensorRecord& r = file.tensors()[tensor];
  std::vector<int16_t> expected, values(num_values(r));
  StatusCode expected_code{};
  for (const CpuLevel level : cpu_levels()) {
    TensorDecodeOptions options;
    options.cpu = level;
    const Status status = decode_tensor_values(file, tables, tensor, values, runner(), options);
    if (level == CpuLevel::kScalar) {
      expected_code = status.code();
      expected = values;
    }
    if (status.code() != expected_code) fail_at("another status than the scalar decoder's", file, tensor, level);
    if (status.ok() && values != expected) fail_at("other symbols than the scalar decoder's", file, tensor, level);
  }
  const std::optional<ExactMatrix> exact =
      expected_code == StatusCode::kOk ? exact_matrix(file, tables, tensor) : std::nullopt;
  std::vector<uint8_t> weights;
  for (const CpuLevel level : cpu_levels()) {
    const Status status = decode_rows(file, tables, tensor, level, 0, r.rows(), Dtype::kF32, &weights);
    if (status.code() != expected_code) fail_at("weights and symbols differ in status", file, tensor, level);
    if (!status.ok()) continue;
    check_types(file, tables, tensor, level, weights, choice);
    if (!exact) continue;
    for (size_t i = 0; i < exact->weight.size(); ++i) {
      const double error = std::abs(load_le<float>(weights.data() + 4 * i) - exact->weight[i]);
      if (!(error <= exact->error[i])) fail_at("a weight is off by more than the format allows", file, tensor, level);
    }
    check_products(file, tables, tensor, *exact, level, choice);
  }
}

}  // namespace nwc::fuzz
