// Arbitrary bytes as a model file, through the C interface: opening, every property, the tokenizer, the chat
// format, and raw tensors.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "nwc/nwc.h"
#include "tests/fuzz/container_mutator.h"

namespace {

using nwc::fuzz::require;

constexpr uint64_t kMaxTensorBytes = 1 << 20;
constexpr uint32_t kMaxListed = 200;  // of tensors, layers and entries

void visit_metadata(const nwc_model* model, nwc_metadata section) {
  uint32_t count = 0;
  require(nwc_model_metadata_count(model, section, &count) == NWC_STATUS_OK, "metadata count");
  for (uint32_t i = 0; i < std::min(count, kMaxListed); ++i) {
    const char *key = nullptr, *value = nullptr, *found = nullptr;
    require(nwc_model_metadata_at(model, section, i, &key, &value) == NWC_STATUS_OK, "metadata entry");
    // A key with a NUL inside cannot be asked for through this interface.
    const nwc_status status = nwc_model_metadata_find(model, section, key, &found);
    require(status == NWC_STATUS_NOT_FOUND || found != nullptr, "metadata by key");
  }
}

void visit_tensors(const nwc_model* model, uint32_t count) {
  std::vector<uint8_t> bytes;
  for (uint32_t i = 0; i < std::min(count, kMaxListed); ++i) {
    nwc_tensor_info info;
    nwc_tensor_info_init(&info);
    require(nwc_model_tensor(model, i, &info) == NWC_STATUS_OK, "tensor");
    uint32_t found = 0;
    require(nwc_model_find_tensor(model, info.name, &found) == NWC_STATUS_OK && found == i, "tensor by name");
    nwc_layer_info layer;
    nwc_layer_info_init(&layer);
    require(nwc_model_layer(model, info.layer, &layer) == NWC_STATUS_OK, "layer of a tensor");
    require(i >= layer.first_tensor && i - layer.first_tensor < layer.num_tensors, "the layer holds the tensor");
    if (info.storage == NWC_STORAGE_CODED || info.rows == 0 || info.cols == 0) continue;
    if (info.cols > kMaxTensorBytes || info.rows > kMaxTensorBytes / info.cols) continue;
    bytes.resize(info.rows * info.cols * nwc_dtype_bits(info.dtype) / 8);
    (void)nwc_model_read_raw(model, i, bytes.data(), bytes.size());
  }
}

// What a tokenizer makes of a text, it turns into text again without an error, within the sizes that the header states.
void visit_tokenizer(const nwc_model* model, const nwc_model_info& info, const uint8_t* data, size_t size) {
  std::string text("Hello, \xc3\xa4 world  12345\n<s></s>\xff");
  text.append(reinterpret_cast<const char*>(data), std::min<size_t>(size, 40));
  for (const uint32_t flags :
       {0u, uint32_t{NWC_TOKENIZE_ADD_SPECIAL | NWC_TOKENIZE_PARSE_SPECIAL | NWC_TOKENIZE_ADD_END}}) {
    std::vector<uint32_t> tokens(nwc_tokenize_bound(text.size()));
    size_t count = 0;
    nwc_status status = nwc_tokenize(model, text.data(), text.size(), flags, tokens.data(), tokens.size(), &count);
    if (status == NWC_STATUS_BUFFER_TOO_SMALL) {
      // Only a normalizer may make more, which is limited itself.
      require(count <= 3 * (16 * text.size() + (1 << 16)) + 16, "more tokens than a normalizer may make");
      tokens.resize(count);
      status = nwc_tokenize(model, text.data(), text.size(), flags, tokens.data(), tokens.size(), &count);
      require(status == NWC_STATUS_OK, "as many tokens as were said");
    }
    if (status != NWC_STATUS_OK) continue;
    std::vector<char> out(std::max<size_t>(1, count * info.max_token_bytes));
    size_t length = 0;
    require(nwc_detokenize(model, tokens.data(), count, out.data(), out.size(), &length) == NWC_STATUS_OK,
            "tokens back to text, within max_token_bytes a token");
  }
}

// A conversation's text is as long as it was said to be, and what a turn adds is not empty where there is an answer to
// open.
void visit_chat(const nwc_model* model, const uint8_t* data, size_t size) {
  const char* text = reinterpret_cast<const char*>(data);
  const nwc_chat_message messages[] = {{NWC_CHAT_SYSTEM, 0, text, size < 20 ? size : 20},
                                       {NWC_CHAT_USER, 0, " question ", 10},
                                       {NWC_CHAT_ASSISTANT, 0, "answer", 6},
                                       {NWC_CHAT_USER, 0, nullptr, 0}};
  for (const size_t num_done : {size_t{0}, size_t{3}}) {
    size_t length = 0;
    uint32_t flags = 0;
    if (nwc_chat_format(model, messages, 4, num_done, "2026-11-26", nullptr, 0, &length, &flags) != NWC_STATUS_OK)
      continue;
    std::vector<char> out(length + 1);
    require(nwc_chat_format(model, messages, 4, num_done, "2026-11-26", out.data(), length, &length, nullptr) ==
                NWC_STATUS_OK,
            "the text fits its length");
  }
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  return nwc::fuzz::mutate_container(data, size, max_size, seed);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  char text[512];
  const nwc_error_detail detail = {text, sizeof text};
  nwc_model* model = nullptr;
  const nwc_status status = nwc_model_open_memory(data, size, &detail, &model);
  require((status == NWC_STATUS_OK) == (model != nullptr), "a model if and only if there is no error");
  require((status == NWC_STATUS_OK) == (std::strlen(text) == 0), "a text if and only if there is an error");
  if (model == nullptr) return 0;
  nwc_model_info info;
  nwc_model_info_init(&info);
  require(nwc_model_get_info(model, &info) == NWC_STATUS_OK, "info");
  visit_metadata(model, NWC_METADATA_PROVENANCE);
  visit_metadata(model, NWC_METADATA_QUALITY);
  visit_tensors(model, info.num_tensors);
  if (info.has_tokenizer != 0) visit_tokenizer(model, info, data, size);
  visit_chat(model, data, size);
  if (info.has_architecture != 0) {
    nwc_session_plan plan;
    nwc_session_plan_init(&plan);
    (void)nwc_session_make_plan(model, nullptr, &detail, &plan);
  }
  nwc_model_destroy(model);
  return 0;
}
