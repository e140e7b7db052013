// Fixtures for the tests of the public interface. These tests see nothing of the library but its header.
#pragma once

#include <gtest/gtest.h>
#include <nwc/nwc.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace nwc::test {

inline std::vector<uint8_t> read_file(const char* path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}
inline const std::vector<uint8_t>& model_bytes() {
  static const std::vector<uint8_t> bytes = read_file(NWC_TEST_MODEL);
  return bytes;
}

struct Detail {
  char text[512] = "untouched";
  nwc_error_detail detail{text, sizeof text};
};

template <typename T, void (*Destroy)(T*)>
struct Handle {
  T* p = nullptr;
  ~Handle() { Destroy(p); }
  operator T*() const { return p; }
};
using Model = Handle<nwc_model, nwc_model_destroy>;
using Decoder = Handle<nwc_decoder, nwc_decoder_destroy>;
using Session = Handle<nwc_session, nwc_session_destroy>;

template <typename T>
T zeroed() {
  T value;
  std::memset(&value, 0, sizeof value);
  value.struct_size = sizeof value;
  return value;
}

inline nwc_decoder_params cpu_params() {
  nwc_decoder_params p = zeroed<nwc_decoder_params>();
  p.backend = NWC_BACKEND_CPU;
  return p;
}

class CApi : public ::testing::Test {
 protected:
  void SetUp() override {
    Detail d;
    ASSERT_EQ(nwc_model_open_path(NWC_TEST_MODEL, &d.detail, &model.p), NWC_STATUS_OK)
        << d.text << " (the test make_capi_model writes the file)";
    const nwc_decoder_params p = cpu_params();
    ASSERT_EQ(nwc_decoder_create(model, &p, &d.detail, &decoder.p), NWC_STATUS_OK) << d.text;
    info = zeroed<nwc_model_info>();
    ASSERT_EQ(nwc_model_get_info(model, &info), NWC_STATUS_OK);
    ASSERT_EQ(nwc_model_find_tensor(model, "model.layers.0.mlp.down_proj.weight", &coded), NWC_STATUS_OK);
    ASSERT_EQ(nwc_model_find_tensor(model, "extra.ids", &ids), NWC_STATUS_OK);
  }
  nwc_tensor_info tensor(uint32_t t) {
    nwc_tensor_info out = zeroed<nwc_tensor_info>();
    EXPECT_EQ(nwc_model_tensor(model, t, &out), NWC_STATUS_OK);
    return out;
  }
  std::vector<float> decode(nwc_decoder* d, uint32_t t) {
    const nwc_tensor_info info_t = tensor(t);
    std::vector<float> out(static_cast<size_t>(info_t.rows * info_t.cols));
    EXPECT_EQ(nwc_decoder_decode_tensor(d, t, NWC_DTYPE_F32, nullptr, nullptr, out.data(), out.size() * 4),
              NWC_STATUS_OK)
        << nwc_decoder_last_error(d);
    return out;
  }
  /// The call failed with this status, and the handle says why.
  void expect_model_error(nwc_status got, nwc_status want, const char* mentions) {
    EXPECT_EQ(got, want);
    EXPECT_NE(std::string(nwc_model_last_error(model)).find(mentions), std::string::npos)
        << nwc_model_last_error(model);
  }
  void expect_decoder_error(nwc_status got, nwc_status want, const char* mentions) {
    EXPECT_EQ(got, want);
    EXPECT_NE(std::string(nwc_decoder_last_error(decoder)).find(mentions), std::string::npos)
        << nwc_decoder_last_error(decoder);
  }

  Model model;
  Decoder decoder;
  nwc_model_info info{};
  uint32_t coded = 0, ids = 0;
};

}  // namespace nwc::test
