// Models through the public interface: opening from every kind of source, what they say of themselves, text and tokens,
// and hostile files.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <set>

#include "tests/capi/c_api_fixture.h"

namespace nwc::test {
namespace {

#if defined(_WIN32)
constexpr int kReadBytes = O_RDONLY | O_BINARY;
int pipe(int* ends) { return _pipe(ends, 4096, O_BINARY); }
#else
constexpr int kReadBytes = O_RDONLY;
#endif

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

// The model lies in the middle of another file, as an asset does in its package.
TEST_F(CApi, ADescriptorWithAnOffsetGivesWhatThePathGives) {
  const std::vector<float> want = decode(decoder, coded);
  const std::string path = ::testing::TempDir() + "package_" + std::to_string(getpid());
  constexpr uint64_t kBefore = 1001;
  {
    std::ofstream package(path, std::ios::binary);
    package << std::string(kBefore, 'x');
    package.write(reinterpret_cast<const char*>(model_bytes().data()),
                  static_cast<std::streamsize>(model_bytes().size()));
    package << "and what follows";
  }
  const uint64_t size = model_bytes().size(), all = kBefore + size + 16;
  const int fd = open(path.c_str(), kReadBytes);
  std::remove(path.c_str());
  ASSERT_GE(fd, 0);
  Detail d;
  Model m;
  EXPECT_EQ(nwc_model_open_fd(fd, kBefore, size, &d.detail, nullptr), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_NE(nwc_model_open_fd(fd, 0, 0, &d.detail, &m.p), NWC_STATUS_OK) << "the package itself is no model";
  EXPECT_NE(nwc_model_open_fd(fd, kBefore, 0, &d.detail, &m.p), NWC_STATUS_OK) << "to the package's end: bytes follow";
  EXPECT_EQ(nwc_model_open_fd(fd, kBefore, size - 1, &d.detail, &m.p), NWC_STATUS_TRUNCATED);
  EXPECT_EQ(nwc_model_open_fd(fd, all, 1, &d.detail, &m.p), NWC_STATUS_INVALID_ARGUMENT) << d.text;
  EXPECT_EQ(nwc_model_open_fd(fd, UINT64_MAX, UINT64_MAX, &d.detail, &m.p), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_model_open_fd(-1, 0, 0, &d.detail, &m.p), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(m.p, nullptr);
  ASSERT_EQ(nwc_model_open_fd(fd, kBefore, size, &d.detail, &m.p), NWC_STATUS_OK) << d.text;
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 0) << "the position is the program's";
  close(fd);
  EXPECT_EQ(nwc_model_open_fd(fd, kBefore, size, &d.detail, &m.p), NWC_STATUS_IO) << "a descriptor that is closed";
  nwc_model_info of_package = zeroed<nwc_model_info>();
  ASSERT_EQ(nwc_model_get_info(m, &of_package), NWC_STATUS_OK);
  EXPECT_EQ(of_package.file_bytes, size);
  const nwc_decoder_params p = cpu_params();
  Decoder from_package;
  ASSERT_EQ(nwc_decoder_create(m, &p, nullptr, &from_package.p), NWC_STATUS_OK);
  EXPECT_EQ(decode(from_package, coded), want);

  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  Model none;
  EXPECT_EQ(nwc_model_open_fd(ends[0], 0, 0, &d.detail, &none.p), NWC_STATUS_IO);
  EXPECT_NE(std::string(d.text).find("plain file"), std::string::npos) << d.text;
  close(ends[0]);
  close(ends[1]);
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

TEST_F(CApi, RawBytesOfIntegerTensors) {
  uint32_t values[6] = {};
  ASSERT_EQ(nwc_model_read_raw(model, ids, values, sizeof values), NWC_STATUS_OK);
  for (uint32_t i = 0; i < 6; ++i) EXPECT_EQ(values[i], 100 + i);
  EXPECT_EQ(nwc_model_read_raw(model, ids, values, sizeof values - 1), NWC_STATUS_BUFFER_TOO_SMALL);
  EXPECT_EQ(nwc_model_read_raw(model, ids, nullptr, sizeof values), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_model_read_raw(model, coded, values, sizeof values), NWC_STATUS_INVALID_ARGUMENT);
  EXPECT_EQ(nwc_model_read_raw(model, UINT32_MAX, values, sizeof values), NWC_STATUS_NOT_FOUND);
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
  EXPECT_EQ(nwc_tokenize(model, "x", 1, 8, nullptr, 0, &count), NWC_STATUS_INVALID_ARGUMENT);
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
}  // namespace nwc::test
