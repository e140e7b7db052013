// A model in memory for tests of the encoder.
#pragma once

#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <random>
#include <string>

#include "runtime/base/half.h"
#include "trainer/data/model_source.h"

namespace nwc::testing {

class MemorySource : public ModelSource {
 public:
  void add(const std::string& name, Dtype dtype, std::vector<uint64_t> shape, std::vector<uint8_t> bytes) {
    SourceTensor t;
    t.name = name;
    t.dtype = dtype;
    t.stored_type = dtype_name(dtype);
    t.shape = std::move(shape);
    tensors_.push_back(std::move(t));
    bytes_.push_back(std::move(bytes));
  }
  void add_f32(const std::string& name, std::vector<uint64_t> shape, const std::vector<float>& values) {
    std::vector<uint8_t> bytes(values.size() * 4);
    if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());  // memcpy takes no null pointer
    add(name, Dtype::kF32, std::move(shape), std::move(bytes));
  }
  /// Gaussian weights; every column has a deviation of its own.
  void add_gaussian(const std::string& name, uint64_t m, uint64_t n, uint32_t seed) {
    add_f32(name, {m, n}, gaussian(m, n, seed));
  }
  static std::vector<float> gaussian(uint64_t m, uint64_t n, uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> gauss;
    std::vector<float> w(m * n);
    for (size_t i = 0; i < w.size(); ++i) w[i] = gauss(random) * 0.02f * (1 + static_cast<float>(i % n % 7));
    return w;
  }

  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  Status read_raw(size_t tensor, MutableBytes out) const override {
    if (out.size() != bytes_[tensor].size()) return invalid_argument("size of the output");
    std::copy(bytes_[tensor].begin(), bytes_[tensor].end(), out.begin());
    return {};
  }
  const std::optional<ModelRecord>& model() const override { return model_; }
  const std::optional<TokenizerRecord>& tokenizer() const override { return tokenizer_; }
  uint64_t stored_bytes() const override { return 0; }

 private:
  std::vector<SourceTensor> tensors_;
  std::vector<std::vector<uint8_t>> bytes_;
  std::optional<ModelRecord> model_;
  std::optional<TokenizerRecord> tokenizer_;
};

/// An empty folder that is removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    path_ = std::filesystem::temp_directory_path() / ("nwc-test-" + std::to_string(getpid()));
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string file(const std::string& name) const { return (path_ / name).string(); }
  size_t num_files() const {
    size_t n = 0;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) n += entry.exists() ? 1 : 0;
    return n;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace nwc::testing
