// Keeps the blocks that recovery has finished on disk, so that an interrupted run can go on (doc/architecture.md,
// Recovery fine-tuning).
#pragma once

#include <set>
#include <string>

#include "runtime/base/log.h"
#include "trainer/llm/model_graph.h"

namespace nwc {

/// Blocks as they were tuned, before they were coded: `FOLDER/HASH/block-N.safetensors`, all F32. HASH names everything
/// that a recovery depends on, so that several lie side by side: a run that corrects its step recovers more than once,
/// and other settings may share the folder. Each file says whose it is and has a CRC-32; one that is damaged or foreign
/// is warned about and made again.
class RecoveryFiles {
 public:
  explicit RecoveryFiles(std::string folder) : folder_(std::move(folder)) {}
  const std::string& folder() const { return folder_; }

  /// Reads the block if there is a valid file of it, and returns whether there was one.
  /// memory: the block and its largest matrix once more
  bool take(const std::string& hash, uint32_t layer, const ModelGraph& graph, LayerWeights<float>* weights,
            const Logger& log);
  /// Keeps a block. What cannot be written (a full disk) is warned about once: the run goes on without.
  void keep(const std::string& hash, uint32_t layer, const ModelGraph& graph, LayerWeights<float> weights,
            const Logger& log);
  /// Blocks that take() has found.
  uint32_t taken() const { return taken_; }

  /// Removes the blocks of every recovery that take() or keep() was called for, and folders that this leaves empty.
  /// What other runs left stays: they may go on.
  void remove(const Logger& log);

 private:
  std::string path(const std::string& hash, uint32_t layer) const;

  std::string folder_;
  std::set<std::string> used_;  ///< hashes
  uint32_t taken_ = 0;
  bool failed_ = false;  ///< to write
};

}  // namespace nwc
