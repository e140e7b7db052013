#include "trainer/codec/identity_codec.h"

namespace nwc {

CodecModel identity_codec() {
  CodecModel codec;
  CodecRecord& r = codec.record;
  r.num_levels = 1;
  r.step = {1.0f};
  r.shrink = {0.0f};
  r.rate = {2.1f};  // entropy of a unit Gaussian rounded to whole numbers
  r.synthesis.skip_weight.assign(kChunk * kChunk, 0.0f);
  for (uint32_t i = 0; i < kChunk; ++i) r.synthesis.skip_weight[i * kChunk + i] = 1;
  codec.analysis = r.synthesis;
  // That Gaussian in 1/4096: 0, +-1, .., +-4, escape.
  r.tables = {{.raw_bits = 0, .min = -4, .freq = {1, 24, 247, 989, 1566, 989, 247, 24, 1, 8}}};
  r.context_map.assign(kChunk, 0);
  codec.lambda = {1.0f};
  codec.entropy.level_scale = {1.0f};
  codec.name = "identity";
  r.codec_id = compute_codec_id(r);
  return codec;
}

}  // namespace nwc
