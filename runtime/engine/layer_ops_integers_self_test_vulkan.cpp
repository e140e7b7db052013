// The known-answer test of the kernels that multiply by integers and look rows of them up.
#include <cmath>
#include <cstring>

#include "runtime/base/str_cat.h"
#include "runtime/decoder/vulkan/device_integers.h"
#include "runtime/engine/kernel_answers_vulkan.h"
#include "runtime/engine/layer_ops_self_test_vulkan.h"

namespace nwc {
namespace {

// Neither fills its last row block or unit; 9 units are more than a workgroup takes at a time.
constexpr uint32_t kRows = 35, kCols = 264;
constexpr uint8_t kBits[] = {4, 5, 6, 8, 6, 5, 4, 8, 5};
constexpr float kTolerance = 1e-4f;  // dot products round inputs as well: by 2^-16 of the largest

/// Multiples of 1/8 below 1.
float number(uint32_t seed, uint32_t i) {
  const uint32_t mixed = (i * 2654435761u + seed * 40503u) >> 16;
  return (static_cast<float>(mixed % 15) - 7) / 8;
}

/// A small tensor of integers, outliers among them or with block scales, and the weights that it stands for.
struct KnownIntegers {
  explicit KnownIntegers(bool shrinks, bool requantized = false) {
    form = requantized_form(kRows, kCols);
    if (!requantized) {
      form.requantized = false;
      form.shrinks = shrinks;
      form.bits.assign(std::begin(kBits), std::end(kBits));
      form.max_outliers = 512;
      form.place_parts();
    }
    head.resize(DeviceForm(form).bytes);
    const auto put = [this](uint64_t at, auto value) { std::memcpy(head.data() + at, &value, sizeof value); };
    std::vector<float> factor(kCols), shrink(kCols);
    for (uint32_t j = 0; j < kCols; ++j) {
      factor[j] = j % 31 == 4 ? 0.0f : 1.25f + number(1, j);
      shrink[j] = factor[j] * 0.25f;
      put(form.factor_at + j * sizeof(float), factor[j]);
      if (shrinks) put(form.shrink_at + j * sizeof(float), shrink[j]);
    }
    const std::vector<uint32_t> units = device_units(form);
    std::memcpy(head.data() + DeviceForm(form).units_at, units.data(), units.size() * sizeof units[0]);
    values.resize(form.row_blocks() * kChunk * kCols);
    weights.resize(kRows * kCols);
    for (uint32_t i = 0; i < kRows; ++i) {
      const float scale = 0.5f + number(2, i) / 4;
      put(form.row_scale_at + i * sizeof(float), scale);
      for (uint32_t j = 0; j < kCols; ++j) {
        const uint32_t mixed = ((i * kCols + j) * 2654435761u) >> 16;
        if (requantized) {
          put_scaled(i, j, mixed, factor[j] * scale);
          continue;
        }
        const int32_t q =
            mixed % 101 == 3 ? static_cast<int32_t>(mixed % 801) - 400 : static_cast<int32_t>(mixed % 15) - 7;
        values[(i / kChunk * kCols + j) * kChunk + i % kChunk] = static_cast<int16_t>(q);
        const float sign = static_cast<float>((q > 0) - (q < 0));
        weights[i * kCols + j] = (static_cast<float>(q) * factor[j] - (shrinks ? sign * shrink[j] : 0)) * scale;
      }
    }
  }

  /// Block scales are powers of two. The largest weight of a row and unit lies a little below 127 of them, so that how
  /// a device divides does not matter; its integer is 127 nevertheless.
  void put_scaled(uint32_t row, uint32_t column, uint32_t mixed, float scale) {
    const float step = scale / static_cast<float>(8u << (row + column / kUnitCols) % 3);
    const bool largest = column % kUnitCols == 5;  // never a column of factor 0
    const float q = largest ? 127.0f : static_cast<float>(static_cast<int32_t>(mixed % 201) - 100);
    weights[row * kCols + column] = q * step;
    floats.push_back((largest ? 126.9f : q) * step);
  }

  IntegerForm form;
  std::vector<uint8_t> head;  ///< a DeviceForm without its units and outliers
  std::vector<int16_t> values;
  std::vector<float> floats;  ///< with block scales: what is rounded to the weights
  std::vector<float> weights;
};

class SelfTest {
 public:
  SelfTest(VulkanDevice& device, CommandBatch& batch, IntegerProducts products)
      : device_(device), batch_(batch), products_(products), ops_(device, Dtype::kF32, products) {}

  Status run(const KnownIntegers& known) {
    const bool requantized = known.form.requantized;
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer memory, buffer(known.head.data(), known.head.size()));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer values,
                         requantized ? buffer(known.floats.data(), known.floats.size() * sizeof(float))
                                     : buffer(known.values.data(), known.values.size() * 2));
    NWC_TRY(batch_.begin());
    const DeviceFormView out(&memory, 0, known.form, device_.info().offset_alignment);
    NWC_TRY((requantized ? dispatch_requantize : dispatch_pack)(batch_, out, 0, known.form.row_blocks(), &values));
    batch_.barrier();
    NWC_TRY(batch_.submit_and_wait());
    const IntegerWeightsView view{&memory, 0, &known.form};
    for (const uint32_t tokens : {1u, 2u, kFewTokens, kFewTokens + 1}) {
      if (tokens == 2 && products_ == IntegerProducts::kFloats) continue;  // between the two others in every respect
      NWC_TRY(check_matmul(known, view, tokens));
    }
    return check_embed(known, view);
  }

 private:
  Result<DeviceBuffer> buffer(const void* bytes, uint64_t size) { return answers_.buffer(bytes, size); }

  template <typename Record>
  Status compare(const char* kernel, const DeviceBuffer& out, const std::vector<float>& expected, Record&& record) {
    NWC_ASSIGN_OR_RETURN(const bool right, answers_.match(out, expected, kTolerance, 64, record));
    if (right) return {};
    return unsupported(str_cat(device_.info().name, ": the kernel ", kernel, " does not compute rightly"));
  }

  Status check_matmul(const KnownIntegers& known, const IntegerWeightsView& view, uint32_t tokens) {
    std::vector<float> x(size_t{tokens} * kCols), y(size_t{tokens} * kRows);
    for (uint32_t i = 0; i < x.size(); ++i) x[i] = number(3, i);
    for (uint32_t i = 0; i < y.size(); ++i) y[i] = number(4, i);
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer in, buffer(x.data(), x.size() * sizeof(float)));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer out, buffer(y.data(), y.size() * sizeof(float)));
    for (uint32_t t = 0; t < tokens; ++t) {
      for (uint32_t r = 0; r < kRows; ++r) {
        for (uint32_t j = 0; j < kCols; ++j) y[t * kRows + r] += x[t * kCols + j] * known.weights[r * kCols + j];
      }
    }
    const bool dots = products_ == IntegerProducts::kDots;
    const char* const few = dots ? "integers_few_dot" : "integers_few";
    const char* const many = dots ? "integers_many_dot" : "integers_many";
    return compare(tokens > kFewTokens ? many : few, out, y, [&] {
      return ops_.matmul(batch_, view, tokens, {&in, 0, kCols}, {&out, 0, kRows}, true);
    });
  }

  Status check_embed(const KnownIntegers& known, const IntegerWeightsView& view) {
    const uint32_t ids[] = {kRows - 1, 0, 5, 18};
    std::vector<float> expected;
    for (const uint32_t id : ids) {
      for (uint32_t j = 0; j < kCols; ++j) expected.push_back(2 * known.weights[id * kCols + j]);
    }
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer id_buffer, buffer(ids, sizeof ids));
    NWC_ASSIGN_OR_RETURN(const DeviceBuffer x, buffer(expected.data(), expected.size() * sizeof(float)));
    return compare("integers_rows", x, expected,
                   [&] { return ops_.embed(batch_, view, id_buffer, 0, std::size(ids), x, 2, false); });
  }

  VulkanDevice& device_;
  CommandBatch& batch_;
  const KernelAnswers answers_{device_, batch_};
  const IntegerProducts products_;
  const LayerOps ops_;
};

}  // namespace

Result<IntegerProducts> choose_integer_products(VulkanDevice& device, PipelineCache& pipelines, bool plain,
                                                bool shrinking, bool requantized) {
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<CommandBatch> batch, CommandBatch::create(device, pipelines));
  const auto check = [&](IntegerProducts products) -> Status {
    SelfTest test(device, *batch, products);
    if (plain) NWC_TRY(test.run(KnownIntegers(false)));
    return shrinking ? test.run(KnownIntegers(true)) : Status();
  };
  if (requantized) NWC_TRY(SelfTest(device, *batch, IntegerProducts::kFloats).run(KnownIntegers(false, true)));
  if (device.info().dot_product) {
    Status status = check(IntegerProducts::kDots);
    if (status.ok()) return IntegerProducts::kDots;
    if (status.code() == StatusCode::kDeviceLost) return status;
    device.instance().log().log(LogLevel::kWarning,
                                str_cat("integers are multiplied as floating-point numbers: ", status.message()));
  }
  NWC_TRY(check(IntegerProducts::kFloats));
  return IntegerProducts::kFloats;
}

}  // namespace nwc
