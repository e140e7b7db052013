#include "trainer/train/chunk_dataset.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "runtime/base/checked.h"
#include "runtime/format/container.h"
#include "trainer/data/model_source.h"
#include "trainer/nn/random.h"

namespace nwc {
namespace {

enum Purpose : uint64_t { kSampling = 101, kShuffling = 102, kEpoch = 103 };

bool is_float(Dtype dtype) { return dtype == Dtype::kF32 || dtype == Dtype::kF16 || dtype == Dtype::kBf16; }

bool is_embedding(const std::string& name) {
  return name.find("embed") != std::string::npos || name.find("wte") != std::string::npos ||
         name.find("wpe") != std::string::npos;
}

/// How many chunks of a tensor can be learnt from: 0 for all but matrices of 16 rows or more.
uint64_t num_chunks(const SourceTensor& tensor, bool include_embedding) {
  if (tensor.shape.size() != 2 || !is_float(tensor.dtype) || tensor.shape[0] < kChunk || tensor.shape[1] < kChunk)
    return 0;
  if (!include_embedding && is_embedding(tensor.name)) return 0;
  return tensor.shape[0] / kChunk * tensor.shape[1];
}

/// Selection sampling (Knuth, algorithm S): every chunk of the stream is kept with equal chance, exactly `wanted` in
/// all.
struct Sampler {
  uint64_t wanted, left;
  Random random;
  bool take() {
    const bool taken = random.below(left) < wanted;
    left -= 1;
    wanted -= taken;
    return taken;
  }
};

void sample_matrix(const std::vector<float>& w, size_t rows, size_t columns, Sampler* sampler,
                   std::vector<float>* chunks) {
  std::vector<double> squares(columns, 0.0);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < columns; ++c) squares[c] += static_cast<double>(w[r * columns + c]) * w[r * columns + c];
  }
  for (size_t block = 0; block < rows / kChunk; ++block) {
    for (size_t c = 0; c < columns; ++c) {
      if (!sampler->take() || squares[c] == 0) continue;
      const double inverse = 1 / std::sqrt(squares[c] / static_cast<double>(rows));
      for (size_t i = 0; i < kChunk; ++i) {
        chunks->push_back(static_cast<float>(w[(block * kChunk + i) * columns + c] * inverse));
      }
    }
  }
}

}  // namespace

Result<ChunkDataset> ChunkDataset::load(const DatasetOptions& options) {
  std::vector<std::unique_ptr<ModelSource>> sources;
  uint64_t available = 0;
  for (const std::string& path : options.sources) {
    NWC_ASSIGN_OR_RETURN(sources.emplace_back(), open_model_source(path));
    for (const SourceTensor& tensor : sources.back()->tensors()) {
      if (!checked_add(available, num_chunks(tensor, options.include_embedding), &available)) {
        return limit_error(path + ": too many weights");
      }
    }
  }
  // At most an eighth is held out. A buffer that the caller has sized and 32-bit indices bound the memory.
  const uint64_t held_out = std::min(options.validation_chunks, options.max_chunks / 7);
  const uint64_t wanted = std::min({available, options.max_chunks + held_out, uint64_t{0xffffffff}});
  Sampler sampler{wanted, available, Random({options.seed, kSampling})};
  std::vector<float> chunks;
  chunks.reserve(static_cast<size_t>(wanted) * kChunk);
  for (const auto& source : sources) {
    for (size_t t = 0; t < source->tensors().size(); ++t) {
      const SourceTensor& tensor = source->tensors()[t];
      if (num_chunks(tensor, options.include_embedding) == 0) continue;
      NWC_ASSIGN_OR_RETURN(const std::vector<float> values, source->read_f32(t));
      sample_matrix(values, static_cast<size_t>(tensor.shape[0]), static_cast<size_t>(tensor.shape[1]), &sampler,
                    &chunks);
    }
  }
  const size_t count = chunks.size() / kChunk;
  if (count < 2) {
    return Status(StatusCode::kNotFound,
                  "the sources hold no matrix of at least 16x16 floating-point weights to learn from");
  }
  // Chunks are shuffled once, so that the validation chunks are a sample of everything.
  Random random({options.seed, kShuffling});
  for (size_t i = count - 1; i > 0; --i) {
    const auto j = static_cast<size_t>(random.below(i + 1));
    if (i == j) continue;  // swap_ranges needs ranges that do not overlap
    std::swap_ranges(chunks.begin() + static_cast<std::ptrdiff_t>(i * kChunk),
                     chunks.begin() + static_cast<std::ptrdiff_t>((i + 1) * kChunk),
                     chunks.begin() + static_cast<std::ptrdiff_t>(j * kChunk));
  }
  const size_t validation =
      std::max<size_t>(1, std::min<size_t>(static_cast<size_t>(options.validation_chunks), count / 8));
  ChunkDataset dataset = from_chunks(std::move(chunks), validation);
  dataset.available_ = available;
  for (size_t i = 0; i < sources.size(); ++i) dataset.notes_.push_back({options.sources[i], sources[i]->notes()});
  return dataset;
}

ChunkDataset ChunkDataset::from_chunks(std::vector<float> chunks, size_t validation) {
  ChunkDataset dataset;
  dataset.chunks_ = std::move(chunks);
  dataset.validation_ = validation;
  dataset.available_ = dataset.chunks_.size() / kChunk;
  dataset.digest_ =
      crc32({reinterpret_cast<const uint8_t*>(dataset.chunks_.data()), dataset.chunks_.size() * sizeof(float)});
  return dataset;
}

std::vector<uint32_t> epoch_permutation(uint64_t seed, uint64_t epoch, size_t size) {
  std::vector<uint32_t> order(size);
  std::iota(order.begin(), order.end(), 0u);
  Random random({seed, kEpoch, epoch});
  for (size_t i = size; i > 1; --i) std::swap(order[i - 1], order[static_cast<size_t>(random.below(i))]);
  return order;
}

}  // namespace nwc
