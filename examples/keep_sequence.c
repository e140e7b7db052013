/* keep_sequence <model.nwc> <state>: reads a prompt once and keeps what it left in the KV cache. Run again, it takes
 * that up and goes on at once. */
#include <nwc/nwc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char prompt[] = "It was the best of times, it was the worst of times";

static int print_token(void* user, uint32_t token, const char* text, size_t length_bytes) {
  (void)user, (void)token;
  fwrite(text, 1, length_bytes, stdout);
  return 0;
}

/* 1: the session stands where the state was kept. */
static int take_up(nwc_session* session, const char* path) {
  FILE* file = fopen(path, "rb");
  if (file == NULL) return 0;
  fseek(file, 0, SEEK_END);
  const long size = ftell(file);
  rewind(file);
  void* state = malloc(size > 0 ? (size_t)size : 1);
  const int read = state != NULL && size > 0 && fread(state, 1, (size_t)size, file) == (size_t)size;
  fclose(file);
  /* A state of another model, or one that is damaged, is refused, and the session stays as it was. */
  const int taken = read && nwc_session_load_state(session, state, (size_t)size) == NWC_STATUS_OK;
  if (read && !taken) fprintf(stderr, "%s: %s\n", path, nwc_session_last_error(session));
  free(state);
  return taken;
}

static nwc_status keep(nwc_session* session, const char* path) {
  size_t size = 0;
  nwc_status status = nwc_session_state_size(session, &size);
  void* state = malloc(size);
  if (status == NWC_STATUS_OK && state == NULL) status = NWC_STATUS_OUT_OF_MEMORY;
  if (status == NWC_STATUS_OK) status = nwc_session_save_state(session, state, size);
  if (status == NWC_STATUS_OK) {
    FILE* file = fopen(path, "wb");
    const int written = file != NULL && fwrite(state, 1, size, file) == size;
    if (file == NULL || fclose(file) != 0 || !written) status = NWC_STATUS_IO;
  }
  free(state);
  return status;
}

int main(int argc, char** argv) {
  char why[512];
  const nwc_error_detail error = {why, sizeof why};
  nwc_model* model = NULL;
  nwc_session* session = NULL;
  uint32_t tokens[256];
  size_t count = 0;
  if (argc != 3) return fprintf(stderr, "usage: %s <model.nwc> <state>\n", argv[0]), 2;
  if (nwc_model_open_path(argv[1], &error, &model) != NWC_STATUS_OK) return fprintf(stderr, "%s\n", why), 1;
  nwc_session_params params;
  nwc_session_params_init(&params);
  params.context = 256;
  nwc_status status = nwc_session_create(model, &params, NULL, NULL, &error, &session);
  if (status != NWC_STATUS_OK) fprintf(stderr, "%s\n", why);
  if (status == NWC_STATUS_OK)
    status = nwc_tokenize(model, prompt, strlen(prompt), NWC_TOKENIZE_ADD_SPECIAL, tokens, 256, &count);

  /* All but the last token, which the generation begins with. */
  if (status == NWC_STATUS_OK && !take_up(session, argv[2])) {
    printf("reads the prompt\n");
    status = nwc_session_eval(session, tokens, count - 1, NWC_LOGITS_NONE, NULL, 0);
    if (status == NWC_STATUS_OK) status = keep(session, argv[2]);
  }
  if (status == NWC_STATUS_OK) {
    nwc_generate_params how;
    nwc_generate_params_init(&how);
    how.max_tokens = 20;
    printf("goes on behind %u tokens: %s", nwc_session_position(session), prompt);
    status = nwc_session_generate(session, &tokens[count - 1], 1, &how, print_token, NULL, NULL);
    printf("\n");
  }
  if (status != NWC_STATUS_OK) fprintf(stderr, "%s: %s\n", nwc_status_string(status), nwc_session_last_error(session));
  nwc_session_destroy(session);
  nwc_model_destroy(model);
  return status == NWC_STATUS_OK ? 0 : 1;
}
