// The public interface: names and versions, null handles, and structs of older and newer callers.
#include <algorithm>
#include <set>

#include "tests/capi/c_api_fixture.h"

namespace nwc::test {
namespace {

TEST(CApiBasics, VersionsAndStatusNames) {
  EXPECT_EQ(nwc_version_number(), NWC_VERSION_MAJOR * 1000000u + NWC_VERSION_MINOR * 1000u + NWC_VERSION_PATCH);
  EXPECT_EQ(nwc_version_string(), std::to_string(NWC_VERSION_MAJOR) + "." + std::to_string(NWC_VERSION_MINOR) + "." +
                                      std::to_string(NWC_VERSION_PATCH));
  EXPECT_EQ(nwc_format_version(), 1006u);
  std::set<std::string> names;
  for (const int s : {0, 10, 11, 12, 20, 21, 22, 40, 41, 42, 43, 60, 61, 62, 70, 71, 72, 80, 100})
    names.insert(nwc_status_string(static_cast<nwc_status>(s)));
  EXPECT_EQ(names.size(), 19u);
  EXPECT_NE(nwc_status_string(static_cast<nwc_status>(77)), nullptr);
  EXPECT_STREQ(nwc_dtype_string(NWC_DTYPE_BF16), "BF16");
  EXPECT_STREQ(nwc_dtype_string(99), "?");
  EXPECT_EQ(nwc_dtype_size(NWC_DTYPE_F64), 8u);
  EXPECT_EQ(nwc_dtype_size(99), 0u);
  EXPECT_EQ(nwc_dtype_size(NWC_DTYPE_F4), 0u);
  EXPECT_EQ(nwc_dtype_bits(NWC_DTYPE_F4), 4u);
  EXPECT_EQ(nwc_dtype_bits(NWC_DTYPE_F64), 64u);
  EXPECT_EQ(nwc_dtype_bits(99), 0u);
}

TEST(CApiBasics, NullHandlesAreRefusedOrIgnored) {
  nwc_model_destroy(nullptr);
  nwc_decoder_destroy(nullptr);
  nwc_session_destroy(nullptr);
  EXPECT_STREQ(nwc_model_last_error(nullptr), "");
  EXPECT_STREQ(nwc_decoder_last_error(nullptr), "");
  EXPECT_STREQ(nwc_session_last_error(nullptr), "");
  EXPECT_STREQ(nwc_decoder_name(nullptr), "");
  EXPECT_STREQ(nwc_session_name(nullptr), "");
  EXPECT_EQ(nwc_decoder_backend(nullptr), static_cast<uint32_t>(NWC_BACKEND_CPU));
  EXPECT_EQ(nwc_session_position(nullptr), 0u);
  const nwc_status bad = NWC_STATUS_INVALID_ARGUMENT;
  nwc_model_info info = zeroed<nwc_model_info>();
  nwc_tensor_info tensor = zeroed<nwc_tensor_info>();
  nwc_layer_info layer = zeroed<nwc_layer_info>();
  nwc_session_plan plan = zeroed<nwc_session_plan>();
  uint32_t u = 0;
  size_t n = 0;
  const char* s = nullptr;
  EXPECT_EQ(nwc_model_get_info(nullptr, &info), bad);
  EXPECT_EQ(nwc_model_tensor(nullptr, 0, &tensor), bad);
  EXPECT_EQ(nwc_model_layer(nullptr, 0, &layer), bad);
  EXPECT_EQ(nwc_model_find_tensor(nullptr, "x", &u), bad);
  EXPECT_EQ(nwc_model_read_raw(nullptr, 0, &u, 4), bad);
  uint64_t u64 = 0;
  double f64 = 0;
  EXPECT_EQ(nwc_model_get_u64(nullptr, "x", &u64), bad);
  EXPECT_EQ(nwc_model_get_f64(nullptr, "x", &f64), bad);
  EXPECT_EQ(nwc_model_get_string(nullptr, "x", &s), bad);
  EXPECT_EQ(nwc_model_key_at(nullptr, 0, &s, &u), bad);
  EXPECT_EQ(nwc_model_metadata_count(nullptr, 0, &u), bad);
  EXPECT_EQ(nwc_model_metadata_at(nullptr, 0, 0, &s, &s), bad);
  EXPECT_EQ(nwc_model_metadata_find(nullptr, 0, "x", &s), bad);
  EXPECT_EQ(nwc_tokenize(nullptr, "x", 1, 0, &u, 1, &n), bad);
  EXPECT_EQ(nwc_detokenize(nullptr, &u, 1, nullptr, 0, &n), bad);
  EXPECT_EQ(nwc_decoder_decode_tensor(nullptr, 0, 0, nullptr, nullptr, &u, 4), bad);
  EXPECT_EQ(nwc_decoder_decode_rows(nullptr, 0, 0, 0, 0, nullptr, nullptr, &u, 4), bad);
  EXPECT_EQ(nwc_decoder_decode_layer(nullptr, 0, 0, nullptr, nullptr, &u, 4, nullptr), bad);
  EXPECT_EQ(nwc_session_make_plan(nullptr, nullptr, nullptr, &plan), bad);
  EXPECT_EQ(nwc_session_get_plan(nullptr, &plan), bad);
  nwc_expert_stats experts = zeroed<nwc_expert_stats>();
  EXPECT_EQ(nwc_session_get_expert_stats(nullptr, &experts), bad);
  EXPECT_EQ(nwc_session_truncate(nullptr, 0), bad);
  EXPECT_EQ(nwc_session_eval(nullptr, &u, 1, 0, nullptr, 0), bad);
  EXPECT_EQ(nwc_session_generate(nullptr, &u, 1, nullptr, nullptr, nullptr, nullptr), bad);
  EXPECT_EQ(nwc_vulkan_device_count(nullptr), bad);
}

TEST_F(CApi, StructSizesAreChecked) {
  nwc_model_info i = zeroed<nwc_model_info>();
  i.struct_size = 0;
  expect_model_error(nwc_model_get_info(model, &i), NWC_STATUS_INVALID_ARGUMENT, "nwc_model_info");
  i.struct_size = sizeof i - 1;
  EXPECT_EQ(nwc_model_get_info(model, &i), NWC_STATUS_INVALID_ARGUMENT);
  i.struct_size = UINT32_MAX;
  EXPECT_EQ(nwc_model_get_info(model, &i), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_model_get_info(model, nullptr), NWC_STATUS_INVALID_ARGUMENT);

  // A caller with a newer header: what we do not know must be zero on the way in, and is zero on the way out.
  struct {
    nwc_model_info info;
    uint64_t newer;
  } big_out = {};
  big_out.info.struct_size = sizeof big_out;
  big_out.newer = 7;
  ASSERT_EQ(nwc_model_get_info(model, &big_out.info), NWC_STATUS_OK);
  EXPECT_EQ(big_out.info.struct_size, sizeof big_out);
  EXPECT_EQ(big_out.info.num_tensors, info.num_tensors);
  EXPECT_EQ(big_out.newer, 0u);
  struct {
    nwc_decoder_params params;
    uint64_t newer;
  } big_in = {};
  big_in.params.struct_size = sizeof big_in;
  big_in.params.backend = NWC_BACKEND_CPU;
  Decoder d;
  EXPECT_EQ(nwc_decoder_create(model, &big_in.params, nullptr, &d.p), NWC_STATUS_OK);
  big_in.newer = 1;
  Decoder none;
  EXPECT_EQ(nwc_decoder_create(model, &big_in.params, nullptr, &none.p), NWC_STATUS_UNSUPPORTED);
  EXPECT_EQ(none.p, nullptr);
}

// Callers that were compiled with an older header, whose structs lack the last field, and with a newer one, whose
// structs have another: for every struct, on the way in and out.
template <typename T>
struct Aged {
  alignas(T) unsigned char bytes[sizeof(T) + 8];
  explicit Aged(int by) {  // bytes more or less than today
    std::memset(bytes, 0, sizeof(T));
    std::memset(bytes + sizeof(T), 0x5a, 8);
    set_size(by);
    if (by > 0) std::memset(bytes + sizeof(T), 0, 8);
  }
  void set_size(int by) { get()->struct_size = static_cast<uint32_t>(static_cast<int>(sizeof(T)) + by); }
  T* get() { return reinterpret_cast<T*>(bytes); }
  /// Nothing beyond struct_size was written, and what is newer is 0.
  void expect_kept(int by) {
    const size_t end = sizeof(T) + static_cast<size_t>(by + 8) - 8;
    EXPECT_EQ(get()->struct_size, end);
    for (size_t i = sizeof(T); i < std::max(sizeof(T), end); ++i) EXPECT_EQ(bytes[i], 0);
    for (size_t i = std::max(sizeof(T), end); i < sizeof bytes; ++i) EXPECT_EQ(bytes[i], 0x5a);
    for (size_t i = std::min(sizeof(T), end); i < sizeof(T); ++i) EXPECT_EQ(bytes[i], 0) << "written beyond its end";
  }
};

TEST_F(CApi, StructsOfOlderAndNewerCallers) {
  for (const int by : {-8, 0, 8}) {
    Aged<nwc_model_info> model_info(by);
    ASSERT_EQ(nwc_model_get_info(model, model_info.get()), NWC_STATUS_OK) << nwc_model_last_error(model);
    EXPECT_EQ(model_info.get()->num_weights, info.num_weights);
    model_info.expect_kept(by);
    Aged<nwc_tensor_info> tensor_info(by);
    ASSERT_EQ(nwc_model_tensor(model, coded, tensor_info.get()), NWC_STATUS_OK) << nwc_model_last_error(model);
    EXPECT_EQ(tensor_info.get()->rows, tensor(coded).rows);
    tensor_info.expect_kept(by);
    Aged<nwc_layer_info> layer_info(by);
    ASSERT_EQ(nwc_model_layer(model, 0, layer_info.get()), NWC_STATUS_OK) << nwc_model_last_error(model);
    layer_info.expect_kept(by);
    uint32_t devices = 0;
    ASSERT_EQ(nwc_vulkan_device_count(&devices), NWC_STATUS_OK);
    Aged<nwc_device_info> device_info(by);
    ASSERT_EQ(nwc_vulkan_device(0, device_info.get()), devices == 0 ? NWC_STATUS_NOT_FOUND : NWC_STATUS_OK);
    if (devices != 0) device_info.expect_kept(by);

    Aged<nwc_decoder_params> decoder_params(by);
    decoder_params.get()->backend = NWC_BACKEND_CPU;
    Decoder d;
    ASSERT_EQ(nwc_decoder_create(model, decoder_params.get(), nullptr, &d.p), NWC_STATUS_OK);
    Aged<nwc_session_params> session_params(by);
    session_params.get()->backend = NWC_BACKEND_CPU;
    session_params.get()->context = 16;
    Detail why;
    Aged<nwc_session_plan> plan(by);
    ASSERT_EQ(nwc_session_make_plan(model, session_params.get(), &why.detail, plan.get()), NWC_STATUS_OK) << why.text;
    EXPECT_GT(plan.get()->total_bytes, 0u);
    plan.expect_kept(by);
    Aged<nwc_session_estimate> estimate(by);
    ASSERT_EQ(nwc_session_make_estimate(model, session_params.get(), &why.detail, estimate.get()), NWC_STATUS_OK)
        << why.text;
    EXPECT_GT(estimate.get()->decode_weights_per_second, 0);
    estimate.expect_kept(by);
    nwc_session* session = nullptr;
    ASSERT_EQ(nwc_session_create(model, session_params.get(), nullptr, nullptr, &why.detail, &session), NWC_STATUS_OK);
    Aged<nwc_generate_params> generate_params(by);
    generate_params.get()->max_tokens = 2;
    generate_params.get()->ignore_eos = 1;
    uint32_t drawn = 0;
    const uint32_t prompt[] = {5, 6};
    EXPECT_EQ(nwc_session_generate(
                  session, prompt, 2, generate_params.get(),
                  [](void* user, uint32_t, const char*, size_t) {
                    ++*static_cast<uint32_t*>(user);
                    return 0;
                  },
                  &drawn, nullptr),
              NWC_STATUS_OK);
    EXPECT_EQ(drawn, 2u);
    nwc_session_destroy(session);

    Aged<nwc_read_callbacks> callbacks(by);
    callbacks.get()->size_bytes = model_bytes().size();
    callbacks.get()->read = [](void*, uint64_t offset, void* out, size_t size) {
      std::memcpy(out, model_bytes().data() + offset, size);
      return 0;
    };
    Model read;
    EXPECT_EQ(nwc_model_open_callbacks(callbacks.get(), nullptr, &read.p), NWC_STATUS_OK);
  }
  // Too old for any header, and newer with a field that we do not know.
  Aged<nwc_session_params> params(-32);
  nwc_session_plan plan = zeroed<nwc_session_plan>();
  EXPECT_EQ(nwc_session_make_plan(model, params.get(), nullptr, &plan), NWC_STATUS_INVALID_ARGUMENT);
  params.set_size(8);
  EXPECT_EQ(nwc_session_make_plan(model, params.get(), nullptr, &plan), NWC_STATUS_UNSUPPORTED);
}

}  // namespace
}  // namespace nwc::test
