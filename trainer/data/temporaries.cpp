#include "trainer/data/temporaries.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "trainer/data/os_files.h"

namespace nwc {
namespace {

/// It is static, for a handler that interrupts its removal must not read freed memory.
struct Slot {
  enum State : int { kFree, kFilling, kUsed };
  std::atomic<int> state = kFree;
  Temporary::Kind kind = Temporary::kFile;
  char path[os::kMostPathBytes] = "";
};
std::array<Slot, 16> g_slots;

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
      os::remove_folder_at_once(slot.path);
    } else {
      os::remove_file_at_once(slot.path);
    }
  }
  errno = reason;
}

}  // namespace nwc
