#include "trainer/inspect/verify.h"

#include <algorithm>
#include <cmath>

namespace nwc {
namespace {

constexpr uint64_t kBandWeights = 16u << 20;

// A section that a newer version may have written cannot be judged; one that breaks the rules of this version is bad.
Status check_descriptive(const NwcFile& file, SectionType type, const Status& status, VerifyReport* report) {
  if (status.ok() || file.container().find(type) == nullptr) return {};
  if (status.code() != StatusCode::kUnsupported) return status;
  report->unknown_records.push_back(status.message());
  return {};
}

Status check_sections(const NwcFile& file, VerifyReport* report) {
  const Container& container = file.container();
  NWC_TRY(check_descriptive(file, SectionType::kModel, file.model_status(), report));
  NWC_TRY(check_descriptive(file, SectionType::kTokenizer, file.tokenizer_status(), report));
  // Opening the file has checked the gaps between sections; loading a tensor checks the one before it.
  for (const SectionEntry& e : container.sections()) {
    ++report->sections;
    if (e.type == SectionType::kData) continue;
    NWC_TRY(as_status(container.load(e.type)).with_context(std::string("section ") + section_name(e.type)));
  }
  report->bytes = file.reader().size();
  return {};
}

Status check_finite(std::span<const float> values, uint64_t first) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) return corrupt("element " + std::to_string(first + i) + " is not finite");
  }
  return {};
}

/// Largest |a - b| over rows [row, row + height), a multiple of 16 from the start of the tensor, in units of
/// 2^-14 * scale * (1 + max |y|), y being what the synthesis returned for the chunk.
double worst_difference(const CodedTensor& coded, uint64_t row, uint64_t height, uint64_t n, std::span<const float> a,
                        std::span<const float> b) {
  double worst = 0;
  for (uint64_t r0 = 0; r0 < height; r0 += kChunk) {
    const uint64_t r1 = std::min(height, r0 + kChunk);
    for (uint64_t j = 0; j < n; ++j) {
      const auto scale = [&](uint64_t r) {
        return double{coded.scale[j]} * (coded.row_scale.empty() ? 1.0 : double{coded.row_scale[row + r]});
      };
      double largest = 0;
      for (uint64_t r = r0; r < r1; ++r) {
        if (scale(r) > 0) largest = std::max(largest, std::abs(a[r * n + j]) / scale(r));
      }
      for (uint64_t r = r0; r < r1; ++r) {
        const double difference = std::abs(double{a[r * n + j]} - double{b[r * n + j]});
        if (difference == 0) continue;
        const double tolerance = 0x1p-14 * scale(r) * (1 + largest);
        worst = std::max(worst, tolerance > 0 ? difference / tolerance : INFINITY);
      }
    }
  }
  return worst;
}

Status compare_values(Decoder& decoder, Decoder& other, size_t tensor, const TensorRecord& record,
                      TensorComparison* comparison) {
  const size_t count = static_cast<size_t>(ceil_div(record.rows(), kChunk) * record.cols() * kChunk);
  std::vector<int16_t> a(count), b(count);
  NWC_TRY(decoder.decode_values(tensor, a).with_context(decoder.name()));
  NWC_TRY(other.decode_values(tensor, b).with_context(other.name()));
  for (size_t i = 0; i < count; ++i) comparison->different_values += a[i] != b[i] ? 1 : 0;
  return {};
}

Status check_coded(const NwcFile& file, Decoder& decoder, Decoder* other, size_t tensor, const Progress& progress,
                   uint64_t total, VerifyReport* report) {
  const TensorRecord& record = file.tensors()[tensor];
  NWC_ASSIGN_OR_RETURN(const CodedTensor coded, file.load_coded(tensor, true));
  const uint64_t m = record.rows(), n = record.cols();
  report->tiles += coded.tiles.size();
  ++report->coded_tensors;
  TensorComparison comparison{.name = record.name};
  if (other != nullptr) NWC_TRY(compare_values(decoder, *other, tensor, record, &comparison));

  // Whole bands of tiles, so that no tile is decoded twice.
  const uint64_t tile_row = std::max<uint64_t>(1, record.tile_rows * n);
  const uint64_t band = record.tile_rows * std::max<uint64_t>(1, kBandWeights / tile_row);
  std::vector<float> a, b;
  for (uint64_t row = 0; row < m; row += band) {
    const uint64_t height = std::min(band, m - row);
    const auto decode = [&](Decoder& d, std::vector<float>* out) {
      out->resize(static_cast<size_t>(height * n));
      DecodeRequest request;
      request.tensor = tensor;
      request.row_begin = row;
      request.row_end = row + height;
      request.dtype = Dtype::kF32;
      request.out = {reinterpret_cast<uint8_t*>(out->data()), out->size() * sizeof(float)};
      return d.decode(request).with_context(d.name());
    };
    NWC_TRY(decode(decoder, &a));
    NWC_TRY(check_finite(a, row * n));
    if (other != nullptr) {
      NWC_TRY(decode(*other, &b));
      comparison.worst = std::max(comparison.worst, worst_difference(coded, row, height, n, a, b));
    }
    report->weights += height * n;
    if (!progress.report(report->weights, total)) return Status(StatusCode::kCancelled, "cancelled while verifying");
  }
  if (other != nullptr) report->comparisons.push_back(std::move(comparison));
  return {};
}

}  // namespace

bool VerifyReport::decoders_agree() const {
  return std::all_of(comparisons.begin(), comparisons.end(),
                     [](const TensorComparison& c) { return c.different_values == 0 && c.worst <= 1; });
}

Result<VerifyReport> verify_model(const NwcFile& file, Decoder& decoder, Decoder* other, const Progress& progress) {
  VerifyReport report;
  NWC_TRY(check_sections(file, &report));
  uint64_t total = 0;
  for (const TensorRecord& r : file.tensors()) total += r.num_elements();
  for (size_t t = 0; t < file.tensors().size(); ++t) {
    const TensorRecord& record = file.tensors()[t];
    ++report.tensors;
    if (record.storage == Storage::kCoded) {
      NWC_TRY(check_coded(file, decoder, other, t, progress, total, &report).with_context("tensor " + record.name));
      continue;
    }
    // What is stored raw may hold anything, such as the infinities of a mask.
    std::vector<uint8_t> storage;
    NWC_TRY(as_status(file.load_raw(t, true, &storage)).with_context("tensor " + record.name));
    report.weights += record.num_elements();
    if (!progress.report(report.weights, total)) return Status(StatusCode::kCancelled, "cancelled while verifying");
  }
  return report;
}

}  // namespace nwc
