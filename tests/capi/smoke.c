/* smoke <model.nwc>: the public header and library from C, alone: opens, lists, decodes, tokenizes, generates.
 * Also built against the installed library, through pkg-config and through find_package. */
#include <nwc/nwc.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition, detail)                                                      \
  do {                                                                                \
    if (!(condition)) {                                                               \
      fprintf(stderr, "smoke.c:%d: %s failed: %s\n", __LINE__, #condition, (detail)); \
      exit(1);                                                                        \
    }                                                                                 \
  } while (0)

static int print_token(void* user, uint32_t token, const char* text, size_t length_bytes) {
  (void)token;
  ++*(int*)user;
  fwrite(text, 1, length_bytes, stdout);
  return 0;
}

static void decode_everything(nwc_model* model, nwc_decoder* decoder, const nwc_model_info* info) {
  for (uint32_t t = 0; t < info->num_tensors; ++t) {
    nwc_tensor_info tensor;
    nwc_tensor_info_init(&tensor);
    CHECK(nwc_model_tensor(model, t, &tensor) == NWC_STATUS_OK, nwc_model_last_error(model));
    const size_t count = (size_t)(tensor.rows * tensor.cols);
    printf("%-48s %-4s %6llu x %-6llu %7.3f bpw\n", tensor.name, nwc_dtype_string(tensor.dtype),
           (unsigned long long)tensor.rows, (unsigned long long)tensor.cols, tensor.bpw);
    if (nwc_dtype_size(tensor.dtype) == 4 && tensor.dtype != NWC_DTYPE_F32) continue; /* integers */
    float* weights = malloc(count * sizeof *weights);
    CHECK(weights != NULL, "out of memory");
    CHECK(nwc_decoder_decode_tensor(decoder, t, NWC_DTYPE_F32, NULL, NULL, weights, count * sizeof *weights) ==
              NWC_STATUS_OK,
          nwc_decoder_last_error(decoder));
    double sum = 0;
    for (size_t i = 0; i < count; ++i) sum += (double)weights[i] * (double)weights[i];
    CHECK(sum > 0, tensor.name);
    free(weights);
  }
}

static void generate(nwc_model* model) {
  const char text[] = "It was a dark and stormy night";
  char error[512];
  const nwc_error_detail detail = {error, sizeof error};
  uint32_t tokens[128];
  size_t count = 0;
  CHECK(nwc_tokenize_bound(sizeof text - 1) <= 128, "bound");
  CHECK(nwc_tokenize(model, text, sizeof text - 1, NWC_TOKENIZE_ADD_SPECIAL, tokens, 128, &count) == NWC_STATUS_OK,
        nwc_model_last_error(model));
  CHECK(count > 0, "no tokens");

  nwc_session_params params;
  nwc_session_params_init(&params);
  params.mode = NWC_WEIGHTS_STREAMED;
  params.backend = NWC_BACKEND_CPU;
  nwc_session_plan plan;
  nwc_session_plan_init(&plan);
  CHECK(nwc_session_make_plan(model, &params, &detail, &plan) == NWC_STATUS_OK, error);
  uint64_t num_layers = 0;
  CHECK(nwc_model_get_u64(model, "num_layers", &num_layers) == NWC_STATUS_OK, nwc_model_last_error(model));
  CHECK(plan.num_layers == num_layers && plan.total_bytes > 0, "plan");
  nwc_session* session = NULL;
  CHECK(nwc_session_create(model, &params, NULL, NULL, &detail, &session) == NWC_STATUS_OK, error);

  nwc_generate_params sampling;
  nwc_generate_params_init(&sampling);
  sampling.max_tokens = 8;
  sampling.temperature = 0.8f;
  sampling.seed = 1;
  sampling.min_p = 0.01f;
  sampling.repetition_penalty = 1.1f;
  sampling.ignore_eos = 1;
  int drawn = 0;
  nwc_stop_reason reason = NWC_STOP_CALLBACK;
  printf("%s", text);
  CHECK(nwc_session_generate(session, tokens, count, &sampling, print_token, &drawn, &reason) == NWC_STATUS_OK,
        nwc_session_last_error(session));
  printf("\n");
  CHECK(drawn == 8 && reason == NWC_STOP_MAX_TOKENS, "generation stopped early");
  nwc_session_destroy(session);
}

/* A question and a further one, as texts. */
static void chat(nwc_model* model) {
  const char* family = NULL;
  if (nwc_model_get_string(model, "chat_format", &family) != NWC_STATUS_OK) return;
  const nwc_chat_message messages[] = {
      {NWC_CHAT_USER, 0, "Who?", 4}, {NWC_CHAT_ASSISTANT, 0, "Me.", 3}, {NWC_CHAT_USER, 0, "Why?", 4}};
  char text[512];
  size_t length = 0;
  uint32_t flags = 0;
  CHECK(nwc_chat_format(model, messages, 1, 0, NULL, text, sizeof text, &length, &flags) == NWC_STATUS_OK,
        nwc_model_last_error(model));
  CHECK(length > 4 && (flags & NWC_TOKENIZE_PARSE_SPECIAL) != 0, "chat text");
  printf("%s:\n%.*s\n", family, (int)length, text);
  CHECK(nwc_chat_format(model, messages, 3, 2, NULL, text, sizeof text, &length, &flags) == NWC_STATUS_OK,
        nwc_model_last_error(model));
  printf("and then:\n%.*s\n", (int)length, text);
}

int main(int argc, char** argv) {
  CHECK(argc == 2, "usage: smoke <model.nwc>");
  CHECK(nwc_version_number() == NWC_VERSION_MAJOR * 1000000u + NWC_VERSION_MINOR * 1000u + NWC_VERSION_PATCH,
        "header and library differ");
  printf("nwc %s\n", nwc_version_string());
  char error[512];
  const nwc_error_detail detail = {error, sizeof error};
  nwc_model* model = NULL;
  CHECK(nwc_model_open_path(argv[1], &detail, &model) == NWC_STATUS_OK, error);
  nwc_model_info info;
  nwc_model_info_init(&info);
  CHECK(nwc_model_get_info(model, &info) == NWC_STATUS_OK, nwc_model_last_error(model));

  nwc_decoder* decoder = NULL;
  CHECK(nwc_decoder_create(model, NULL, &detail, &decoder) == NWC_STATUS_OK, error);
  printf("decoder: %s\n", nwc_decoder_name(decoder));
  decode_everything(model, decoder, &info);
  if (info.has_architecture && info.has_tokenizer) generate(model);
  chat(model);
  nwc_model_destroy(model); /* before the decoder: allowed */
  nwc_decoder_destroy(decoder);
  nwc_decoder_destroy(NULL);
  nwc_session_destroy(NULL);
  nwc_model_destroy(NULL);
  return 0;
}
