/* decode_tensor <model.nwc> [tensor]: one tensor, and then eight of its rows, as floats. */
#include <nwc/nwc.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char** argv) {
  char why[512];
  const nwc_error_detail error = {why, sizeof why};
  nwc_model* model = NULL;
  nwc_decoder* decoder = NULL;
  int result = 1;
  if (argc < 2) return fprintf(stderr, "usage: %s <model.nwc> [tensor]\n", argv[0]), 2;
  if (nwc_model_open_path(argv[1], &error, &model) != NWC_STATUS_OK) return fprintf(stderr, "%s\n", why), 1;

  uint32_t number = 0; /* tensors are numbered in the order in which a model needs them */
  if (argc > 2 && nwc_model_find_tensor(model, argv[2], &number) != NWC_STATUS_OK) {
    fprintf(stderr, "%s\n", nwc_model_last_error(model));
    nwc_model_destroy(model);
    return 1;
  }
  nwc_tensor_info tensor;
  nwc_tensor_info_init(&tensor);
  nwc_model_tensor(model, number, &tensor);
  const size_t count = (size_t)(tensor.rows * tensor.cols);
  const uint64_t some = tensor.rows < 8 ? tensor.rows : 8;
  float* weights = malloc(count * sizeof *weights);

  /* NULL: all defaults. A GPU decodes if there is one, and the CPU otherwise. */
  if (weights == NULL)
    fprintf(stderr, "no memory for %zu weights\n", count);
  else if (nwc_decoder_create(model, NULL, &error, &decoder) != NWC_STATUS_OK)
    fprintf(stderr, "%s\n", why);
  else if (nwc_decoder_decode_tensor(decoder, number, NWC_DTYPE_F32, NULL, NULL, weights, count * sizeof *weights) !=
               NWC_STATUS_OK ||
           nwc_decoder_decode_rows(decoder, number, 0, some, NWC_DTYPE_F32, NULL, NULL, weights,
                                   count * sizeof *weights) != NWC_STATUS_OK)
    fprintf(stderr, "%s\n", nwc_decoder_last_error(decoder));
  else {
    double squares = 0;
    for (size_t i = 0; i < count; ++i) squares += (double)weights[i] * (double)weights[i];
    printf("%s: %llu x %llu, %.3f bits per weight, mean square %.6g, decoded by %s\n", tensor.name,
           (unsigned long long)tensor.rows, (unsigned long long)tensor.cols, tensor.bpw, squares / (double)count,
           nwc_decoder_name(decoder));
    result = 0;
  }
  free(weights);
  nwc_decoder_destroy(decoder);
  nwc_model_destroy(model);
  return result;
}
