// The runtime's operating system: Windows. Names are UTF-8 outside and UTF-16 in the calls, whatever the code page of
// the program is. Twin of os_posix.cpp.
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
// After windows.h, whose types they use.
#include <fcntl.h>
#include <io.h>
#include <process.h>

#include <algorithm>
#include <cerrno>

#include "runtime/base/os.h"
#include "runtime/base/os_windows.h"

namespace nwc::os {
namespace {

/// errno for what GetLastError() says.
void set_errno(DWORD error) {
  switch (error) {
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND:
    case ERROR_INVALID_NAME:
    case ERROR_BAD_NETPATH: errno = ENOENT; break;
    case ERROR_ACCESS_DENIED:
    case ERROR_SHARING_VIOLATION:
    case ERROR_LOCK_VIOLATION:
    case ERROR_WRITE_PROTECT: errno = EACCES; break;
    case ERROR_FILE_EXISTS:
    case ERROR_ALREADY_EXISTS: errno = EEXIST; break;
    case ERROR_DISK_FULL:
    case ERROR_HANDLE_DISK_FULL: errno = ENOSPC; break;
    case ERROR_NOT_SAME_DEVICE: errno = EXDEV; break;
    case ERROR_DIR_NOT_EMPTY: errno = ENOTEMPTY; break;
    case ERROR_INVALID_HANDLE: errno = EBADF; break;
    case ERROR_NO_UNICODE_TRANSLATION: errno = EILSEQ; break;
    default: errno = EIO;
  }
}

bool status_of_handle(HANDLE handle, FileStatus* out) {
  const DWORD type = GetFileType(handle);
  if (type == FILE_TYPE_PIPE || type == FILE_TYPE_CHAR) {
    *out = FileStatus();
    out->kind = type == FILE_TYPE_PIPE ? FileKind::kFifo : FileKind::kDevice;
    return true;
  }
  BY_HANDLE_FILE_INFORMATION info;
  if (GetFileInformationByHandle(handle, &info) == 0) return failed();
  const bool folder = (info.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) != 0;
  out->kind = folder ? FileKind::kFolder : FileKind::kPlain;
  out->size = uint64_t{info.nFileSizeHigh} << 32 | info.nFileSizeLow;
  out->device = info.dwVolumeSerialNumber;
  out->node = uint64_t{info.nFileIndexHigh} << 32 | info.nFileIndexLow;
  return true;
}

OVERLAPPED position(uint64_t offset) {
  OVERLAPPED at{};
  at.Offset = static_cast<DWORD>(offset);
  at.OffsetHigh = static_cast<DWORD>(offset >> 32);
  return at;
}

constexpr size_t kMostAtOnce = 1u << 30;  // of a read or write, whose size has 32 bits

}  // namespace

bool failed() {
  set_errno(GetLastError());
  return false;
}

std::wstring wide(const std::string& path) {
  const int size = static_cast<int>(std::min<size_t>(path.size(), 32767));  // longer than any path
  const int length = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path.data(), size, nullptr, 0);
  std::wstring out(static_cast<size_t>(length), L'\0');
  if (length == 0 || MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path.data(), size, out.data(), length) == 0) {
    errno = path.empty() ? ENOENT : EILSEQ;
    out.clear();
  }
  return out;
}

void* handle_of(int descriptor) { return reinterpret_cast<void*>(_get_osfhandle(descriptor)); }

int open_handle(const std::string& path, uint32_t access, uint32_t creation, uint32_t attributes, int flags) {
  const std::wstring name = wide(path);
  if (name.empty()) return -1;
  const HANDLE handle = CreateFileW(name.c_str(), access, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
                                    nullptr, creation, attributes, nullptr);
  if (handle == INVALID_HANDLE_VALUE) {
    failed();
    return -1;
  }
  const int descriptor = _open_osfhandle(reinterpret_cast<intptr_t>(handle), flags | _O_NOINHERIT | _O_BINARY);
  if (descriptor < 0) CloseHandle(handle);
  return descriptor;
}

const char* kind_name(FileKind kind) {
  switch (kind) {
    case FileKind::kPlain: return "a plain file";
    case FileKind::kFolder: return "a folder";
    case FileKind::kFifo: return "a pipe";
    case FileKind::kSocket: return "a socket";
    case FileKind::kDevice: break;
  }
  return "a device";
}

bool status_of(const std::string& path, FileStatus* out) {
  const std::wstring name = wide(path);
  if (name.empty()) return false;
  const HANDLE handle = CreateFileW(name.c_str(), 0, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, nullptr,
                                    OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS, nullptr);
  if (handle == INVALID_HANDLE_VALUE) return failed();
  const bool known = status_of_handle(handle, out);
  CloseHandle(handle);
  return known;
}

bool status_of(int descriptor, FileStatus* out) {
  const HANDLE handle = handle_of(descriptor);
  if (handle == INVALID_HANDLE_VALUE) {
    errno = EBADF;
    return false;
  }
  return status_of_handle(handle, out);
}

// FILE_FLAG_BACKUP_SEMANTICS: without it a folder could not be opened, and so not be named in the error.
int open_to_read(const std::string& path) {
  return open_handle(path, GENERIC_READ, OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS, _O_RDONLY);
}

int create_new(const std::string& path, bool) {
  return open_handle(path, GENERIC_READ | GENERIC_WRITE, CREATE_NEW, FILE_FLAG_BACKUP_SEMANTICS, _O_RDWR);
}

std::FILE* open_stream(const std::string& path, const char* mode) {
  const std::wstring name = wide(path), wide_mode = wide(mode);
  return name.empty() ? nullptr : _wfopen(name.c_str(), wide_mode.c_str());
}

// Reading at an offset moves the position of the file object, which is the program's: the descriptor gets one of its
// own where the kind of file allows it.
int duplicate(int descriptor) {
  const HANDLE own =
      ReOpenFile(handle_of(descriptor), GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, 0);
  if (own == INVALID_HANDLE_VALUE) return _dup(descriptor);
  const int made = _open_osfhandle(reinterpret_cast<intptr_t>(own), _O_RDONLY | _O_NOINHERIT | _O_BINARY);
  if (made < 0) CloseHandle(own);
  return made;
}

void close_file(int descriptor) { _close(descriptor); }

int64_t read_at(int descriptor, uint64_t offset, void* out, size_t size) {
  OVERLAPPED at = position(offset);
  DWORD done = 0;
  if (ReadFile(handle_of(descriptor), out, static_cast<DWORD>(std::min(size, kMostAtOnce)), &done, &at) != 0)
    return done;
  if (GetLastError() == ERROR_HANDLE_EOF) return 0;
  failed();
  return -1;
}

bool write_at(int descriptor, uint64_t offset, const void* bytes, size_t size) {
  const char* from = static_cast<const char*>(bytes);
  while (size != 0) {
    OVERLAPPED at = position(offset);
    DWORD n = 0;
    if (WriteFile(handle_of(descriptor), from, static_cast<DWORD>(std::min(size, kMostAtOnce)), &n, &at) == 0) {
      failed();
      return false;
    }
    if (n == 0) {
      errno = ENOSPC;
      return false;
    }
    from += n;
    offset += n;
    size -= n;
  }
  return true;
}

void will_read(int, uint64_t, uint64_t) {}
void forget(int, uint64_t, uint64_t) {}

bool rename_over(const std::string& from, const std::string& to) {
  const std::wstring old_name = wide(from), name = wide(to);
  if (old_name.empty() || name.empty()) return false;
  // An empty folder is replaced, as elsewhere; the call alone replaces files only.
  const DWORD there = GetFileAttributesW(name.c_str());
  if (there != INVALID_FILE_ATTRIBUTES && (there & FILE_ATTRIBUTE_DIRECTORY) != 0 &&
      RemoveDirectoryW(name.c_str()) == 0)
    return failed();
  return MoveFileExW(old_name.c_str(), name.c_str(), MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH) != 0 ||
         failed();
}

bool remove_file(const std::string& path) {
  const std::wstring name = wide(path);
  return !name.empty() && (DeleteFileW(name.c_str()) != 0 || failed());
}

bool make_folder(const std::string& path, bool) {
  const std::wstring name = wide(path);
  return !name.empty() && (CreateDirectoryW(name.c_str(), nullptr) != 0 || failed());
}

int process_id() { return _getpid(); }

void* open_library(const char* name) {
  const std::wstring file = wide(name);
  return file.empty() ? nullptr : reinterpret_cast<void*>(LoadLibraryW(file.c_str()));
}
void* library_symbol(void* library, const char* name) {
  return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(library), name));
}
void close_library(void* library) { FreeLibrary(static_cast<HMODULE>(library)); }
const char* const kVulkanLibraries = "vulkan-1.dll\0";

uint64_t page_size() {
  SYSTEM_INFO info;
  GetSystemInfo(&info);
  return info.dwPageSize;
}

void advise_large_pages(uintptr_t, uintptr_t) {}

bool local_time(std::time_t time, std::tm* out) { return localtime_s(out, &time) == 0; }

bool has_arm_crc32() { return false; }

}  // namespace nwc::os
