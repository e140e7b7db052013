// The public interface: argument checks, struct versions, opening from every kind of source, decoding, cancelling,
// callers' threads, and hostile files. Sees nothing of the library but its header.
#include <gtest/gtest.h>
#include <nwc/nwc.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace {

std::vector<uint8_t> read_file(const char* path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}
const std::vector<uint8_t>& model_bytes() {
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

nwc_decoder_params cpu_params() {
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

TEST(CApiBasics, VersionsAndStatusNames) {
  EXPECT_EQ(nwc_version_number(), NWC_VERSION_MAJOR * 1000000u + NWC_VERSION_MINOR * 1000u + NWC_VERSION_PATCH);
  EXPECT_EQ(nwc_version_string(), std::to_string(NWC_VERSION_MAJOR) + "." + std::to_string(NWC_VERSION_MINOR) + "." +
                                      std::to_string(NWC_VERSION_PATCH));
  EXPECT_EQ(nwc_format_version(), 1002u);
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
  EXPECT_EQ(nwc_session_truncate(nullptr, 0), bad);
  EXPECT_EQ(nwc_session_eval(nullptr, &u, 1, 0, nullptr, 0), bad);
  EXPECT_EQ(nwc_session_generate(nullptr, &u, 1, nullptr, nullptr, nullptr, nullptr), bad);
  EXPECT_EQ(nwc_vulkan_device_count(nullptr), bad);
}

TEST(CApiOpen, ErrorsSayWhatAndWhereAndLeaveTheResultAlone) {
  nwc_model* const before = reinterpret_cast<nwc_model*>(uintptr_t{1});
  nwc_model* model = before;
  Detail d;
  EXPECT_EQ(nwc_model_open_path("/no/such/file.nwc", &d.detail, &model), NWC_STATUS_IO);
  EXPECT_NE(std::string(d.text).find("/no/such/file.nwc"), std::string::npos) << d.text;
  EXPECT_EQ(nwc_model_open_path(nullptr, &d.detail, &model), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_model_open_memory(nullptr, 5, &d.detail, &model), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_NE(nwc_model_open_memory(nullptr, 0, &d.detail, &model), NWC_STATUS_OK);
  EXPECT_NE(nwc_model_open_memory("not a model file, just text that is longer than a header is, quite so", 64, nullptr,
                                  &model),
            NWC_STATUS_OK);
  EXPECT_EQ(nwc_model_open_callbacks(nullptr, nullptr, &model), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(model, before);
  EXPECT_EQ(nwc_model_open_path(NWC_TEST_MODEL, nullptr, nullptr), NWC_STATUS_INVALID_ARGUMENT);

  char small[8] = "1234567";
  const nwc_error_detail short_detail = {small, 5};
  EXPECT_EQ(nwc_model_open_path("/no/such/file.nwc", &short_detail, &model), NWC_STATUS_IO);
  EXPECT_STREQ(small, "/no/");
  EXPECT_STREQ(small + 5, "67") << "wrote beyond the buffer";
  const nwc_error_detail no_room = {small, 0};
  EXPECT_EQ(nwc_model_open_path("/no/such/file.nwc", &no_room, &model), NWC_STATUS_IO);
  EXPECT_STREQ(small, "/no/");
}

struct CallbackState {
  std::atomic<int> closed{0};
  std::atomic<bool> fail{false};
};
int read_callback(void* user, uint64_t offset, void* out, size_t size) {
  if (static_cast<CallbackState*>(user)->fail) return 1;
  std::memcpy(out, model_bytes().data() + offset, size);
  return 0;
}
void close_callback(void* user) { ++static_cast<CallbackState*>(user)->closed; }

TEST_F(CApi, MemoryAndCallbacksGiveWhatThePathGives) {
  const std::vector<float> want = decode(decoder, coded);
  const nwc_decoder_params p = cpu_params();
  {
    Model from_memory;
    Decoder d;
    ASSERT_EQ(nwc_model_open_memory(model_bytes().data(), model_bytes().size(), nullptr, &from_memory.p),
              NWC_STATUS_OK);
    ASSERT_EQ(nwc_decoder_create(from_memory, &p, nullptr, &d.p), NWC_STATUS_OK);
    EXPECT_EQ(decode(d, coded), want);
  }
  CallbackState state;
  nwc_read_callbacks callbacks;
  nwc_read_callbacks_init(&callbacks);
  callbacks.size_bytes = model_bytes().size();
  callbacks.user = &state;
  callbacks.read = read_callback;
  callbacks.close = close_callback;
  nwc_model* from_callbacks = nullptr;
  nwc_decoder* d = nullptr;
  ASSERT_EQ(nwc_model_open_callbacks(&callbacks, nullptr, &from_callbacks), NWC_STATUS_OK);
  ASSERT_EQ(nwc_decoder_create(from_callbacks, &p, nullptr, &d), NWC_STATUS_OK);
  nwc_model_destroy(from_callbacks);
  EXPECT_EQ(state.closed, 0) << "the decoder still needs the file";
  EXPECT_EQ(decode(d, coded), want);
  state.fail = true;
  std::vector<float> out(want.size());
  EXPECT_EQ(nwc_decoder_decode_tensor(d, coded, NWC_DTYPE_F32, nullptr, nullptr, out.data(), out.size() * 4),
            NWC_STATUS_IO);
  state.fail = false;
  EXPECT_EQ(decode(d, coded), want) << "a handle is as usable after a failure as before";
  nwc_decoder_destroy(d);
  EXPECT_EQ(state.closed, 1);

  state.fail = true;
  EXPECT_EQ(nwc_model_open_callbacks(&callbacks, nullptr, &from_callbacks), NWC_STATUS_IO);
  EXPECT_EQ(state.closed, 1) << "not called when opening fails";
  callbacks.read = nullptr;
  EXPECT_EQ(nwc_model_open_callbacks(&callbacks, nullptr, &from_callbacks), NWC_STATUS_INVALID_ARGUMENT);
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
  Aged<nwc_session_params> params(-16);
  nwc_session_plan plan = zeroed<nwc_session_plan>();
  EXPECT_EQ(nwc_session_make_plan(model, params.get(), nullptr, &plan), NWC_STATUS_INVALID_ARGUMENT);
  params.set_size(8);
  EXPECT_EQ(nwc_session_make_plan(model, params.get(), nullptr, &plan), NWC_STATUS_UNSUPPORTED);
}

TEST_F(CApi, DescribesTheNetworkByKey) {
  uint64_t u = 0;
  double f = 0;
  const char* s = nullptr;
  const auto u64 = [&](const char* key) {
    u = 0;
    EXPECT_EQ(nwc_model_get_u64(model, key, &u), NWC_STATUS_OK) << nwc_model_last_error(model);
    return u;
  };
  EXPECT_EQ(u64("num_layers"), 4u);
  EXPECT_EQ(u64("hidden_size"), 192u);
  EXPECT_EQ(u64("vocab_size"), 1024u);
  EXPECT_EQ(u64("max_positions"), 256u);
  ASSERT_EQ(nwc_model_get_f64(model, "rope_theta", &f), NWC_STATUS_OK);
  EXPECT_GE(f, 1000);
  ASSERT_EQ(nwc_model_get_f64(model, "hidden_size", &f), NWC_STATUS_OK) << "an integer is a number, too";
  EXPECT_EQ(f, 192);
  ASSERT_EQ(nwc_model_get_string(model, "architecture", &s), NWC_STATUS_OK);
  EXPECT_STREQ(s, "llama");
  expect_model_error(nwc_model_get_u64(model, "no_such_key", &u), NWC_STATUS_NOT_FOUND, "no_such_key");
  expect_model_error(nwc_model_get_u64(model, "rope_theta", &u), NWC_STATUS_INVALID_ARGUMENT, "f64");
  expect_model_error(nwc_model_get_f64(model, "architecture", &f), NWC_STATUS_INVALID_ARGUMENT, "string");
  expect_model_error(nwc_model_get_string(model, "num_layers", &s), NWC_STATUS_INVALID_ARGUMENT, "u64");
  EXPECT_EQ(nwc_model_get_u64(model, nullptr, &u), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_model_get_u64(model, "num_layers", nullptr), NWC_STATUS_INVALID_ARGUMENT);

  // Every key that is listed can be asked for as its type.
  std::set<std::string> keys;
  nwc_value_type type = 99;
  const char* key = nullptr;
  for (uint32_t i = 0; nwc_model_key_at(model, i, &key, &type) == NWC_STATUS_OK; ++i) {
    EXPECT_TRUE(keys.insert(key).second) << key;
    if (type == NWC_VALUE_U64) {
      EXPECT_EQ(nwc_model_get_u64(model, key, &u), NWC_STATUS_OK) << key;
    } else if (type == NWC_VALUE_F64) {
      EXPECT_EQ(nwc_model_get_f64(model, key, &f), NWC_STATUS_OK) << key;
    } else {
      EXPECT_EQ(nwc_model_get_string(model, key, &s), NWC_STATUS_OK) << key;
    }
  }
  for (const char* needed : {"intermediate_size", "num_heads", "num_kv_heads", "head_dim", "tied_embeddings",
                             "rms_norm_eps", "rope_scaling", "num_eos_ids", "tokenizer", "tokenizer.vocab_size"})
    EXPECT_EQ(keys.count(needed), 1u) << needed;
  for (uint64_t i = 0; i < u64("num_eos_ids"); ++i) EXPECT_LT(u64(("eos_id." + std::to_string(i)).c_str()), 1024u);
}

TEST_F(CApi, DescribesTheModel) {
  EXPECT_EQ(info.has_architecture, 1u);
  EXPECT_EQ(info.has_codec, 1u);
  EXPECT_EQ(info.has_tokenizer, 1u);
  EXPECT_EQ(info.vocab_size, 1024u);
  EXPECT_EQ(info.file_bytes, model_bytes().size());
  EXPECT_GT(info.max_token_bytes, 0u);
  EXPECT_NEAR(info.bpw_coded, 5.0, 0.2);
  EXPECT_GT(info.bpw_file, info.bpw_coded);

  uint64_t weights = 0;
  std::set<std::string> names;
  for (uint32_t t = 0; t < info.num_tensors; ++t) {
    const nwc_tensor_info i = tensor(t);
    names.insert(i.name);
    weights += i.rows * i.cols;
    EXPECT_LE(i.file_offset + i.stored_bytes, info.file_bytes);
    EXPECT_LT(i.layer, info.num_layers_stored);
    uint32_t found = 0;
    EXPECT_EQ(nwc_model_find_tensor(model, i.name, &found), NWC_STATUS_OK);
    EXPECT_EQ(found, t);
  }
  EXPECT_EQ(names.size(), info.num_tensors);
  EXPECT_EQ(weights, info.num_weights);
  const nwc_tensor_info down = tensor(coded);
  EXPECT_EQ(down.storage, static_cast<uint32_t>(NWC_STORAGE_CODED));
  EXPECT_EQ(down.rows, 192u);
  EXPECT_EQ(down.cols, 512u);
  EXPECT_EQ(down.rank, 2u);
  EXPECT_TRUE(std::equal(down.shape, down.shape + 2, down.dimensions));
  EXPECT_EQ(down.row_dimensions, 1u);
  EXPECT_EQ(down.dtype, static_cast<uint32_t>(NWC_DTYPE_BF16));
  EXPECT_GT(down.bpw, 2);

  uint32_t next = 0;
  for (uint32_t l = 0; l < info.num_layers_stored; ++l) {
    nwc_layer_info layer = zeroed<nwc_layer_info>();
    ASSERT_EQ(nwc_model_layer(model, l, &layer), NWC_STATUS_OK);
    EXPECT_EQ(layer.first_tensor, next) << "layers cover all tensors in order";
    next += layer.num_tensors;
    EXPECT_GE(layer.decoded_bytes_f32, 4 * layer.num_weights);
    EXPECT_GE(layer.decoded_bytes_f16, 2 * layer.num_weights);
  }
  EXPECT_EQ(next, info.num_tensors);

  uint32_t u = 0;
  nwc_tensor_info t = zeroed<nwc_tensor_info>();
  nwc_layer_info l = zeroed<nwc_layer_info>();
  expect_model_error(nwc_model_tensor(model, info.num_tensors, &t), NWC_STATUS_NOT_FOUND, "tensor");
  expect_model_error(nwc_model_layer(model, UINT32_MAX, &l), NWC_STATUS_NOT_FOUND, "layer");
  expect_model_error(nwc_model_find_tensor(model, "no.such", &u), NWC_STATUS_NOT_FOUND, "no.such");
  EXPECT_EQ(nwc_model_find_tensor(model, nullptr, &u), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_model_find_tensor(model, "x", nullptr), NWC_STATUS_INVALID_ARGUMENT);
}

TEST_F(CApi, Metadata) {
  uint32_t count = 0;
  ASSERT_EQ(nwc_model_metadata_count(model, NWC_METADATA_QUALITY, &count), NWC_STATUS_OK);
  EXPECT_EQ(count, 2u);
  const char *key = nullptr, *value = nullptr;
  ASSERT_EQ(nwc_model_metadata_at(model, NWC_METADATA_QUALITY, 0, &key, &value), NWC_STATUS_OK);
  EXPECT_STREQ(key, "bpw_coded");
  EXPECT_STREQ(value, "5.00");
  ASSERT_EQ(nwc_model_metadata_find(model, NWC_METADATA_PROVENANCE, "source", &value), NWC_STATUS_OK);
  EXPECT_STREQ(value, "gutenlm-2.6m, four blocks");
  expect_model_error(nwc_model_metadata_at(model, NWC_METADATA_QUALITY, 2, &key, &value), NWC_STATUS_NOT_FOUND, "2");
  expect_model_error(nwc_model_metadata_find(model, NWC_METADATA_QUALITY, "nothing", &value), NWC_STATUS_NOT_FOUND,
                     "nothing");
  EXPECT_EQ(nwc_model_metadata_count(model, 2, &count), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_model_metadata_at(model, 2, 0, &key, &value), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_model_metadata_find(model, 2, "x", &value), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_model_metadata_count(model, 0, nullptr), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_model_metadata_at(model, 0, 0, nullptr, &value), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_model_metadata_at(model, 0, 0, &key, nullptr), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_model_metadata_find(model, 0, nullptr, &value), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_model_metadata_find(model, 0, "x", nullptr), NWC_STATUS_INVALID_ARGUMENT);
}

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

TEST_F(CApi, RawBytesOfIntegerTensors) {
  uint32_t values[6] = {};
  ASSERT_EQ(nwc_model_read_raw(model, ids, values, sizeof values), NWC_STATUS_OK);
  for (uint32_t i = 0; i < 6; ++i) EXPECT_EQ(values[i], 100 + i);
  EXPECT_EQ(nwc_model_read_raw(model, ids, values, sizeof values - 1), NWC_STATUS_BUFFER_TOO_SMALL);
  EXPECT_EQ(nwc_model_read_raw(model, ids, nullptr, sizeof values), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_model_read_raw(model, coded, values, sizeof values), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_model_read_raw(model, UINT32_MAX, values, sizeof values), NWC_STATUS_NOT_FOUND);
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
  std::string cache = (std::filesystem::temp_directory_path() / "nwc-c-api-XXXXXX").string();
  ASSERT_NE(mkdtemp(cache.data()), nullptr);
  p.cache_directory = cache.c_str();
  Decoder d;
  Detail detail;
  ASSERT_EQ(nwc_decoder_create(model, &p, &detail.detail, &d.p), NWC_STATUS_OK) << detail.text;
  EXPECT_FALSE(std::filesystem::is_empty(cache)) << "compiled kernels";
  std::filesystem::remove_all(cache);
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

TEST_F(CApi, TokensToTextAndBack) {
  const std::string text = "The quick brown fox \xff\xfe jumps.";
  std::vector<uint32_t> tokens(nwc_tokenize_bound(text.size()));
  size_t count = 0, again = 0, length = 0;
  ASSERT_EQ(nwc_tokenize(model, text.data(), text.size(), 0, tokens.data(), tokens.size(), &count), NWC_STATUS_OK);
  EXPECT_GT(count, 0u);
  ASSERT_EQ(nwc_tokenize(model, text.data(), text.size(), 0, nullptr, 0, &again), NWC_STATUS_OK);
  EXPECT_EQ(again, count);
  expect_model_error(nwc_tokenize(model, text.data(), text.size(), 0, tokens.data(), count - 1, &again),
                     NWC_STATUS_BUFFER_TOO_SMALL, "tokens");
  EXPECT_EQ(again, count);

  std::string back(count * info.max_token_bytes, '\0');
  ASSERT_EQ(nwc_detokenize(model, tokens.data(), count, back.data(), back.size(), &length), NWC_STATUS_OK);
  EXPECT_EQ(back.substr(0, length), text);
  ASSERT_EQ(nwc_detokenize(model, tokens.data(), count, nullptr, 0, &length), NWC_STATUS_OK);
  EXPECT_EQ(length, text.size());
  EXPECT_EQ(nwc_detokenize(model, tokens.data(), count, back.data(), length - 1, &length), NWC_STATUS_BUFFER_TOO_SMALL);

  ASSERT_EQ(nwc_tokenize(model, nullptr, 0, 0, nullptr, 0, &count), NWC_STATUS_OK);
  EXPECT_EQ(count, 0u);
  EXPECT_EQ(nwc_tokenize(model, nullptr, 1, 0, nullptr, 0, &count), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_tokenize(model, "x", 1, 4, nullptr, 0, &count), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_tokenize(model, "x", 1, 0, nullptr, 1, &count), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_tokenize(model, "x", 1, 0, nullptr, 0, nullptr), NWC_STATUS_INVALID_ARGUMENT);
  const uint32_t beyond = info.vocab_size;
  expect_model_error(nwc_detokenize(model, &beyond, 1, nullptr, 0, &length), NWC_STATUS_INVALID_ARGUMENT, "1024");
  EXPECT_EQ(nwc_detokenize(model, nullptr, 1, nullptr, 0, &length), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_detokenize(model, tokens.data(), 1, nullptr, 1, &length), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_detokenize(model, tokens.data(), 1, nullptr, 0, nullptr), NWC_STATUS_INVALID_ARGUMENT);
}

// Whatever happens to the bytes, every call returns. What can be noticed is noticed by a checksum or a field's limits.
void exercise(const std::vector<uint8_t>& bytes) {
  Model m;
  Detail detail;
  const nwc_status opened = nwc_model_open_memory(bytes.data(), bytes.size(), &detail.detail, &m.p);
  if (opened != NWC_STATUS_OK) {
    EXPECT_STRNE(detail.text, "");
    EXPECT_NE(opened, NWC_STATUS_INTERNAL) << detail.text;
    return;
  }
  nwc_decoder_params p = cpu_params();
  p.num_threads = 1;
  p.skip_checksums = 1;  // lets the damage reach the entropy decoder
  Decoder d;
  ASSERT_EQ(nwc_decoder_create(m, &p, nullptr, &d.p), NWC_STATUS_OK);
  nwc_model_info i = zeroed<nwc_model_info>();
  ASSERT_EQ(nwc_model_get_info(m, &i), NWC_STATUS_OK);
  std::vector<float> out(1024 * 192);
  for (uint32_t t = 0; t < i.num_tensors; ++t) {
    const nwc_status status = nwc_decoder_decode_tensor(d, t, 0, nullptr, nullptr, out.data(), out.size() * 4);
    EXPECT_NE(status, NWC_STATUS_INTERNAL) << nwc_decoder_last_error(d);
  }
}

TEST(CApiHostile, EveryTruncationIsNoticed) {
  const std::vector<uint8_t>& good = model_bytes();
  ASSERT_GT(good.size(), 1000u);
  std::mt19937 rng(1);
  for (int i = 0; i < 300; ++i) {
    const size_t length = i < 200 ? static_cast<size_t>(i) : rng() % good.size();
    const std::vector<uint8_t> cut(good.begin(), good.begin() + static_cast<ptrdiff_t>(length));
    nwc_model* m = nullptr;
    EXPECT_NE(nwc_model_open_memory(cut.data(), cut.size(), nullptr, &m), NWC_STATUS_OK) << length;
    EXPECT_EQ(m, nullptr);
  }
  std::vector<uint8_t> longer = good;
  longer.push_back(0);
  nwc_model* m = nullptr;
  EXPECT_NE(nwc_model_open_memory(longer.data(), longer.size(), nullptr, &m), NWC_STATUS_OK) << "trailing bytes";
}

TEST(CApiHostile, DamagedBytesNeverHarm) {
  std::mt19937 rng(2);
  std::vector<uint8_t> bytes = model_bytes();
  for (int i = 0; i < 60; ++i) {
    const size_t limit = i < 30 ? std::min<size_t>(bytes.size(), 4096) : bytes.size();
    const size_t at = rng() % limit;
    const uint8_t before = bytes[at];
    bytes[at] ^= static_cast<uint8_t>(1u << (rng() % 8));
    exercise(bytes);
    bytes[at] = before;
  }
}

TEST_F(CApi, ChecksumsFindDamageInATensor) {
  std::vector<uint8_t> bytes = model_bytes();
  const nwc_tensor_info t = tensor(coded);
  bytes[t.file_offset + t.stored_bytes / 2] ^= 1;
  Model damaged;
  Decoder d;
  const nwc_decoder_params p = cpu_params();
  ASSERT_EQ(nwc_model_open_memory(bytes.data(), bytes.size(), nullptr, &damaged.p), NWC_STATUS_OK);
  ASSERT_EQ(nwc_decoder_create(damaged, &p, nullptr, &d.p), NWC_STATUS_OK);
  std::vector<float> out(192 * 512);
  EXPECT_EQ(nwc_decoder_decode_tensor(d, coded, 0, nullptr, nullptr, out.data(), out.size() * 4), NWC_STATUS_CHECKSUM);
  EXPECT_NE(std::string(nwc_decoder_last_error(d)).find("down_proj"), std::string::npos) << nwc_decoder_last_error(d);
}

}  // namespace
