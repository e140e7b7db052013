#include "trainer/recover/recovery_files.h"

#include <filesystem>

#include "trainer/data/fs_path.h"

namespace nwc {
namespace {

constexpr const char* kBlockPrefix = "block-";
constexpr const char* kDistillation = "distillation";

/// Of a block whose matrices have their shapes already.
std::vector<KeptTensor> tensors_of(const ModelGraph& graph, uint32_t layer, LayerWeights<float>* weights) {
  std::vector<KeptTensor> out;
  for (size_t m = 0; m < weights->matrices.size(); ++m) {
    RowMatrix<float>& w = weights->matrices[m];
    out.push_back({graph.matrix_name(layer, m),
                   {static_cast<uint64_t>(w.rows()), static_cast<uint64_t>(w.cols())},
                   {w.data(), static_cast<size_t>(w.size())}});
  }
  const std::vector<LayerVector>& vectors = graph.layer(layer).vectors();
  for (size_t v = 0; v < vectors.size(); ++v) {
    const size_t size = static_cast<size_t>(vectors[v].size);
    out.push_back({graph.name(graph.vector_tensor(layer, v)), {size}, {weights->vectors.data() + vectors[v].at, size}});
  }
  return out;
}

}  // namespace

std::string RecoveryFiles::path(const std::string& hash, const std::string& name) const {
  return folder_ + "/" + hash + "/" + name + ".safetensors";
}

bool RecoveryFiles::read(const std::string& hash, const std::string& name, const std::string& what,
                         std::span<const KeptTensor> tensors, KeptNotes* notes, const Logger& log) {
  used_.insert(hash);
  const std::string file = path(hash, name);
  std::error_code error;
  if (!std::filesystem::exists(fs_path(file), error)) return false;
  const Status status = read_kept_tensors(file, hash, tensors, notes);
  if (status.ok()) return true;
  log.log(LogLevel::kWarning, file + " is of no use, " + what + " again: " + status.message());
  return false;
}

void RecoveryFiles::write(const std::string& hash, const std::string& name, std::span<const KeptTensor> tensors,
                          const KeptNotes& notes, const Logger& log) {
  used_.insert(hash);
  const auto attempt = [&]() -> Status {
    std::error_code error;
    std::filesystem::create_directories(fs_path(folder_ + "/" + hash), error);
    if (error) return io_error(folder_ + "/" + hash + ": cannot create the folder: " + error.message());
    return write_kept_tensors(path(hash, name), hash, tensors, notes);
  };
  const Status status = attempt();
  if (status.ok() || failed_) return;
  failed_ = true;
  log.log(LogLevel::kWarning,
          "fine-tuning goes on, but an interrupted run will lose what it has done: " + status.message());
}

bool RecoveryFiles::take(const std::string& hash, uint32_t layer, const ModelGraph& graph, LayerWeights<float>* weights,
                         const Logger& log) {
  weights->matrices.clear();
  for (const LayerMatrix& m : graph.layer(layer).matrices()) weights->matrices.emplace_back(m.rows, m.cols);
  weights->vectors.resize(graph.layer(layer).vector_elements());
  const std::string number = std::to_string(layer);
  KeptNotes none;
  if (!read(hash, kBlockPrefix + number, "block " + number + " is recovered", tensors_of(graph, layer, weights), &none,
            log)) {
    *weights = {};
    return false;
  }
  ++taken_;
  return true;
}

void RecoveryFiles::keep(const std::string& hash, uint32_t layer, const ModelGraph& graph, LayerWeights<float> weights,
                         const Logger& log) {
  write(hash, kBlockPrefix + std::to_string(layer), tensors_of(graph, layer, &weights), {}, log);
}

bool RecoveryFiles::take_distillation(const std::string& hash, std::span<const KeptTensor> tensors, KeptNotes* notes,
                                      const Logger& log) {
  return read(hash, kDistillation, "gains and biases are tuned", tensors, notes, log);
}

void RecoveryFiles::keep_distillation(const std::string& hash, std::span<const KeptTensor> tensors,
                                      const KeptNotes& notes, const Logger& log) {
  write(hash, kDistillation, tensors, notes, log);
}

void RecoveryFiles::remove(const Logger& log) {
  std::error_code ignored;
  for (const std::string& hash : used_) {
    const std::filesystem::path folder = fs_path(folder_ + "/" + hash);
    std::vector<std::filesystem::path> files;
    for (std::filesystem::directory_iterator at(folder, ignored), end; at != end; at.increment(ignored)) {
      // What an AtomicFile left when the process was killed begins like its file.
      const std::string name = at->path().filename().string();
      if (name.rfind(kBlockPrefix, 0) == 0 || name.rfind(kDistillation, 0) == 0) files.push_back(at->path());
    }
    for (const std::filesystem::path& file : files) std::filesystem::remove(file, ignored);
    std::filesystem::remove(folder, ignored);
  }
  if (!used_.empty() && std::filesystem::is_directory(fs_path(folder_), ignored) &&
      !std::filesystem::remove(fs_path(folder_), ignored)) {
    log.log(LogLevel::kInfo, folder_ +
                                 " still holds what other interrupted runs have done; delete it unless they are "
                                 "to go on");
  }
  used_.clear();
}

}  // namespace nwc
