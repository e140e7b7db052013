// The temporary files and folders that are open now, where a signal handler finds them.
#pragma once

#include <string>

namespace nwc {

/// Keeps the name of a temporary file or folder in a static table while the object lives. The table holds 16 files and
/// folders; those beyond are not in it.
class Temporary {
 public:
  enum Kind : int { kFile, kFolder };

  Temporary(const std::string& path, Kind kind);
  Temporary(Temporary&& other) noexcept;
  Temporary& operator=(Temporary&& other) noexcept;
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;
  ~Temporary() { forget(); }

  /// The name now stands for a result, or for nothing.
  void forget();

 private:
  int slot_ = -1;  ///< -1: none
};

/// Removes the temporary files in the table, and the temporary folders with the files in them, for a process that ends
/// without destructors. May be called in a signal handler; nothing may be committed afterwards.
void remove_temporaries();

}  // namespace nwc
