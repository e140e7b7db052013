// The runtime's operating system: Linux, Android, macOS.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "runtime/base/os.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace nwc::os {
namespace {

// Sizes of files have 64 bits, also where addresses have 32 (CMakeLists.txt: _FILE_OFFSET_BITS).
static_assert(sizeof(off_t) == 8);

FileKind kind_of(mode_t mode) {
  if (S_ISREG(mode)) return FileKind::kPlain;
  if (S_ISDIR(mode)) return FileKind::kFolder;
  if (S_ISFIFO(mode)) return FileKind::kFifo;
  if (S_ISSOCK(mode)) return FileKind::kSocket;
  return FileKind::kDevice;
}

bool convert(int failed, const struct stat& info, FileStatus* out) {
  if (failed != 0) return false;
  out->kind = kind_of(info.st_mode);
  out->size = static_cast<uint64_t>(info.st_size);
  out->device = static_cast<uint64_t>(info.st_dev);
  out->node = static_cast<uint64_t>(info.st_ino);
  out->mode = static_cast<uint32_t>(info.st_mode);
  out->owner = static_cast<uint32_t>(info.st_uid);
  out->group = static_cast<uint32_t>(info.st_gid);
  return true;
}

}  // namespace

const char* kind_name(FileKind kind) {
  switch (kind) {
    case FileKind::kPlain: return "a plain file";
    case FileKind::kFolder: return "a folder";
    case FileKind::kFifo: return "a FIFO";
    case FileKind::kSocket: return "a socket";
    case FileKind::kDevice: break;
  }
  return "a device";
}

bool status_of(const std::string& path, FileStatus* out) {
  struct stat info;
  return convert(stat(path.c_str(), &info), info, out);
}

bool status_of(int descriptor, FileStatus* out) {
  struct stat info;
  return convert(fstat(descriptor, &info), info, out);
}

int open_to_read(const std::string& path) {
  // O_NONBLOCK: a FIFO that nobody writes to would hold open() for ever. It changes nothing for plain files.
  return open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
}

int create_new(const std::string& path, bool own_user_only) {
  return open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, own_user_only ? 0600 : 0666);
}

std::FILE* open_stream(const std::string& path, const char* mode) { return std::fopen(path.c_str(), mode); }

int duplicate(int descriptor) { return fcntl(descriptor, F_DUPFD_CLOEXEC, 0); }

void close_file(int descriptor) { close(descriptor); }

int64_t read_at(int descriptor, uint64_t offset, void* out, size_t size) {
  for (;;) {
    const ssize_t n = pread(descriptor, out, size, static_cast<off_t>(offset));
    if (n >= 0 || errno != EINTR) return n;
  }
}

bool write_at(int descriptor, uint64_t offset, const void* bytes, size_t size) {
  const char* from = static_cast<const char*>(bytes);
  while (size != 0) {
    const ssize_t n = pwrite(descriptor, from, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n == 0) errno = ENOSPC;
    if (n <= 0) return false;
    from += n;
    offset += static_cast<uint64_t>(n);
    size -= static_cast<size_t>(n);
  }
  return true;
}

#if defined(POSIX_FADV_WILLNEED)
void will_read(int descriptor, uint64_t offset, uint64_t size) {
  static_cast<void>(
      posix_fadvise(descriptor, static_cast<off_t>(offset), static_cast<off_t>(size), POSIX_FADV_WILLNEED));
}
void forget(int descriptor, uint64_t offset, uint64_t size) {
  static_cast<void>(
      posix_fadvise(descriptor, static_cast<off_t>(offset), static_cast<off_t>(size), POSIX_FADV_DONTNEED));
}
#else
void will_read(int, uint64_t, uint64_t) {}
void forget(int, uint64_t, uint64_t) {}
#endif

bool rename_over(const std::string& from, const std::string& to) { return std::rename(from.c_str(), to.c_str()) == 0; }
bool remove_file(const std::string& path) { return unlink(path.c_str()) == 0; }
bool make_folder(const std::string& path, bool own_user_only) {
  return mkdir(path.c_str(), own_user_only ? 0700 : 0777) == 0;
}
int process_id() { return getpid(); }

void* open_library(const char* name) { return dlopen(name, RTLD_NOW | RTLD_LOCAL); }
void* library_symbol(void* library, const char* name) { return dlsym(library, name); }
void close_library(void* library) { dlclose(library); }
#if defined(__APPLE__)
const char* const kVulkanLibraries = "libvulkan.1.dylib\0libvulkan.dylib\0libMoltenVK.dylib\0";
#else
const char* const kVulkanLibraries = "libvulkan.so.1\0libvulkan.so\0";
#endif

uint64_t page_size() { return static_cast<uint64_t>(sysconf(_SC_PAGESIZE)); }

void advise_large_pages([[maybe_unused]] uintptr_t begin, [[maybe_unused]] uintptr_t end) {
#if defined(__linux__)
  static_cast<void>(madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE));
#endif
}

bool local_time(std::time_t time, std::tm* out) { return localtime_r(&time, out) != nullptr; }

bool has_arm_crc32() {
#if defined(__linux__) && defined(__aarch64__)
  constexpr unsigned long kCrc32 = 1ul << 7;  // HWCAP_CRC32 of <asm/hwcap.h>
  return (getauxval(AT_HWCAP) & kCrc32) != 0;
#elif defined(__APPLE__) && defined(__aarch64__)
  return true;
#else
  return false;
#endif
}

}  // namespace nwc::os
