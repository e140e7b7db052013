// The process on Windows. Twin of process_posix.cpp.
#include "host-tools/process.h"

#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
// After windows.h, whose types they use.
#include <fcntl.h>
#include <io.h>
#include <psapi.h>
#include <shellapi.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <vector>

#include "trainer/data/temporaries.h"

namespace nwc::cli {
namespace {

std::atomic<int> g_interrupted = 0;  ///< SIGINT or SIGTERM

std::string utf8(const wchar_t* text) {
  const int size = WideCharToMultiByte(CP_UTF8, 0, text, -1, nullptr, 0, nullptr, nullptr);
  std::string out(static_cast<size_t>(size > 0 ? size : 1), '\0');
  WideCharToMultiByte(CP_UTF8, 0, text, -1, out.data(), size, nullptr, nullptr);
  out.pop_back();  // the NUL
  return out;
}

/// The system calls it on a thread of its own.
BOOL WINAPI on_control(DWORD event) {
  const int number = event == CTRL_C_EVENT || event == CTRL_BREAK_EVENT ? SIGINT : SIGTERM;
  if (g_interrupted.exchange(number) != 0) {
    remove_temporaries();
    ExitProcess(130);
  }
  // Windows ends the process when the handler of a closed window or a log-off returns, and after five seconds anyway.
  if (number == SIGTERM) {
    Sleep(4000);
    remove_temporaries();
    return FALSE;
  }
  return TRUE;
}

}  // namespace

void prepare_process(int* argc, char*** argv) {
  // Windows hands main() the arguments in the code page of the system, where most characters have no place.
  static std::vector<std::string> arguments;
  static std::vector<char*> pointers;
  int count = 0;
  if (wchar_t** const wide = CommandLineToArgvW(GetCommandLineW(), &count); wide != nullptr && count > 0) {
    for (int i = 0; i < count; ++i) arguments.push_back(utf8(wide[i]));
    LocalFree(wide);
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
    *argc = count;
    *argv = pointers.data();
  }
  SetConsoleOutputCP(CP_UTF8);
  SetConsoleCP(CP_UTF8);
  // Lines end as they were written: text and JSON are the same bytes on every system.
  _setmode(0, _O_BINARY);
  _setmode(1, _O_BINARY);
  _setmode(2, _O_BINARY);
}

bool interrupted() {
  static const bool installed = SetConsoleCtrlHandler(on_control, TRUE) != 0;
  return installed && g_interrupted != 0;
}

void clear_interrupt() {
  int number = SIGINT;
  g_interrupted.compare_exchange_strong(number, 0);
}

bool is_terminal(Stream stream) { return _isatty(static_cast<int>(stream)) != 0; }

std::string program_path() {
  wchar_t path[32768];
  const DWORD length = GetModuleFileNameW(nullptr, path, static_cast<DWORD>(std::size(path)));
  return length == 0 || length == std::size(path) ? std::string() : utf8(path);
}

std::string user_cache_root() {
  const wchar_t* folder = _wgetenv(L"LOCALAPPDATA");
  return folder == nullptr ? "" : utf8(folder);
}

ProcessMemory process_memory() {
  PROCESS_MEMORY_COUNTERS counters;
  if (K32GetProcessMemoryInfo(GetCurrentProcess(), &counters, sizeof counters) == 0) return {};
  return {counters.WorkingSetSize, counters.PeakWorkingSetSize};
}

}  // namespace nwc::cli
