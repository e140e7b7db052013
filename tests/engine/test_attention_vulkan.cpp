// Attention on a Vulkan device against the CPU's scalar kernels: whole and split over positions, at the edges of
// blocks, tiles, pieces, windows and rings.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>

#include "runtime/base/half.h"
#include "runtime/engine/attention.h"
#include "runtime/engine/attention_split.h"
#include "runtime/engine/layer_ops_vulkan.h"

namespace nwc {
namespace {

/// Both sides read the same halves: what differs is the order of sums, and the driver's exponentials.
constexpr float kTolerance = 3e-5f;

struct Shape {
  uint32_t heads = 1, kv_heads = 1, dim = 64;
};

struct Case {
  Shape shape;
  Dtype dtype = Dtype::kF16;
  uint32_t window = 0;
  float softcap = 0;
  bool sinks = false;
};

struct Tokens {
  uint32_t position = 0, count = 1;
};

class AttentionVulkan : public ::testing::Test {
 protected:
  void SetUp() override {
    const Status status = start();
    const char* const required = std::getenv("NWC_REQUIRE_VULKAN");
    if (status.code() == StatusCode::kNoDevice && (required == nullptr || std::string(required) != "1")) {
      GTEST_SKIP() << "no Vulkan device: " << status.message();
    }
    ASSERT_TRUE(status.ok()) << status.message();
  }

  Status start() {
    NWC_ASSIGN_OR_RETURN(std::unique_ptr<VulkanInstance> instance, VulkanInstance::create(false, {}));
    NWC_ASSIGN_OR_RETURN(const DeviceInfo info, choose_device(*instance, {}));
    NWC_ASSIGN_OR_RETURN(device_, VulkanDevice::create(std::move(instance), info));
    NWC_ASSIGN_OR_RETURN(pipelines_, PipelineCache::create(*device_));
    NWC_ASSIGN_OR_RETURN(batch_, CommandBatch::create(*device_, *pipelines_));
    return {};
  }

  /// A case's keys and values, all positions of which the CPU's cache holds.
  void begin(const Case& c, uint32_t context) {
    case_ = c;
    most_pieces_ = 0;
    context_ = context;
    BlockSpec block;
    block.num_heads = c.shape.heads;
    block.num_kv_heads = c.shape.kv_heads;
    block.head_dim = c.shape.dim;
    block.window = c.window;
    block.attention_softcap = c.softcap;
    layout_ = ModelLayout();
    layout_.model.blocks = {block};
    layout_.layers.resize(1);
    width_ = size_t{c.shape.heads + 2 * c.shape.kv_heads} * c.shape.dim;
    std::mt19937 rng(context + c.shape.dim);
    std::normal_distribution<float> normal;
    rows_.resize(context * width_);
    for (float& v : rows_) v = c.dtype == Dtype::kF16 ? f16_to_f32(f32_to_f16(normal(rng))) : normal(rng);
    // Of all sizes beside the scores, also such that nothing else counts.
    sinks_.clear();
    for (uint32_t h = 0; h < c.shape.heads && c.sinks; ++h) sinks_.push_back(h == 1 ? 200 : 4 * normal(rng));
    ASSERT_TRUE(cpu_cache_.allocate(layout_, context, context, c.dtype, &cpu_memory_).ok());
    for (uint32_t p = 0; p < context; ++p) {
      const float* key = rows_.data() + p * width_ + size_t{c.shape.heads} * c.shape.dim;
      cpu_cache_.store(kernels_, 0, p, key, key + size_t{c.shape.kv_heads} * c.shape.dim);
    }
  }
  const BlockSpec& block() const { return layout_.model.blocks.front(); }

  std::vector<float> expected(Tokens t) const {
    const size_t stride = attention_scratch(layout_, context_, context_);
    std::vector<float> scratch(stride), out(size_t{t.count} * block().q_width());
    const auto runner = make_thread_pool(1);
    attend(kernels_, *runner, block(), cpu_cache_, 0, t.position, t.count, rows_.data() + t.position * width_, width_,
           sinks_.empty() ? nullptr : sinks_.data(), out.data(), scratch.data(), stride);
    return out;
  }

  DeviceBuffer upload(const void* bytes, size_t size) {
    Result<DeviceBuffer> made = DeviceBuffer::create(*device_, size, MemoryKind::kUpload);
    EXPECT_TRUE(made.ok()) << made.status().message();
    if (!made.ok()) return {};
    if (bytes != nullptr) std::memcpy(made->mapped().data(), bytes, size);
    EXPECT_TRUE(made->flush().ok());
    return std::move(made).value();
  }

  /// A layer's cache as shaders/common/kv_cache.glsl has it, with what no token may read not a number.
  DeviceBuffer device_cache(Tokens t, uint32_t kept) {
    const Shape& s = case_.shape;
    const size_t plane = size_t{s.kv_heads} * kept * s.dim;
    std::vector<float> cache(2 * plane, std::nanf(""));
    const uint32_t end = t.position + t.count;
    for (uint32_t p = oldest_seen(block(), t.position); p < end; ++p) {
      for (uint32_t kind = 0; kind < 2; ++kind) {
        for (uint32_t h = 0; h < s.kv_heads; ++h) {
          const float* from = rows_.data() + p * width_ + size_t{s.heads + kind * s.kv_heads + h} * s.dim;
          std::copy_n(from, s.dim, &cache[kind * plane + (size_t{h} * kept + p % kept) * s.dim]);
        }
      }
    }
    if (case_.dtype == Dtype::kF32) return upload(cache.data(), cache.size() * sizeof(float));
    std::vector<uint16_t> halves(cache.size());
    for (size_t i = 0; i < cache.size(); ++i) halves[i] = f32_to_f16(cache[i]);
    return upload(halves.data(), halves.size() * sizeof(uint16_t));
  }

  /// partial_bytes: room for several pieces.
  std::vector<float> attended(Tokens t, uint32_t kept, uint64_t partial_bytes) {
    const size_t count = size_t{t.count} * block().q_width();
    const DeviceBuffer qkv = upload(rows_.data() + t.position * width_, t.count * width_ * sizeof(float));
    const DeviceBuffer cache = device_cache(t, kept);
    const std::vector<float> nothing(count, std::nanf(""));
    const DeviceBuffer out = upload(nothing.data(), count * sizeof(float));
    DeviceBuffer partials;
    if (partial_bytes != 0) {
      const std::vector<float> none(partial_bytes / sizeof(float), std::nanf(""));
      partials = upload(none.data(), none.size() * sizeof(float));
    }
    Result<DeviceBuffer> readback = DeviceBuffer::create(*device_, out.size(), MemoryKind::kReadback);
    EXPECT_TRUE(readback.ok() && batch_->begin().ok());
    const LayerOps ops(*device_, case_.dtype);
    DeviceBuffer sinks;
    if (!sinks_.empty()) {
      std::vector<float> vectors = {std::nanf("")};
      vectors.insert(vectors.end(), sinks_.begin(), sinks_.end());
      sinks = upload(vectors.data(), vectors.size() * sizeof(float));
    }
    const DeviceRows sink_rows{sinks_.empty() ? nullptr : &sinks, 1, 0};
    const Status recorded =
        ops.attend(*batch_, block(), t.count, t.position, kept, qkv, cache, sink_rows, partials, out);
    EXPECT_TRUE(recorded.ok()) << recorded.message();
    batch_->barrier();
    batch_->copy(out, 0, *readback, 0, out.size());
    batch_->barrier();
    const Status done = batch_->submit_and_wait();
    EXPECT_TRUE(done.ok() && readback->invalidate().ok()) << done.message();
    std::vector<float> result(count);
    std::memcpy(result.data(), readback->mapped().data(), count * sizeof(float));
    return result;
  }

  void check(Tokens t, uint32_t kept, uint64_t partial_bytes) {
    const AttentionSplit split = split_attention(block(), t.count, t.position, partial_bytes);
    most_pieces_ = std::max(most_pieces_, split.pieces);
    const std::vector<float> got = attended(t, kept, partial_bytes), want = expected(t);
    float worst = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      const float off = std::abs(got[i] - want[i]);
      worst = off <= worst ? worst : off;  // what is not a number counts, too
      if (std::isnan(off)) break;
    }
    ASSERT_LE(worst, kTolerance) << t.count << " tokens at " << t.position << ", " << case_.shape.heads << " heads on "
                                 << case_.shape.kv_heads << " of " << case_.shape.dim << ", window " << case_.window
                                 << ", softcap " << case_.softcap << (case_.sinks ? ", sinks, " : ", ")
                                 << dtype_name(case_.dtype) << ", " << split.pieces << " pieces of " << split.piece;
  }
  void check(Tokens t) {
    check(t, kept_positions(block(), context_, t.count), attention_partial_bytes(block(), context_, t.count));
  }

  const KernelTable& kernels_ = kernel_table(CpuLevel::kScalar);
  std::unique_ptr<VulkanDevice> device_;
  std::unique_ptr<PipelineCache> pipelines_;
  std::unique_ptr<CommandBatch> batch_;
  Case case_;
  ModelLayout layout_;
  HostMemory cpu_memory_;
  KvCache cpu_cache_;
  uint32_t context_ = 0;
  size_t width_ = 0;
  std::vector<float> rows_, sinks_;
  uint32_t most_pieces_ = 0;
};

TEST_F(AttentionVulkan, OneTokenAtTheEdgesOfBlocksAndPieces) {
  for (const Case& c : {Case{{6, 2, 40}}, Case{{2, 2, 64}, Dtype::kF32}, Case{{9, 3, 64}, Dtype::kF16, 0, 0, true},
                        Case{{4, 1, 256}}, Case{{20, 1, 12}}, Case{{2, 1, 132}, Dtype::kF16, 0, 2.0f}}) {
    begin(c, 4096);
    for (const uint32_t length : {1u, 2u, 63u, 64u, 65u, 192u, 193u, 255u, 256u, 257u, 4095u, 4096u}) {
      check({length - 1, 1});
      if (HasFatalFailure()) return;
    }
    EXPECT_GT(most_pieces_, 32u);
  }
}

TEST_F(AttentionVulkan, SeveralTokensSeeWhatEachMay) {
  for (const Case& c : {Case{{1, 1, 4}}, Case{{3, 1, 64}}, Case{{2, 2, 96}, Dtype::kF32}, Case{{10, 2, 20}},
                        Case{{34, 2, 8}, Dtype::kF16, 0, 0, true}, Case{{8, 1, 160}, Dtype::kF32, 0, 3.0f}}) {
    begin(c, 1100);
    for (const Tokens& t : {Tokens{0, 2}, Tokens{0, 17}, Tokens{0, 70}, Tokens{61, 5}, Tokens{250, 8}, Tokens{640, 3},
                            Tokens{1000, 33}, Tokens{972, 128}}) {
      check(t);
      if (HasFatalFailure()) return;
    }
    EXPECT_GT(most_pieces_, 4u);
  }
}

TEST_F(AttentionVulkan, WindowsAndTheirRings) {
  for (const uint32_t window : {1u, 5u, 64u, 100u, 700u}) {
    for (const Case& c : {Case{{4, 2, 24}, Dtype::kF16, window}, Case{{5, 1, 16}, Dtype::kF32, window, 1.5f, true}}) {
      begin(c, 1500);
      for (const Tokens& t : {Tokens{0, 1}, Tokens{99, 1}, Tokens{100, 1}, Tokens{763, 1}, Tokens{1499, 1},
                              Tokens{0, 40}, Tokens{50, 130}, Tokens{690, 20}, Tokens{1400, 100}}) {
        check(t);
        if (HasFatalFailure()) return;
      }
    }
  }
  EXPECT_GT(most_pieces_, 8u);
}

TEST_F(AttentionVulkan, LittleRoomForPartialResultsMakesFewPieces) {
  begin({{6, 3, 32}}, 2000);
  const uint64_t all = attention_partial_bytes(block(), 2000, 1);
  std::vector<uint32_t> pieces;
  for (const uint64_t bytes : {uint64_t{0}, uint64_t{4}, all / 20, all / 3, all}) {
    pieces.push_back(split_attention(block(), 1, 1999, bytes).pieces);
    check({1999, 1}, 2000, bytes);
  }
  EXPECT_EQ(pieces[0], 1u);
  EXPECT_EQ(pieces[1], 1u);
  EXPECT_LT(pieces[2], pieces[3]);
  EXPECT_LT(pieces[3], pieces[4]);
}

}  // namespace
}  // namespace nwc
