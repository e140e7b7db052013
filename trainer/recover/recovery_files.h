// Keeps on disk what fine-tuning has done, so that an interrupted run can go on (doc/architecture.md, Recovery
// fine-tuning).
#pragma once

#include <set>
#include <string>

#include "runtime/base/log.h"
#include "trainer/llm/model_graph.h"
#include "trainer/recover/kept_tensors.h"

namespace nwc {

/// Blocks as they were tuned, before they were coded, `FOLDER/HASH/block-N.safetensors`, and where a distillation is,
/// `FOLDER/HASH/distillation.safetensors`. HASH names everything that they depend on, so that several lie side by side:
/// a run that corrects its step recovers more than once, and other settings may share the folder. A file that is
/// damaged or foreign is warned about and made again.
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

  /// The same for where a distillation is, which take_distillation fills if it returns true.
  bool take_distillation(const std::string& hash, std::span<const KeptTensor> tensors, KeptNotes* notes,
                         const Logger& log);
  void keep_distillation(const std::string& hash, std::span<const KeptTensor> tensors, const KeptNotes& notes,
                         const Logger& log);

  /// Removes what is kept for every hash that was asked for or kept, and folders that this leaves empty.
  /// What other runs left stays: they may go on.
  void remove(const Logger& log);

 private:
  std::string path(const std::string& hash, const std::string& name) const;
  /// what: as it reads in a warning that it is done again
  bool read(const std::string& hash, const std::string& name, const std::string& what,
            std::span<const KeptTensor> tensors, KeptNotes* notes, const Logger& log);
  void write(const std::string& hash, const std::string& name, std::span<const KeptTensor> tensors,
             const KeptNotes& notes, const Logger& log);

  std::string folder_;
  std::set<std::string> used_;  ///< hashes
  uint32_t taken_ = 0;
  bool failed_ = false;  ///< to write
};

}  // namespace nwc
