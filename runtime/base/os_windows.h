// What the two files for Windows' files share: os_windows.cpp, and trainer/data/os_files_windows.cpp. It names nothing
// of windows.h, whose types have the widths that stand here.
#pragma once

#include <cstdint>
#include <string>

namespace nwc::os {

/// UTF-16 of a name. Empty, with errno set, where the bytes are no UTF-8: no file has such a name.
std::wstring wide(const std::string& path);
/// Sets errno to what GetLastError() says, and returns false.
bool failed();
/// CreateFileW as a descriptor, or -1 with errno set. Everybody may read, rename and remove the file meanwhile, as on
/// other systems. flags: _O_RDONLY or _O_RDWR.
int open_handle(const std::string& path, uint32_t access, uint32_t creation, uint32_t attributes, int flags);
/// The HANDLE of a descriptor.
void* handle_of(int descriptor);

}  // namespace nwc::os
