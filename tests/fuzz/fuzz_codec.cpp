// A codec file (.nwcc). What is taken analyses chunks, decodes values with every twin, and survives being written.
#include <cmath>

#include "runtime/codec/synthesis.h"
#include "tests/fuzz/container_mutator.h"
#include "tests/fuzz/synthesis_bound.h"
#include "trainer/codec/codec_model.h"

using namespace nwc;
using namespace nwc::fuzz;

namespace {

constexpr uint32_t kChunks = 5;
constexpr double kMaxWork = 1 << 12;  // multiply-accumulates a weight that are worth a fuzzer's time

// Every twin is as close to the exact result as it has to be.
void check_synthesis(const CodecRecord& record) {
  std::vector<int16_t> q(kChunks * kChunk);
  std::vector<uint8_t> level(kChunks);
  for (size_t i = 0; i < q.size(); ++i) q[i] = static_cast<int16_t>(static_cast<int>(i * 37 % 15) - 7);
  for (size_t i = 0; i < level.size(); ++i) level[i] = static_cast<uint8_t>(i * 5 % record.num_levels);
  std::vector<float> y(q.size());
  for (const CpuLevel cpu : kCpuLevels) {
    if (cpu > detect_cpu_level()) continue;
    synthesize_chunks(cpu, record, q, level.data(), y);
    for (size_t chunk = 0; chunk < kChunks; ++chunk) {
      SynthesisBound bound;
      if (!bound_synthesis(record, q.data() + chunk * kChunk, level[chunk], &bound)) continue;
      for (size_t i = 0; i < kChunk; ++i) {
        const double error = std::abs(y[chunk * kChunk + i] - bound.y[i]);
        if (!(error <= bound.error[i])) fail("synthesis is off by more than the format allows");
      }
    }
  }
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  return mutate_container(data, size, max_size, seed);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto codec = load_codec(scratch_file("fuzz.nwcc", {data, size}));
  if (!codec.ok()) return 0;
  const CodecRecord& record = codec->record;
  require(validate(record).ok(), "a codec that was taken is valid");
  const std::vector<uint8_t> bytes = serialize(record);
  const auto again = parse_codec_record(bytes, 0);
  require(again.ok() && serialize(*again) == bytes, "a codec record survives being written and read");
  if (record.synthesis.mac_per_weight() <= kMaxWork) check_synthesis(record);
  if (codec->analysis.mac_per_weight() <= kMaxWork) {
    const std::vector<float> x(kChunks * kChunk, 0.5f);
    const std::vector<uint8_t> level(kChunks, 0);
    std::vector<float> u(x.size());
    analyze_chunks(*codec, x, level.data(), u);
  }
  return 0;
}
