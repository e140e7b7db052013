// Decoders through the public interface: ranges and types, progress, callers' threads, logs and backends.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <thread>
#include <utility>

#include "tests/capi/c_api_fixture.h"
#include "tests/data/temp_dir.h"

namespace nwc::test {
namespace {

TEST_F(CApi, RowsAndHalvesAgreeWithTheWholeTensor) {
  const std::vector<float> all = decode(decoder, coded);
  const uint64_t rows = 192, cols = 512;
  for (const auto& [begin, end] : {std::pair<uint64_t, uint64_t>{0, rows}, {0, 1}, {5, 37}, {191, 192}, {7, 7}}) {
    std::vector<float> part(static_cast<size_t>((end - begin) * cols));
    ASSERT_EQ(nwc_decoder_decode_rows(decoder, coded, begin, end, NWC_DTYPE_F32, nullptr, nullptr, part.data(),
                                      part.size() * 4),
              NWC_STATUS_OK);
    EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + static_cast<ptrdiff_t>(begin * cols)));
  }
  std::vector<uint16_t> bf16(all.size());
  ASSERT_EQ(nwc_decoder_decode_tensor(decoder, coded, NWC_DTYPE_BF16, nullptr, nullptr, bf16.data(), bf16.size() * 2),
            NWC_STATUS_OK);
  for (size_t i = 0; i < all.size(); ++i) {
    const uint32_t bits = static_cast<uint32_t>(bf16[i]) << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    ASSERT_NEAR(f, all[i], std::abs(all[i]) / 256) << i;
  }
}

TEST_F(CApi, DecodeArgumentsAreChecked) {
  std::vector<float> out(192 * 512);
  const size_t bytes = out.size() * 4;
  const auto decode_tensor = [&](uint32_t t, nwc_dtype dtype, void* to, size_t size) {
    return nwc_decoder_decode_tensor(decoder, t, dtype, nullptr, nullptr, to, size);
  };
  expect_decoder_error(decode_tensor(info.num_tensors, 0, out.data(), bytes), NWC_STATUS_NOT_FOUND, "tensor");
  expect_decoder_error(decode_tensor(coded, NWC_DTYPE_I8, out.data(), bytes), NWC_STATUS_INVALID_ARGUMENT, "I8");
  EXPECT_EQ(decode_tensor(coded, 12345, out.data(), bytes), NWC_STATUS_INVALID_ARGUMENT);
  expect_decoder_error(decode_tensor(coded, 0, out.data(), bytes - 1), NWC_STATUS_BUFFER_TOO_SMALL, "down_proj");
  EXPECT_EQ(decode_tensor(coded, 0, nullptr, bytes), NWC_STATUS_INVALID_ARGUMENT);
  std::vector<uint8_t> unaligned(bytes + 4);
  EXPECT_EQ(decode_tensor(coded, 0, unaligned.data() + 1, bytes), NWC_STATUS_INVALID_ARGUMENT);
  expect_decoder_error(decode_tensor(ids, 0, out.data(), bytes), NWC_STATUS_UNSUPPORTED, "nwc_model_read_raw");
  const auto decode_rows = [&](uint64_t begin, uint64_t end, size_t size) {
    return nwc_decoder_decode_rows(decoder, coded, begin, end, 0, nullptr, nullptr, out.data(), size);
  };
  EXPECT_EQ(decode_rows(0, 193, bytes), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(decode_rows(5, 4, bytes), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(decode_rows(UINT64_MAX, UINT64_MAX, bytes), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(decode_rows(3, 5, 2 * 512 * 4 - 1), NWC_STATUS_BUFFER_TOO_SMALL);
  EXPECT_EQ(decode_rows(3, 5, 2 * 512 * 4), NWC_STATUS_OK);
}

TEST_F(CApi, LayersDecodeToTheirTensors) {
  nwc_layer_info layer = zeroed<nwc_layer_info>();
  const uint32_t l = tensor(coded).layer;
  ASSERT_EQ(nwc_model_layer(model, l, &layer), NWC_STATUS_OK);
  ASSERT_GT(layer.num_tensors, 1u);
  std::vector<float> out(layer.decoded_bytes_f32 / 4);
  std::vector<uint64_t> offsets(layer.num_tensors);
  ASSERT_EQ(
      nwc_decoder_decode_layer(decoder, l, NWC_DTYPE_F32, nullptr, nullptr, out.data(), out.size() * 4, offsets.data()),
      NWC_STATUS_OK)
      << nwc_decoder_last_error(decoder);
  for (uint32_t i = 0; i < layer.num_tensors; ++i) {
    EXPECT_EQ(offsets[i] % NWC_LAYER_ALIGNMENT, 0u);
    const std::vector<float> want = decode(decoder, layer.first_tensor + i);
    ASSERT_LE(offsets[i] / 4 + want.size(), out.size());
    EXPECT_TRUE(std::equal(want.begin(), want.end(), out.begin() + static_cast<ptrdiff_t>(offsets[i] / 4))) << i;
  }
  EXPECT_EQ(nwc_decoder_decode_layer(decoder, l, NWC_DTYPE_F32, nullptr, nullptr, out.data(), out.size() * 4, nullptr),
            NWC_STATUS_OK);
  expect_decoder_error(
      nwc_decoder_decode_layer(decoder, l, NWC_DTYPE_F32, nullptr, nullptr, out.data(), out.size() * 4 - 1, nullptr),
      NWC_STATUS_BUFFER_TOO_SMALL, "layer");
  EXPECT_EQ(nwc_decoder_decode_layer(decoder, info.num_layers_stored, 0, nullptr, nullptr, out.data(), 1, nullptr),
            NWC_STATUS_NOT_FOUND);
  EXPECT_EQ(nwc_decoder_decode_layer(decoder, l, NWC_DTYPE_I8, nullptr, nullptr, out.data(), out.size() * 4, nullptr),
            NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(
      nwc_decoder_decode_layer(decoder, tensor(ids).layer, 0, nullptr, nullptr, out.data(), out.size() * 4, nullptr),
      NWC_STATUS_UNSUPPORTED);
}

struct CountingProgress {
  std::atomic<uint64_t> calls{0}, last_done{0}, total{0};
  uint64_t cancel_at = UINT64_MAX;
  std::atomic<int> inside{0};
  std::atomic<bool> overlapped{false};
};
int count_progress(void* user, uint64_t done, uint64_t total) {
  auto& p = *static_cast<CountingProgress*>(user);
  if (p.inside.fetch_add(1) != 0) p.overlapped = true;
  p.last_done = done;
  p.total = total;
  const bool cancel = ++p.calls >= p.cancel_at;
  p.inside.fetch_sub(1);
  return cancel ? 1 : 0;
}

TEST_F(CApi, ProgressCountsAndCancels) {
  std::vector<float> out(1024 * 192);
  uint32_t embedding = 0;
  ASSERT_EQ(nwc_model_find_tensor(model, "model.embed_tokens.weight", &embedding), NWC_STATUS_OK);
  CountingProgress all;
  ASSERT_EQ(nwc_decoder_decode_tensor(decoder, embedding, 0, count_progress, &all, out.data(), out.size() * 4),
            NWC_STATUS_OK);
  EXPECT_GE(all.calls, 1u);
  EXPECT_EQ(all.last_done, all.total) << "the last report says that all is done";
  EXPECT_FALSE(all.overlapped) << "reports must not overlap";

  CountingProgress cancel;
  cancel.cancel_at = 1;
  expect_decoder_error(
      nwc_decoder_decode_tensor(decoder, embedding, 0, count_progress, &cancel, out.data(), out.size() * 4),
      NWC_STATUS_CANCELLED, "");
  EXPECT_STRNE(nwc_decoder_last_error(decoder), "");

  CountingProgress layer;
  layer.cancel_at = 3;
  std::vector<uint8_t> buffer(1 << 22);
  EXPECT_EQ(nwc_decoder_decode_layer(decoder, tensor(coded).layer, 0, count_progress, &layer, buffer.data(),
                                     buffer.size(), nullptr),
            NWC_STATUS_CANCELLED);
  EXPECT_EQ(layer.calls, 3u);
  EXPECT_FALSE(decode(decoder, coded).empty()) << "and the decoder goes on";
}

struct RunnerState {
  std::atomic<uint32_t> runs{0}, tasks{0};
};
void run_backwards(void* user, uint32_t count, nwc_task task, void* data) {
  auto& state = *static_cast<RunnerState*>(user);
  ++state.runs;
  std::thread half([&] {
    for (uint32_t i = count; i-- > 0;)
      if (i % 2 == 0) task(data, i, 1), ++state.tasks;
  });
  for (uint32_t i = count; i-- > 0;)
    if (i % 2 == 1) task(data, i, 0), ++state.tasks;
  half.join();
}

TEST_F(CApi, CallersThreadsAndThreadCountsGiveTheSame) {
  const std::vector<float> want = decode(decoder, coded);
  for (const uint32_t threads : {1u, 2u, 7u}) {
    nwc_decoder_params p = cpu_params();
    p.num_threads = threads;
    Decoder d;
    ASSERT_EQ(nwc_decoder_create(model, &p, nullptr, &d.p), NWC_STATUS_OK);
    EXPECT_EQ(decode(d, coded), want) << threads;
  }
  RunnerState state;
  nwc_runner runner = {&state, 2, run_backwards};
  nwc_decoder_params p = cpu_params();
  p.runner = &runner;
  Decoder d;
  ASSERT_EQ(nwc_decoder_create(model, &p, nullptr, &d.p), NWC_STATUS_OK);
  EXPECT_EQ(decode(d, coded), want);
  EXPECT_GT(state.runs, 0u);
  EXPECT_GT(state.tasks, 0u);

  Decoder none;
  Detail detail;
  runner.num_workers = 0;
  EXPECT_EQ(nwc_decoder_create(model, &p, &detail.detail, &none.p), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_NE(std::string(detail.text).find("num_workers"), std::string::npos);
  runner = {&state, 2, nullptr};
  EXPECT_EQ(nwc_decoder_create(model, &p, nullptr, &none.p), NWC_STATUS_INVALID_ARGUMENT);
  p = cpu_params();
  p.backend = 3;
  EXPECT_EQ(nwc_decoder_create(model, &p, nullptr, &none.p), NWC_STATUS_INVALID_ARGUMENT);
  p = cpu_params();
  p.device_index = -1;
  EXPECT_EQ(nwc_decoder_create(model, &p, nullptr, &none.p), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_decoder_create(nullptr, nullptr, nullptr, &none.p), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_decoder_create(model, nullptr, nullptr, nullptr), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(none.p, nullptr);
}

TEST_F(CApi, LastErrorsBelongToTheThread) {
  uint32_t u = 0;
  EXPECT_EQ(nwc_model_find_tensor(model, "mine", &u), NWC_STATUS_NOT_FOUND);
  const char* mine = nwc_model_last_error(model);
  std::thread([&] {
    EXPECT_STREQ(nwc_model_last_error(model), "");
    EXPECT_EQ(nwc_model_find_tensor(model, "theirs", &u), NWC_STATUS_NOT_FOUND);
    EXPECT_NE(std::string(nwc_model_last_error(model)).find("theirs"), std::string::npos);
  }).join();
  EXPECT_EQ(nwc_model_last_error(model), mine);
  EXPECT_NE(std::string(mine).find("mine"), std::string::npos);
}

struct LogLines {
  std::vector<std::string> lines;
};
void collect_log(void* user, nwc_log_level, const char* message) {
  static_cast<LogLines*>(user)->lines.push_back(message);
}

TEST_F(CApi, AutoNamesItsChoiceInTheLog) {
  LogLines log;
  nwc_decoder_params p = zeroed<nwc_decoder_params>();
  p.log = collect_log;
  p.log_user = &log;
  Decoder d;
  Detail detail;
  ASSERT_EQ(nwc_decoder_create(model, &p, &detail.detail, &d.p), NWC_STATUS_OK) << detail.text;
  EXPECT_STREQ(detail.text, "");
  bool real_device = false;
  uint32_t count = 0;
  ASSERT_EQ(nwc_vulkan_device_count(&count), NWC_STATUS_OK);
  for (uint32_t i = 0; i < count; ++i) {
    nwc_device_info device = zeroed<nwc_device_info>();
    ASSERT_EQ(nwc_vulkan_device(i, &device), NWC_STATUS_OK);
    EXPECT_STRNE(device.name, "");
    real_device = real_device || (device.usable && device.type != NWC_DEVICE_CPU);
  }
  nwc_device_info device = zeroed<nwc_device_info>();
  EXPECT_EQ(nwc_vulkan_device(count, &device), NWC_STATUS_NOT_FOUND);
  if (!real_device) {
    EXPECT_EQ(nwc_decoder_backend(d), static_cast<uint32_t>(NWC_BACKEND_CPU));
  }
  EXPECT_TRUE(std::any_of(log.lines.begin(), log.lines.end(),
                          [](const std::string& line) { return line.find("backend auto") != std::string::npos; }));
}

TEST_F(CApi, VulkanGivesTheSameWeights) {
  uint32_t count = 0;
  ASSERT_EQ(nwc_vulkan_device_count(&count), NWC_STATUS_OK);
  if (count == 0) {
    const char* required = std::getenv("NWC_REQUIRE_VULKAN");
    ASSERT_FALSE(required != nullptr && std::string(required) == "1") << "no Vulkan device";
    GTEST_SKIP() << "no Vulkan device";
  }
  nwc_decoder_params p = zeroed<nwc_decoder_params>();
  p.backend = NWC_BACKEND_VULKAN;
  const test::TempDir cache;
  p.cache_directory = cache.path().c_str();
  Decoder d;
  Detail detail;
  ASSERT_EQ(nwc_decoder_create(model, &p, &detail.detail, &d.p), NWC_STATUS_OK) << detail.text;
  EXPECT_FALSE(std::filesystem::is_empty(cache.path())) << "compiled kernels";
  p.cache_directory = nullptr;
  EXPECT_EQ(nwc_decoder_backend(d), static_cast<uint32_t>(NWC_BACKEND_VULKAN));
  EXPECT_EQ(std::string(nwc_decoder_name(d)).rfind("vulkan", 0), 0u);
  const std::vector<float> want = decode(decoder, coded), got = decode(d, coded);
  float largest = 0;
  for (const float w : want) largest = std::max(largest, std::abs(w));
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], largest * 0x1p-12f) << i;
  p.device_name = "no device has this name";
  Decoder none;
  EXPECT_EQ(nwc_decoder_create(model, &p, nullptr, &none.p), NWC_STATUS_NO_DEVICE);
}

}  // namespace
}  // namespace nwc::test
