/* decode_only <model.nwc>: what libnwc_decode is for, from C and without libnwc: opens a model that carries a tokenizer
 * and a network, reads its quality card, decodes a layer. */
#include <nwc/nwc.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition, detail)                                                            \
  do {                                                                                      \
    if (!(condition)) {                                                                     \
      fprintf(stderr, "decode_only.c:%d: %s failed: %s\n", __LINE__, #condition, (detail)); \
      exit(1);                                                                              \
    }                                                                                       \
  } while (0)

int main(int argc, char** argv) {
  char error[512];
  const nwc_error_detail detail = {error, sizeof error};
  CHECK(argc == 2, "usage: decode_only <model.nwc>");
  nwc_model* model = NULL;
  CHECK(nwc_model_open_path(argv[1], &detail, &model) == NWC_STATUS_OK, error);
  nwc_model_info info;
  nwc_model_info_init(&info);
  CHECK(nwc_model_get_info(model, &info) == NWC_STATUS_OK, nwc_model_last_error(model));
  CHECK(info.has_tokenizer == 1 && info.has_architecture == 1, "described all the same");
  uint64_t hidden_size = 0;
  CHECK(nwc_model_get_u64(model, "hidden_size", &hidden_size) == NWC_STATUS_OK, nwc_model_last_error(model));
  uint32_t entries = 0;
  CHECK(nwc_model_metadata_count(model, NWC_METADATA_QUALITY, &entries) == NWC_STATUS_OK, nwc_model_last_error(model));

  nwc_decoder* decoder = NULL;
  CHECK(nwc_decoder_create(model, NULL, &detail, &decoder) == NWC_STATUS_OK, error);
  nwc_model_destroy(model); /* the decoder keeps what it needs */
  const char* name = nwc_decoder_name(decoder);
  const uint32_t rows = info.vocab_size, cols = (uint32_t)hidden_size;
  const size_t bytes = (size_t)rows * cols * sizeof(float);
  float* embedding = malloc(bytes);
  CHECK(embedding != NULL, "out of memory");
  CHECK(nwc_decoder_decode_tensor(decoder, 0, NWC_DTYPE_F32, NULL, NULL, embedding, bytes) == NWC_STATUS_OK,
        nwc_decoder_last_error(decoder));
  double sum = 0;
  for (size_t i = 0; i < bytes / sizeof(float); ++i) sum += (double)embedding[i] * (double)embedding[i];
  CHECK(sum > 0, "the embedding is zero");
  printf("decoded %u x %u with %s; %u entries on the quality card\n", rows, cols, name, entries);
  free(embedding);
  nwc_decoder_destroy(decoder);
  return 0;
}
