#include <atomic>
#include <chrono>

#include "runtime/engine/layer_stream.h"
#include "tests/engine/model_fixture.h"

namespace nwc::test {
namespace {

TEST(LayerStream, DeliversLayersInOrderOverAndOver) {
  std::vector<uint8_t> slots[2] = {std::vector<uint8_t>(8), std::vector<uint8_t>(8)};
  std::atomic<int> decoded{0};
  auto stream = LayerStream::start(2, 5, [&](uint32_t layer, uint32_t piece, uint32_t slot) -> Result<bool> {
    decoded += piece == 0;
    slots[slot][piece] = static_cast<uint8_t>(layer);
    return piece == 7;
  });
  ASSERT_TRUE(stream.ok());
  const LayerStream::Running running(stream->get());
  for (int i = 0; i < 1000; ++i) {
    const Result<uint32_t> slot = (*stream)->acquire(static_cast<uint32_t>(2 + i % 3));
    ASSERT_TRUE(slot.ok());
    for (size_t j = 0; j < 8; ++j) ASSERT_EQ(slots[*slot][j], 2 + i % 3);
    EXPECT_LE(decoded, i + 2) << "more than one layer ahead";
    (*stream)->release();
  }
}

TEST(LayerStream, ReportsAnErrorInItsPlaceThenStartsAgain) {
  for (uint32_t bad = 0; bad < 4; ++bad) {
    uint32_t slots[2] = {};
    bool fail = true;
    auto stream = LayerStream::start(0, 4, [&](uint32_t layer, uint32_t piece, uint32_t slot) -> Result<bool> {
      if (layer == bad && piece == 1 && fail) {
        fail = false;
        return corrupt("made to fail");
      }
      slots[slot] = layer;
      return piece == 2;
    });
    const LayerStream::Running running(stream->get());
    for (uint32_t l = 0; l < bad; ++l) {
      const Result<uint32_t> slot = (*stream)->acquire(l);
      ASSERT_TRUE(slot.ok());
      ASSERT_EQ(slots[*slot], l);
      (*stream)->release();
    }
    EXPECT_EQ((*stream)->acquire(bad).status().code(), StatusCode::kCorrupt);
    for (uint32_t l = 0; l < 9; ++l) {
      const Result<uint32_t> slot = (*stream)->acquire(l % 4);
      ASSERT_TRUE(slot.ok());
      ASSERT_EQ(slots[*slot], l % 4);
      (*stream)->release();
    }
  }
}

// Whoever could not finish with a layer begins again with the first one, wherever the stream stands by then.
TEST(LayerStream, StartsAgainWhereItIsAsked) {
  std::atomic<uint32_t> slots[2] = {};
  auto stream = LayerStream::start(1, 7, [&](uint32_t layer, uint32_t piece, uint32_t slot) -> Result<bool> {
    slots[slot] = layer;
    return piece == 2;
  });
  ASSERT_TRUE(stream.ok());
  const LayerStream::Running running(stream->get());
  for (int round = 0; round < 300; ++round) {
    const uint32_t end = 2 + static_cast<uint32_t>(round) % 6;
    for (uint32_t l = 1; l < end; ++l) {
      const Result<uint32_t> slot = (*stream)->acquire(l);
      ASSERT_TRUE(slot.ok());
      ASSERT_EQ(slots[*slot], l);
      (*stream)->release();
    }
  }
}

TEST(LayerStream, ErrorsOfLayersThatNobodyWaitsForAreNotReported) {
  auto stream = LayerStream::start(0, 4, [&](uint32_t layer, uint32_t, uint32_t) -> Result<bool> {
    if (layer == 2) return corrupt("made to fail");
    return true;
  });
  const LayerStream::Running running(stream->get());
  ASSERT_TRUE((*stream)->acquire(0).ok());
  (*stream)->release();
  ASSERT_TRUE((*stream)->acquire(1).ok());
  (*stream)->release();
  ASSERT_TRUE((*stream)->acquire(0).ok()) << "the caller begins anew";
}

// The thread may meet an error between two calls, ahead of everybody. What caused it may be gone by the next call.
TEST(LayerStream, AnErrorFromAnEarlierCallIsTriedAgain) {
  for (uint32_t bad = 0; bad < 3; ++bad) {
    std::atomic<bool> broken{true};
    std::atomic<int> failures{0};
    uint32_t slots[2] = {};
    auto stream = LayerStream::start(0, 3, [&](uint32_t layer, uint32_t, uint32_t slot) -> Result<bool> {
      if (layer == bad && broken) {
        ++failures;
        return corrupt("made to fail");
      }
      slots[slot] = layer;
      return true;
    });
    ASSERT_TRUE(stream.ok());
    {
      const LayerStream::Running running(stream->get());
      for (uint32_t l = 0; l + 1 < bad; ++l) {
        ASSERT_TRUE((*stream)->acquire(l).ok());
        (*stream)->release();
      }
      while (failures == 0) std::this_thread::yield();
    }
    broken = false;
    const LayerStream::Running running(stream->get());
    for (uint32_t l = bad == 0 ? 0 : bad - 1; l < 9; ++l) {
      const Result<uint32_t> slot = (*stream)->acquire(l % 3);
      ASSERT_TRUE(slot.ok()) << bad << " " << l;
      ASSERT_EQ(slots[*slot], l % 3);
      (*stream)->release();
    }
  }
}

TEST(LayerStream, ExceptionsBecomeErrors) {
  auto stream = LayerStream::start(0, 3, [](uint32_t, uint32_t, uint32_t) -> Result<bool> { throw std::bad_alloc(); });
  const LayerStream::Running running(stream->get());
  EXPECT_EQ((*stream)->acquire(0).status().code(), StatusCode::kOutOfMemory);
}

TEST(LayerStream, CallsNobodyWhilePausedAndGoesOnWhereItWas) {
  std::atomic<bool> allowed{false};
  std::atomic<int> calls{0};
  std::vector<std::pair<uint32_t, uint32_t>> order;  // of layers and pieces
  auto stream = LayerStream::start(0, 2, [&](uint32_t layer, uint32_t piece, uint32_t) -> Result<bool> {
    EXPECT_TRUE(allowed) << layer << " " << piece;
    ++calls;
    order.emplace_back(layer, piece);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_TRUE(allowed) << "pause() returned before the piece was done";
    return piece == 4;
  });
  ASSERT_TRUE(stream.ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(calls, 0) << "it begins paused";
  for (int i = 0; i < 20; ++i) {
    allowed = true;
    (*stream)->resume();
    if (i % 3 == 2) {
      ASSERT_TRUE((*stream)->acquire(static_cast<uint32_t>(i / 3 % 2)).ok());
      (*stream)->release();
    }
    (*stream)->pause();
    allowed = false;
    const int before = calls;
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    EXPECT_EQ(calls, before);
  }
  stream = Status(StatusCode::kInternal, "ends the thread");
  for (size_t i = 0; i < order.size(); ++i)
    EXPECT_EQ(order[i], (std::pair{static_cast<uint32_t>(i / 5 % 2), static_cast<uint32_t>(i % 5)}));
}

TEST(LayerStream, DecodesOncePerBatchAndChecksOnce) {
  const PlainModel model = random_model(wide_record(), 1);
  SessionParams params;
  params.mode = SessionMode::kStreamed;
  params.batch = 32;
  Bench bench = make_bench(model, params);
  const MemoryPlan bench_plan = bench.session->plan();
  const std::vector<uint32_t> tokens = random_tokens(128, 101, 2);
  for (int pass = 0; pass < 2; ++pass) {
    all_logits(*bench.session, tokens);
    bench.session->reset();
  }
  bench.session.reset();  // joins the thread: the counts are final
  for (uint32_t l = 0; l < 5; ++l) {
    const std::string name = "model.layers." + std::to_string(l) + ".self_attn.q_proj.weight";
    EXPECT_GE(bench.decoder->calls(name), 8) << "2 passes of 4 batches";
    EXPECT_LE(bench.decoder->calls(name), 9) << "and at most one decoded ahead";
    EXPECT_EQ(bench.decoder->checks(name), 1);
  }
  EXPECT_EQ(bench.decoder->calls("model.embed_tokens.weight"), 1);

  // Without room for the embedding: one row per distinct token, one band or more per head, still checked once.
  params.memory_budget_bytes = bench_plan.needed_streamed;
  Bench least = make_bench(model, params);
  std::vector<float> logits(model.record.vocab_size);
  const uint32_t repeated[] = {7, 7, 9, 7};
  ASSERT_TRUE(least.session->eval(repeated, LogitsWanted::kNone, {}).ok());
  EXPECT_EQ(least.decoder->calls("model.embed_tokens.weight"), 2);
  ASSERT_TRUE(least.session->eval(repeated, LogitsWanted::kLast, logits).ok());
  EXPECT_EQ(least.decoder->calls("model.embed_tokens.weight"), 6) << "two rows again, two bands of the head";
  EXPECT_EQ(least.decoder->checks("model.embed_tokens.weight"), 1);
  params.check_crc = false;
  Bench unchecked = make_bench(model, params);
  EXPECT_EQ(unchecked.decoder->checks("model.norm.weight"), 0);
}

/// Bands are multiples of 16 rows, not powers of two: SmolLM2's have 288.
TEST(LayerStream, PiecesAreWholePairsOfBands) {
  for (const uint64_t band : {16u, 48u, 80u, 288u, 512u}) {
    for (const uint64_t cols : {64u, 576u, 1536u, 65536u}) {
      for (const uint64_t weights : {1u, 1u << 18, 1u << 19, 1000003u}) {
        const uint64_t rows = piece_rows(weights, cols, band);
        EXPECT_GT(rows, 0u);
        EXPECT_EQ(rows % (2 * band), 0u) << band << ", " << cols << ", " << weights;
        EXPECT_GE(rows, weights / cols);
        EXPECT_LT(rows, weights / cols + 2 * band + 1);
      }
    }
  }
}

}  // namespace
}  // namespace nwc::test
