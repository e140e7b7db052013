// What the runtime asks of the operating system. One of os_posix.cpp and os_windows.cpp is compiled; no other file of
// the runtime names a system's function or header (tests/layering.cmake).
//
// Paths are UTF-8 on every system. Where a call fails, errno says why, as POSIX has it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <string>

namespace nwc::os {

enum class FileKind : uint8_t { kPlain, kFolder, kFifo, kSocket, kDevice };

/// "a folder", "a FIFO", ...: the kind in the words of an error text.
const char* kind_name(FileKind kind);

struct FileStatus {
  FileKind kind = FileKind::kPlain;
  uint64_t size = 0;
  uint64_t device = 0, node = 0;            ///< together they name the file
  uint32_t mode = 0, owner = 0, group = 0;  ///< 0 where the system has none
};

/// False with errno set.
bool status_of(const std::string& path, FileStatus* out);
bool status_of(int descriptor, FileStatus* out);

/// A descriptor that programs started later do not inherit, or -1. Nobody waits for a FIFO's other end.
int open_to_read(const std::string& path);
/// A new file, open to read and write; EEXIST where the name is taken. own_user_only: the user alone may read it.
int create_new(const std::string& path, bool own_user_only = false);
/// As std::fopen.
std::FILE* open_stream(const std::string& path, const char* mode);
int duplicate(int descriptor);
void close_file(int descriptor);

/// Bytes read, 0 at the end of the file, or -1. Threads may read the same descriptor at the same time.
int64_t read_at(int descriptor, uint64_t offset, void* out, size_t size);
/// All of it; false with errno, ENOSPC where the system writes nothing and has no error.
bool write_at(int descriptor, uint64_t offset, const void* bytes, size_t size);
/// Hints about the system's cache of the file.
void will_read(int descriptor, uint64_t offset, uint64_t size);
void forget(int descriptor, uint64_t offset, uint64_t size);

/// Replaces what is at `to`.
bool rename_over(const std::string& from, const std::string& to);
bool remove_file(const std::string& path);
/// own_user_only: the user alone may look into it.
bool make_folder(const std::string& path, bool own_user_only = false);
int process_id();

#if defined(_WIN32)
inline constexpr const char* kSeparators = "/\\";
#else
inline constexpr const char* kSeparators = "/";
#endif
/// Where the last part of the path begins.
inline size_t name_begin(const std::string& path) {
  const size_t at = path.find_last_of(kSeparators);
  return at == std::string::npos ? 0 : at + 1;
}
/// What is in front of it, or the folder where the program runs.
inline std::string folder_of(const std::string& path) {
  const size_t begin = name_begin(path);
  return begin == 0 ? "." : path.substr(0, begin);
}

/// The library of that name, or nullptr. Libraries that it needs are found beside it.
void* open_library(const char* name);
void* library_symbol(void* library, const char* name);
void close_library(void* library);
/// The names that the Vulkan loader has here, each ended by NUL, the list by an empty one.
extern const char* const kVulkanLibraries;

uint64_t page_size();
/// Asks for large pages from begin to end, which are multiples of them. A hint.
void advise_large_pages(uintptr_t begin, uintptr_t end);
/// False where there is no such time.
bool local_time(std::time_t time, std::tm* out);
/// Whether an AArch64 processor has the CRC-32 instructions; false on others.
bool has_arm_crc32();

}  // namespace nwc::os
