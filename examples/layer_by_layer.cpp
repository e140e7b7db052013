// layer_by_layer <model.nwc>: inference of one's own with a single layer in memory at a time. Here the inference is one
// product of each matrix with a vector of ones; the buffer is as large as the largest layer, whatever the model's size.
#include <nwc/nwc.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <vector>

namespace {

struct Destroy {
  void operator()(nwc_model* m) const { nwc_model_destroy(m); }
  void operator()(nwc_decoder* d) const { nwc_decoder_destroy(d); }
};

double length_of_product(const float* weights, uint64_t rows, uint64_t cols) {
  double squares = 0;
  for (uint64_t r = 0; r < rows; ++r) {
    double sum = 0;
    for (uint64_t c = 0; c < cols; ++c) sum += weights[r * cols + c];
    squares += sum * sum;
  }
  return std::sqrt(squares);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: %s <model.nwc>\n", argv[0]), 2;
  char why[512];
  const nwc_error_detail error = {why, sizeof why};
  nwc_model* opened = nullptr;
  if (nwc_model_open_path(argv[1], &error, &opened) != NWC_STATUS_OK) return std::fprintf(stderr, "%s\n", why), 1;
  const std::unique_ptr<nwc_model, Destroy> model(opened);
  nwc_decoder* created = nullptr;
  if (nwc_decoder_create(model.get(), nullptr, &error, &created) != NWC_STATUS_OK)
    return std::fprintf(stderr, "%s\n", why), 1;
  const std::unique_ptr<nwc_decoder, Destroy> decoder(created);

  nwc_model_info info;
  nwc_model_info_init(&info);
  nwc_model_get_info(model.get(), &info);
  std::vector<nwc_layer_info> layers(info.num_layers_stored);
  uint64_t largest = 0;
  for (uint32_t l = 0; l < info.num_layers_stored; ++l) {
    nwc_layer_info_init(&layers[l]);
    nwc_model_layer(model.get(), l, &layers[l]);
    largest = std::max(largest, layers[l].decoded_bytes_f32);
  }

  std::vector<float> weights(static_cast<size_t>(largest / sizeof(float)));
  for (uint32_t l = 0; l < info.num_layers_stored; ++l) {
    std::vector<uint64_t> offsets(layers[l].num_tensors);
    const nwc_status decoded = nwc_decoder_decode_layer(decoder.get(), l, NWC_DTYPE_F32, nullptr, nullptr,
                                                        weights.data(), weights.size() * sizeof(float), offsets.data());
    if (decoded == NWC_STATUS_UNSUPPORTED) {  // a layer with integers, say
      std::printf("layer %u: left out: %s\n", l, nwc_decoder_last_error(decoder.get()));
      continue;
    }
    if (decoded != NWC_STATUS_OK)
      return std::fprintf(stderr, "layer %u: %s\n", l, nwc_decoder_last_error(decoder.get())), 1;
    double sum = 0;
    for (uint32_t i = 0; i < layers[l].num_tensors; ++i) {
      nwc_tensor_info tensor;
      nwc_tensor_info_init(&tensor);
      nwc_model_tensor(model.get(), layers[l].first_tensor + i, &tensor);
      sum += length_of_product(weights.data() + offsets[i] / sizeof(float), tensor.rows, tensor.cols);
    }
    std::printf("layer %u: %u tensors, %llu weights in %llu bytes, lengths of the products %.4f\n", l,
                layers[l].num_tensors, static_cast<unsigned long long>(layers[l].num_weights),
                static_cast<unsigned long long>(layers[l].stored_bytes), sum);
  }
  std::printf("one buffer of %llu bytes for all of %llu\n", static_cast<unsigned long long>(largest),
              static_cast<unsigned long long>(info.num_weights * sizeof(float)));
  return 0;
}
