/* own_memory <model.nwc> <MiB>: a session whose weights, caches and buffers lie in one arena of the program. */
#include <nwc/nwc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* The simplest allocator there is: it goes through the arena once and gives back everything at its end. A session
 * allocates when it is created, and never while it evaluates. */
typedef struct arena {
  unsigned char* memory;
  size_t size, used;
  unsigned pieces;
} arena;

static void* take(void* user, size_t size_bytes, size_t alignment) {
  arena* a = user;
  const size_t gap = (alignment - (uintptr_t)(a->memory + a->used) % alignment) % alignment;
  if (a->size - a->used < gap || a->size - a->used - gap < size_bytes) return NULL; /* the call fails, and says why */
  a->used += gap + size_bytes;
  ++a->pieces;
  return a->memory + a->used - size_bytes;
}

static void give_back(void* user, void* memory, size_t size_bytes) {
  (void)memory, (void)size_bytes;
  --((arena*)user)->pieces;
}

int main(int argc, char** argv) {
  char why[512];
  const nwc_error_detail error = {why, sizeof why};
  nwc_model* model = NULL;
  nwc_session* session = NULL;
  nwc_session_params params;
  nwc_session_plan plan;
  int result = 1;
  if (argc != 3) return fprintf(stderr, "usage: %s <model.nwc> <MiB>\n", argv[0]), 2;
  arena a = {NULL, (size_t)strtoul(argv[2], NULL, 10) << 20, 0, 0};
  a.memory = malloc(a.size);
  if (a.memory == NULL) return fprintf(stderr, "no memory for an arena of %s MiB\n", argv[2]), 1;
  const nwc_allocator allocator = {&a, take, give_back};
  nwc_session_params_init(&params);
  params.backend = NWC_BACKEND_CPU;
  params.context = 64;
  params.allocator = &allocator;
  nwc_session_plan_init(&plan);
  uint32_t token = 1;
  if (nwc_model_open_path(argv[1], &error, &model) != NWC_STATUS_OK ||
      nwc_session_make_plan(model, &params, &error, &plan) != NWC_STATUS_OK ||
      nwc_session_create(model, &params, NULL, NULL, &error, &session) != NWC_STATUS_OK)
    fprintf(stderr, "%s\n", why);
  else if (nwc_session_eval(session, &token, 1, NWC_LOGITS_NONE, NULL, 0) != NWC_STATUS_OK)
    fprintf(stderr, "%s\n", nwc_session_last_error(session));
  else {
    printf("%zu bytes of the arena in %u pieces; the plan said %llu, %llu of them the decoder's own\n", a.used,
           a.pieces, (unsigned long long)plan.total_bytes, (unsigned long long)plan.decoder_bytes);
    result = 0;
  }
  nwc_session_destroy(session);
  nwc_model_destroy(model);
  if (a.pieces != 0) {
    fprintf(stderr, "%u pieces were not given back\n", a.pieces);
    result = 1;
  }
  free(a.memory);
  return result;
}
