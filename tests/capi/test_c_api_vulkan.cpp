// Decoders and sessions on a Vulkan device of the program's own, and decoding to its buffers.
#include <algorithm>
#include <memory>

#include "tests/capi/c_api_fixture.h"
#include "tests/capi/own_vulkan.h"

namespace nwc::test {
namespace {

constexpr uint8_t kUntouched = 0xa5;

class CApiVulkan : public CApi {
 protected:
  void SetUp() override {
    CApi::SetUp();
    if (OwnVulkan(false).ok()) return;
    const char* required = std::getenv("NWC_REQUIRE_VULKAN");
    ASSERT_TRUE(required == nullptr || std::string(required) != "1") << "no Vulkan device";
    GTEST_SKIP() << "no Vulkan device";
  }
  /// A decoder on `objects`, which may be null.
  nwc_status open(const nwc_vulkan_objects* objects, Decoder* out) {
    nwc_decoder_params p = zeroed<nwc_decoder_params>();
    p.backend = NWC_BACKEND_VULKAN;
    p.vulkan = objects;
    return nwc_decoder_create(model, &p, &why_.detail, &out->p);
  }
  nwc_buffer_rows rows_of(uint32_t t, nwc_dtype dtype, const OwnVulkan& vulkan, uint64_t bytes) {
    nwc_buffer_rows r{};
    r.tensor = t;
    r.dtype = dtype;
    r.row_end = tensor(t).rows;
    r.buffer = vulkan.buffer();
    r.buffer_bytes = bytes;
    return r;
  }
  Detail why_;
};

TEST_F(CApiVulkan, AllTensorsAtOnceAreWhatTheHostGets) {
  for (const bool features : {false, true}) {
    OwnVulkan vulkan(features);
    ASSERT_TRUE(vulkan.ok());
    const nwc_vulkan_objects objects = vulkan.objects();
    Decoder own;
    ASSERT_EQ(open(&objects, &own), NWC_STATUS_OK) << why_.text;
    EXPECT_EQ(nwc_decoder_backend(own), NWC_BACKEND_VULKAN);
    for (const nwc_dtype dtype : {NWC_DTYPE_F32, NWC_DTYPE_F16, NWC_DTYPE_BF16}) {
      std::vector<nwc_buffer_rows> rows;
      uint64_t bytes = 64;  // a gap in front, and behind each
      for (uint32_t t = 0; t < info.num_tensors; ++t) {
        if (t == ids) continue;
        nwc_buffer_rows r = rows_of(t, dtype, vulkan, 0);
        r.row_begin = r.row_end > 40 ? 3 : 0;  // within a chunk
        r.row_end -= r.row_end > 40 ? 5 : 0;
        r.offset = bytes;
        bytes += (r.row_end - r.row_begin) * tensor(t).cols * nwc_dtype_size(dtype);
        bytes = (bytes + 3) / 4 * 4 + 12;
        rows.push_back(r);
      }
      const uint8_t* const got = vulkan.make_buffer(bytes, kUntouched);
      ASSERT_NE(got, nullptr);
      for (nwc_buffer_rows& r : rows) {
        r.buffer = vulkan.buffer();
        r.buffer_bytes = bytes;
      }
      const uint64_t before = vulkan.locks();
      ASSERT_EQ(nwc_decoder_decode_to_buffers(own, rows.data(), rows.size(), nullptr, nullptr), NWC_STATUS_OK)
          << nwc_decoder_last_error(own);
      EXPECT_GT(vulkan.locks(), before);
      uint64_t end = 0;  // of what was written before
      for (const nwc_buffer_rows& r : rows) {
        std::vector<uint8_t> want(
            static_cast<size_t>((r.row_end - r.row_begin) * tensor(r.tensor).cols * nwc_dtype_size(dtype)));
        ASSERT_EQ(nwc_decoder_decode_rows(own, r.tensor, r.row_begin, r.row_end, dtype, nullptr, nullptr, want.data(),
                                          want.size()),
                  NWC_STATUS_OK);
        EXPECT_TRUE(std::equal(want.begin(), want.end(), got + r.offset)) << tensor(r.tensor).name;
        EXPECT_TRUE(std::all_of(got + end, got + r.offset, [](uint8_t b) { return b == kUntouched; }))
            << "in front of " << tensor(r.tensor).name;
        end = r.offset + want.size();
      }
    }
  }
}

TEST_F(CApiVulkan, WhatDoesNotFitIsRefused) {
  OwnVulkan vulkan(true);
  ASSERT_TRUE(vulkan.ok());
  const nwc_vulkan_objects objects = vulkan.objects();
  Decoder own;
  ASSERT_EQ(open(&objects, &own), NWC_STATUS_OK) << why_.text;
  const uint64_t bytes = tensor(coded).rows * tensor(coded).cols * 4;
  ASSERT_NE(vulkan.make_buffer(bytes, kUntouched), nullptr);
  const nwc_buffer_rows good = rows_of(coded, NWC_DTYPE_F32, vulkan, bytes);
  const auto expect = [&](nwc_status want, const char* mentions, auto&& change) {
    nwc_buffer_rows r = good;
    change(r);
    EXPECT_EQ(nwc_decoder_decode_to_buffers(own, &r, 1, nullptr, nullptr), want) << mentions;
    EXPECT_NE(std::string(nwc_decoder_last_error(own)).find(mentions), std::string::npos)
        << nwc_decoder_last_error(own);
  };
  expect(NWC_STATUS_BUFFER_TOO_SMALL, "needs", [](auto& r) { r.offset = 4; });
  expect(NWC_STATUS_BUFFER_TOO_SMALL, "needs", [](auto& r) { r.buffer_bytes -= 4; });
  expect(NWC_STATUS_INVALID_ARGUMENT, "multiple of 4", [](auto& r) { r.offset = 2; });
  expect(NWC_STATUS_INVALID_ARGUMENT, "buffer", [](auto& r) { r.buffer = 0; });
  expect(NWC_STATUS_INVALID_ARGUMENT, "end", [](auto& r) { r.offset = UINT64_MAX - 3; });
  expect(NWC_STATUS_INVALID_ARGUMENT, "rows", [](auto& r) { ++r.row_end; });
  expect(NWC_STATUS_INVALID_ARGUMENT, "dtype", [](auto& r) { r.dtype = NWC_DTYPE_I8; });
  expect(NWC_STATUS_UNSUPPORTED, "extra.ids", [&](auto& r) { r.tensor = ids; });
  expect(NWC_STATUS_NOT_FOUND, "tensor", [](auto& r) { r.tensor = 100000; });
  EXPECT_EQ(nwc_decoder_decode_to_buffers(own, nullptr, 1, nullptr, nullptr), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_decoder_decode_to_buffers(own, nullptr, 0, nullptr, nullptr), NWC_STATUS_OK);
  EXPECT_EQ(nwc_decoder_decode_to_buffers(own, &good, 1, nullptr, nullptr), NWC_STATUS_OK);

  // The buffer is nothing to a decoder on another device, nor to the CPU.
  Decoder other;
  ASSERT_EQ(open(nullptr, &other), NWC_STATUS_OK) << why_.text;
  for (nwc_decoder* d : {other.p, decoder.p})
    EXPECT_EQ(nwc_decoder_decode_to_buffers(d, &good, 1, nullptr, nullptr), NWC_STATUS_UNSUPPORTED);
}

TEST_F(CApiVulkan, HandlesThatDoNotBelongTogetherAreRefused) {
  OwnVulkan vulkan(false);
  ASSERT_TRUE(vulkan.ok());
  const auto expect = [&](const char* mentions, auto&& change, nwc_backend backend = NWC_BACKEND_VULKAN) {
    nwc_vulkan_objects o = vulkan.objects();
    nwc_decoder_params p = zeroed<nwc_decoder_params>();
    p.backend = backend;
    p.vulkan = &o;
    change(o, p);
    Decoder none;
    EXPECT_EQ(nwc_decoder_create(model, &p, &why_.detail, &none.p), NWC_STATUS_INVALID_ARGUMENT) << mentions;
    EXPECT_NE(std::string(why_.text).find(mentions), std::string::npos) << why_.text;
  };
  expect("device", [](auto& o, auto&) { o.device = nullptr; });
  expect("instance", [](auto& o, auto&) { o.instance = nullptr; });
  expect("queue", [](auto& o, auto&) { o.queue = nullptr; });
  expect("family", [](auto& o, auto&) { o.queue_family = 77; });
  expect("locked", [](auto& o, auto&) { o.unlock_queue = nullptr; });
  expect("struct_size", [](auto& o, auto&) { o.struct_size = 8; });
  int nothing = 0;
  expect("physical device", [&](auto& o, auto&) { o.physical_device = reinterpret_cast<VkPhysicalDevice>(&nothing); });
  expect(
      "CPU", [](auto&, auto&) {}, NWC_BACKEND_CPU);
  expect("device_index", [](auto&, auto& p) { p.device_index = 1; });
  expect("device_index", [](auto&, auto& p) { p.device_name = "llvmpipe"; });
  expect("device_index", [](auto&, auto& p) { p.validation = 1; });
}

TEST_F(CApiVulkan, ASessionComputesTheSameOnTheProgramsDevice) {
  const std::vector<uint32_t> tokens = {5, 17, 300, 2, 9};
  const auto logits = [&](const nwc_vulkan_objects* objects) {
    nwc_session_params p = zeroed<nwc_session_params>();
    p.backend = objects == nullptr ? NWC_BACKEND_VULKAN : NWC_BACKEND_AUTO;  // which takes the given one
    p.context = 16;
    p.vulkan = objects;
    Session session;
    std::vector<float> out(info.vocab_size);
    EXPECT_EQ(nwc_session_create(model, &p, nullptr, nullptr, &why_.detail, &session.p), NWC_STATUS_OK) << why_.text;
    EXPECT_EQ(std::string(nwc_session_name(session)).rfind("vulkan ", 0), 0u);
    EXPECT_EQ(nwc_session_eval(session, tokens.data(), tokens.size(), NWC_LOGITS_LAST, out.data(), out.size()),
              NWC_STATUS_OK)
        << nwc_session_last_error(session);
    return out;
  };
  OwnVulkan vulkan(true);
  ASSERT_TRUE(vulkan.ok());
  const nwc_vulkan_objects objects = vulkan.objects();
  EXPECT_EQ(logits(&objects), logits(nullptr));
  EXPECT_GT(vulkan.locks(), 0u);
}

}  // namespace
}  // namespace nwc::test
