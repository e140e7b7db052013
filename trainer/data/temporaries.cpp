#include "trainer/data/temporaries.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

namespace nwc {
namespace {

/// It is static, for a handler that interrupts its removal must not read freed memory.
struct Slot {
  enum State : int { kFree, kFilling, kUsed };
  std::atomic<int> state = kFree;
  Temporary::Kind kind = Temporary::kFile;
  char path[PATH_MAX] = "";
};
std::array<Slot, 16> g_slots;

// Not opendir(), which allocates: the signal may have come in the middle of an allocation.
void remove_files_in(const char* folder) {
  const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return;
  alignas(dirent64) char entries[4096];
  for (ssize_t size = 0; (size = getdents64(fd, entries, sizeof entries)) > 0;) {
    for (ssize_t at = 0; at < size;) {
      const auto* entry = reinterpret_cast<const dirent64*>(entries + at);
      unlinkat(fd, entry->d_name, 0);  // fails for "." and ".."
      at += entry->d_reclen;
    }
  }
  close(fd);
}

void remove_folder(const char* folder) {
  // Another thread may be adding files, and some file systems pass over names while others are removed.
  constexpr int kPasses = 100;
  for (int pass = 0; pass < kPasses && rmdir(folder) != 0 && (errno == ENOTEMPTY || errno == EEXIST); ++pass) {
    remove_files_in(folder);
  }
}

}  // namespace

Temporary::Temporary(const std::string& path, Kind kind) {
  if (path.size() >= sizeof Slot::path) return;
  for (size_t i = 0; i < g_slots.size() && slot_ < 0; ++i) {
    int free = Slot::kFree;
    if (!g_slots[i].state.compare_exchange_strong(free, Slot::kFilling)) continue;
    std::memcpy(g_slots[i].path, path.c_str(), path.size() + 1);
    g_slots[i].kind = kind;
    g_slots[i].state = Slot::kUsed;
    slot_ = static_cast<int>(i);
  }
}

Temporary::Temporary(Temporary&& other) noexcept : slot_(std::exchange(other.slot_, -1)) {}

Temporary& Temporary::operator=(Temporary&& other) noexcept {
  if (this != &other) {
    forget();
    slot_ = std::exchange(other.slot_, -1);
  }
  return *this;
}

void Temporary::forget() {
  if (slot_ >= 0) g_slots[static_cast<size_t>(slot_)].state = Slot::kFree;
  slot_ = -1;
}

void remove_temporaries() {
  const int reason = errno;
  for (const Slot& slot : g_slots) {
    if (slot.state != Slot::kUsed) continue;
    if (slot.kind == Temporary::kFolder) {
      remove_folder(slot.path);
    } else {
      unlink(slot.path);
    }
  }
  errno = reason;
}

}  // namespace nwc
