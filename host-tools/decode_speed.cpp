#include "host-tools/decode_speed.h"

#include <algorithm>
#include <chrono>
#include <cstring>

namespace nwc::cli {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[v.size() / 2];
}

}  // namespace

Result<DecodeSpeed> measure_decode_speed(const NwcFile& file, Decoder& decoder) {
  constexpr uint64_t kMostWeights = 1 << 24;
  std::vector<size_t> order;
  for (size_t i = 0; i < file.tensors().size(); ++i)
    if (file.tensors()[i].storage == Storage::kCoded) order.push_back(i);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return file.tensors()[a].num_elements() > file.tensors()[b].num_elements();
  });
  DecodeSpeed speed;
  std::vector<size_t> chosen;
  std::vector<uint64_t> offset;
  for (const size_t i : order) {
    const uint64_t n = file.tensors()[i].num_elements();
    if (!chosen.empty() && speed.weights + n > kMostWeights) continue;
    chosen.push_back(i);
    offset.push_back(2 * speed.weights);
    speed.weights += n;
  }
  if (chosen.empty()) return speed;

  std::vector<uint8_t> decoded(static_cast<size_t>(2 * speed.weights)), copy(decoded.size());
  const auto decode_all = [&]() -> Status {
    for (size_t i = 0; i < chosen.size(); ++i) {
      const TensorRecord& t = file.tensors()[chosen[i]];
      DecodeRequest request;
      request.tensor = chosen[i];
      request.row_end = t.rows();
      request.out =
          MutableBytes(decoded).subspan(static_cast<size_t>(offset[i]), static_cast<size_t>(2 * t.num_elements()));
      request.check_crc = false;
      NWC_TRY(decoder.decode(request));
    }
    return {};
  };
  NWC_TRY(decode_all());
  std::memcpy(copy.data(), decoded.data(), decoded.size());
  std::vector<double> decoding, copying;
  while (decoding.size() < 5 && !(decoding.size() >= 2 && decoding.back() > 2)) {
    auto start = std::chrono::steady_clock::now();
    NWC_TRY(decode_all());
    decoding.push_back(seconds_since(start));
    start = std::chrono::steady_clock::now();
    std::memcpy(copy.data(), decoded.data(), decoded.size());
    copying.push_back(seconds_since(start));
  }
  speed.passes = decoding.size();
  speed.seconds = median(decoding);
  speed.memcpy_seconds = median(copying);
  return speed;
}

}  // namespace nwc::cli
