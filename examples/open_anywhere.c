/* open_anywhere <model.nwc>: the same file from memory, through callbacks, and as a part of another open file, as
 * assets lie in their package. */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <nwc/nwc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* A source of bytes of one's own. Threads of the library may read at once, which pread allows. */
static int read_file(void* user, uint64_t offset, void* out, size_t size_bytes) {
  const int fd = *(const int*)user;
  char* to = out;
  while (size_bytes > 0) {
    const ssize_t count = pread(fd, to, size_bytes, (off_t)offset);
    if (count <= 0) return 1;
    to += count;
    offset += (uint64_t)count;
    size_bytes -= (size_t)count;
  }
  return 0;
}

static int describe(const char* how, nwc_status status, nwc_model* model, const char* why) {
  nwc_model_info info;
  if (status != NWC_STATUS_OK) return fprintf(stderr, "%s: %s\n", how, why), 1;
  nwc_model_info_init(&info);
  nwc_model_get_info(model, &info);
  printf("%s: %u tensors, %.3f bits per weight over the whole file\n", how, info.num_tensors, info.bpw_file);
  nwc_model_destroy(model);
  return 0;
}

int main(int argc, char** argv) {
  char why[512];
  const nwc_error_detail error = {why, sizeof why};
  nwc_model* model = NULL;
  struct stat file;
  int failed = 0;
  if (argc != 2) return fprintf(stderr, "usage: %s <model.nwc>\n", argv[0]), 2;
  int fd = open(argv[1], O_RDONLY);
  if (fd < 0 || fstat(fd, &file) != 0) return perror(argv[1]), 1;

  void* bytes = malloc((size_t)file.st_size);
  if (bytes == NULL || read_file(&fd, 0, bytes, (size_t)file.st_size) != 0) return perror(argv[1]), 1;
  /* The bytes are not copied: they stay until the model is destroyed. */
  nwc_status status = nwc_model_open_memory(bytes, (size_t)file.st_size, &error, &model);
  failed |= describe("from memory", status, model, why);
  free(bytes);

  nwc_read_callbacks callbacks;
  nwc_read_callbacks_init(&callbacks);
  callbacks.size_bytes = (uint64_t)file.st_size;
  callbacks.user = &fd;
  callbacks.read = read_file;
  status = nwc_model_open_callbacks(&callbacks, &error, &model);
  failed |= describe("through callbacks", status, model, why);

  /* An asset has an offset and a length; here it is the whole file. The library has a descriptor of its own. */
  status = nwc_model_open_fd(fd, 0, (uint64_t)file.st_size, &error, &model);
  close(fd);
  failed |= describe("from a descriptor", status, model, why);
  return failed;
}
