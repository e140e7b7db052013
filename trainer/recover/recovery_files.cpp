#include "trainer/recover/recovery_files.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <span>

#include "runtime/format/container.h"
#include "trainer/data/fs_path.h"
#include "trainer/data/safetensors.h"
#include "trainer/data/tensor_limits.h"

namespace nwc {
namespace {

constexpr const char* kFilePrefix = "block-";

struct BlockTensor {
  std::string name;
  std::vector<uint64_t> shape;
  std::span<float> values;
};

/// Of a block whose matrices have their shapes already.
std::vector<BlockTensor> tensors_of(const ModelGraph& graph, uint32_t layer, LayerWeights<float>* weights) {
  std::vector<BlockTensor> out;
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

MutableBytes bytes_of(std::span<float> values) {
  return {reinterpret_cast<uint8_t*>(values.data()), values.size_bytes()};
}

std::string crc_text(std::span<const BlockTensor> tensors) {
  uint32_t crc = 0;
  for (const BlockTensor& t : tensors) crc = crc32(bytes_of(t.values), crc);
  char text[9];
  std::snprintf(text, sizeof text, "%08x", crc);
  return text;
}

/// safety: untrusted input; *weights is of no use after an error
Status read_block(const std::string& path, const std::string& hash, uint32_t layer, const ModelGraph& graph,
                  LayerWeights<float>* weights) {
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Reader> reader, open_file_reader(path));
  NWC_ASSIGN_OR_RETURN(const SafetensorsHeader header, read_safetensors_header(*reader));
  const auto says = [&](const char* key) {
    const auto found = header.metadata.find(key);
    return found != header.metadata.end() ? found->second : std::string();
  };
  if (says("recovery") != hash) return corrupt("it belongs to another recovery");

  weights->matrices.clear();
  for (const LayerMatrix& m : graph.layer(layer).matrices()) weights->matrices.emplace_back(m.rows, m.cols);
  weights->vectors.resize(graph.layer(layer).vector_elements());
  const std::vector<BlockTensor> tensors = tensors_of(graph, layer, weights);
  if (header.tensors.size() != tensors.size()) return corrupt("it does not hold the tensors of a block");
  for (size_t i = 0; i < tensors.size(); ++i) {
    const SafetensorsTensor& stored = header.tensors[i];
    const BlockTensor& t = tensors[i];
    if (stored.name != t.name || stored.dtype != Dtype::kF32 || stored.shape != t.shape)
      return corrupt(quote_tensor(stored.name) + " is not F32 " + quote_tensor(t.name) + " " + shape_text(t.shape));
    NWC_TRY(reader->read(stored.offset, bytes_of(t.values)));
    if (!std::all_of(t.values.begin(), t.values.end(), [](float v) { return std::isfinite(v); }))
      return corrupt(quote_tensor(t.name) + " holds values that are not finite");
  }
  if (says("crc32") != crc_text(tensors)) return Status(StatusCode::kChecksum, "its checksum is wrong");
  return {};
}

}  // namespace

std::string RecoveryFiles::path(const std::string& hash, uint32_t layer) const {
  return folder_ + "/" + hash + "/" + kFilePrefix + std::to_string(layer) + ".safetensors";
}

bool RecoveryFiles::take(const std::string& hash, uint32_t layer, const ModelGraph& graph, LayerWeights<float>* weights,
                         const Logger& log) {
  used_.insert(hash);
  const std::string file = path(hash, layer);
  std::error_code error;
  if (!std::filesystem::exists(fs_path(file), error)) return false;
  const Status status = read_block(file, hash, layer, graph, weights);
  if (!status.ok()) {
    log.log(LogLevel::kWarning,
            file + " is of no use, block " + std::to_string(layer) + " is recovered again: " + status.message());
    return false;
  }
  ++taken_;
  return true;
}

void RecoveryFiles::keep(const std::string& hash, uint32_t layer, const ModelGraph& graph, LayerWeights<float> weights,
                         const Logger& log) {
  used_.insert(hash);
  const auto write = [&]() -> Status {
    std::error_code error;
    std::filesystem::create_directories(fs_path(folder_ + "/" + hash), error);
    if (error) return io_error(folder_ + "/" + hash + ": cannot create the folder: " + error.message());
    const std::vector<BlockTensor> tensors = tensors_of(graph, layer, &weights);
    std::vector<SafetensorsTensor> headers(tensors.size());
    for (size_t i = 0; i < tensors.size(); ++i) {
      headers[i].name = tensors[i].name;
      headers[i].shape = tensors[i].shape;
    }
    return write_safetensors(path(hash, layer), headers, {{"recovery", hash}, {"crc32", crc_text(tensors)}},
                             [&](size_t i, std::vector<uint8_t>* bytes) -> Status {
                               const MutableBytes values = bytes_of(tensors[i].values);
                               bytes->assign(values.begin(), values.end());
                               return {};
                             });
  };
  const Status status = write();
  if (status.ok() || failed_) return;
  failed_ = true;
  log.log(LogLevel::kWarning, "recovery goes on, but an interrupted run will lose blocks: " + status.message());
}

void RecoveryFiles::remove(const Logger& log) {
  std::error_code ignored;
  for (const std::string& hash : used_) {
    const std::filesystem::path folder = fs_path(folder_ + "/" + hash);
    std::vector<std::filesystem::path> files;
    for (std::filesystem::directory_iterator at(folder, ignored), end; at != end; at.increment(ignored)) {
      // What an AtomicFile left when the process was killed begins like its file.
      if (at->path().filename().string().rfind(kFilePrefix, 0) == 0) files.push_back(at->path());
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
