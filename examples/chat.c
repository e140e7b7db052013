/* chat <instruct.nwc>: a conversation, a line of standard input for each turn. The session keeps what was said in its
 * KV cache, so that a turn costs what it adds. */
#include <nwc/nwc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TURNS 64
#define MAX_STOPS 8
#define MAX_ANSWER 60 /* tokens */

struct answer {
  char text[16384];
  size_t length;
};

static int on_token(void* user, uint32_t token, const char* text, size_t length_bytes) {
  struct answer* answer = user;
  (void)token;
  if (length_bytes > sizeof answer->text - answer->length) return 1; /* stops the generation */
  memcpy(answer->text + answer->length, text, length_bytes);
  answer->length += length_bytes;
  fwrite(text, 1, length_bytes, stdout);
  fflush(stdout);
  return 0;
}

/* What ends an answer, as the file has it. */
static uint32_t stop_strings(const nwc_model* model, const char** out) {
  uint32_t count = 0;
  for (; count < MAX_STOPS; ++count) {
    char key[32];
    snprintf(key, sizeof key, "chat_stop.%u", count);
    if (nwc_model_get_string(model, key, &out[count]) != NWC_STATUS_OK) break;
  }
  return count;
}

/* Evaluates what the last message adds, and lets the model answer. */
static nwc_status answer_turn(nwc_model* model, nwc_session* session, const nwc_chat_message* messages, size_t count,
                              struct answer* answer) {
  char* text = NULL;
  uint32_t* tokens = NULL;
  size_t length = 0, num_tokens = 0;
  uint32_t flags = 0;
  const char* stops[MAX_STOPS];
  const size_t done = count - 1; /* the session has seen all messages but the last one */
  nwc_status status = nwc_chat_format(model, messages, count, done, NULL, NULL, 0, &length, &flags);
  if (status == NWC_STATUS_OK) {
    text = malloc(length + 1);
    tokens = malloc(nwc_tokenize_bound(length) * sizeof *tokens);
    status = text == NULL || tokens == NULL ? NWC_STATUS_OUT_OF_MEMORY : NWC_STATUS_OK;
  }
  if (status == NWC_STATUS_OK)
    status = nwc_chat_format(model, messages, count, done, NULL, text, length, &length, &flags);
  if (status == NWC_STATUS_OK)
    status = nwc_tokenize(model, text, length, flags, tokens, nwc_tokenize_bound(length), &num_tokens);
  if (status == NWC_STATUS_OK) {
    nwc_generate_params how;
    nwc_generate_params_init(&how);
    how.max_tokens = MAX_ANSWER;
    how.stop_strings = stops;
    how.num_stop_strings = stop_strings(model, stops);
    status = nwc_session_generate(session, tokens, num_tokens, &how, on_token, answer, NULL);
  }
  free(tokens);
  free(text);
  return status;
}

int main(int argc, char** argv) {
  static char lines[MAX_TURNS][1024];
  static struct answer answers[MAX_TURNS];
  nwc_chat_message messages[2 * MAX_TURNS];
  char why[512];
  const nwc_error_detail error = {why, sizeof why};
  nwc_model* model = NULL;
  nwc_session* session = NULL;
  nwc_status status;
  if (argc != 2) return fprintf(stderr, "usage: %s <instruct.nwc>\n", argv[0]), 2;
  if (nwc_model_open_path(argv[1], &error, &model) != NWC_STATUS_OK) return fprintf(stderr, "%s\n", why), 1;
  status = nwc_session_create(model, NULL, NULL, NULL, &error, &session);
  if (status != NWC_STATUS_OK) fprintf(stderr, "%s\n", why);

  memset(messages, 0, sizeof messages);
  for (size_t turn = 0; status == NWC_STATUS_OK && turn < MAX_TURNS; ++turn) {
    printf("> ");
    fflush(stdout);
    if (fgets(lines[turn], sizeof lines[turn], stdin) == NULL) break;
    nwc_chat_message* question = &messages[2 * turn];
    question[0].role = NWC_CHAT_USER;
    question[0].text = lines[turn];
    question[0].length_bytes = strcspn(lines[turn], "\n");
    status = answer_turn(model, session, messages, 2 * turn + 1, &answers[turn]);
    question[1].role = NWC_CHAT_ASSISTANT;
    question[1].text = answers[turn].text;
    question[1].length_bytes = answers[turn].length;
    printf("\n");
    if (status == NWC_STATUS_LIMIT) { /* a program that goes on would leave out the oldest turns */
      printf("The conversation has filled the session's context.\n");
      status = NWC_STATUS_OK;
      break;
    }
    if (status != NWC_STATUS_OK)
      fprintf(stderr, "%s: %s\n", nwc_status_string(status), nwc_session_last_error(session));
  }
  nwc_session_destroy(session);
  nwc_model_destroy(model);
  return status == NWC_STATUS_OK ? 0 : 1;
}
