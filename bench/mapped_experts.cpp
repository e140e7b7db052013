#include "bench/mapped_experts.h"

#include <sys/mman.h>

#include <algorithm>
#include <list>
#include <unordered_map>

#include "bench/bench_files.h"
#include "bench/child_process.h"
#include "runtime/engine/file_layout.h"
#include "runtime/engine/kernels_cpu.h"

namespace nwc::bench {
namespace {

/// A file's bytes, as pages that are read when they are touched.
class Mapping {
 public:
  explicit Mapping(const std::string& path, uint64_t size) : file_(path), size_(static_cast<size_t>(size)) {
    void* const at = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file_.get(), 0);
    if (at == MAP_FAILED) check(io_error(path + ": cannot be mapped"));
    base_ = static_cast<uint8_t*>(at);
  }
  ~Mapping() { munmap(base_, size_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  const uint8_t* at(uint64_t offset) const { return base_ + offset; }
  const OpenFile& file() const { return file_; }
  /// The pages of a range will be touched.
  void advise(uint64_t offset, uint64_t bytes) const {
    const auto [begin, end] = pages(offset, bytes);
    madvise(base_ + begin, static_cast<size_t>(end - begin), MADV_WILLNEED);
  }
  /// They are in memory no longer.
  void forget(uint64_t offset, uint64_t bytes) const {
    const auto [begin, end] = pages(offset, bytes);
    madvise(base_ + begin, static_cast<size_t>(end - begin), MADV_DONTNEED);
    file_.forget(static_cast<off_t>(begin), static_cast<off_t>(end - begin));
  }

 private:
  std::pair<uint64_t, uint64_t> pages(uint64_t offset, uint64_t bytes) const {
    constexpr uint64_t kPage = 4096;
    return {offset / kPage * kPage, std::min<uint64_t>(size_, align_up(offset + bytes, kPage))};
  }
  const OpenFile file_;
  const size_t size_;
  uint8_t* base_ = nullptr;
};

}  // namespace

nlohmann::json run_mapped(const MappedOptions& o, const Choices& choices) {
  auto reader = open_file_reader(o.path);
  check(reader.status());
  auto opened = NwcFile::open(std::move(reader).value());
  check(opened.status());
  const NwcFile& file = **opened;
  const auto layout = resolve_file_layout(file);
  check(layout.status());
  const ModelRecord& model = *file.model();
  const ExpertSpec& spec = model.block().experts;
  if (choices.layers != model.num_layers || choices.per_token != spec.per_token)
    check(invalid_argument(o.path + ": is not the same model"));
  const Mapping mapping(o.path, file.reader().size());
  uint64_t expert_bytes = 0, other_bytes = 0;
  for (const PlacedMatrix& m : layout->layers[0].expert(0)) expert_bytes += file.tensors()[m.tensor].size;
  for (const TensorRecord& t : file.tensors()) other_bytes += t.size;
  other_bytes -= expert_bytes * layout->num_experts();
  const uint64_t slots = o.budget <= other_bytes ? 0 : (o.budget - other_bytes) / expert_bytes;
  /// The bytes of an expert's three matrices, which lie next to each other.
  const auto of_expert = [&](uint32_t layer, uint32_t expert, const auto& use) {
    const std::span<const PlacedMatrix> matrices = layout->layers[layer].expert(expert);
    const TensorRecord &first = file.tensors()[matrices[0].tensor], &last = file.tensors()[matrices.back().tensor];
    use(file.data_offset() + first.offset, last.offset + last.size - first.offset);
  };

  std::list<std::pair<uint32_t, uint32_t>> used;  // layer, expert: the last used one first
  std::unordered_map<uint64_t, std::list<std::pair<uint32_t, uint32_t>>::iterator> held;
  const auto key_of = [](uint32_t layer, uint32_t expert) { return uint64_t{layer} << 32 | expert; };
  const auto runner = make_thread_pool(o.threads);
  const KernelTable& kernels = kernel_table(detect_cpu_level());
  std::vector<float> scratch(kMatmulScratch * runner->num_workers()), x(model.hidden_size, 0.01f),
      inner(2 * size_t{spec.intermediate_size}), out(model.hidden_size);
  const auto multiply = [&](const PlacedMatrix& m, const float* in, float* to) {
    const TensorRecord& t = file.tensors()[m.tensor];
    const WeightView view{mapping.at(file.data_offset() + t.offset), t.dtype, m.rows, m.cols};
    matmul(kernels, *runner, 1, in, m.cols, view, to, m.rows, scratch.data());
  };
  uint64_t hits = 0, misses = 0;
  const auto step = [&](uint32_t token) {
    for (uint32_t l = 0; l < model.num_layers; ++l) {
      const std::span<const uint32_t> experts(choices.of(token, l), spec.per_token);
      for (const uint32_t e : experts) {
        if (const auto found = held.find(key_of(l, e)); found != held.end()) {
          used.splice(used.begin(), used, found->second);
          ++hits;
          continue;
        }
        ++misses;
        used.emplace_front(l, e);
        held[key_of(l, e)] = used.begin();
        of_expert(l, e, [&](uint64_t offset, uint64_t bytes) { mapping.advise(offset, bytes); });
      }
      for (const uint32_t e : experts) {
        const std::span<const PlacedMatrix> matrices = layout->layers[l].expert(e);
        multiply(matrices[0], x.data(), inner.data());
        multiply(matrices[1], x.data(), inner.data() + spec.intermediate_size);
        activate(kernels, *runner, 1, spec.intermediate_size, model.block(), inner.data());
        multiply(matrices[2], inner.data(), out.data());
      }
      while (used.size() > std::max<uint64_t>(spec.per_token, slots)) {
        const auto [layer, expert] = used.back();
        held.erase(key_of(layer, expert));
        used.pop_back();
        of_expert(layer, expert, [&](uint64_t offset, uint64_t bytes) { mapping.forget(offset, bytes); });
      }
    }
  };
  mapping.file().forget();
  const uint32_t first = choices.tokens - o.timed;
  // The same experts stay as after many tokens: the cache is filled before the first one is timed.
  for (uint32_t t = 0; t < first; ++t) step(t);
  hits = misses = 0;
  std::vector<double> seconds;
  for (uint32_t t = first; t < choices.tokens; ++t) {
    // As in the session's run: what a fault has read beside what it needed, up to some megabytes, is neighbours that no
    // budget counts. Pages that are mapped, which are the experts that are kept, stay.
    mapping.file().forget();
    const double begin = now();
    step(t);
    seconds.push_back(now() - begin);
  }
  return {{"seconds", seconds},
          {"hit_rate", static_cast<double>(hits) / static_cast<double>(hits + misses)},
          {"read_bytes_per_token", static_cast<double>(misses * expert_bytes) / o.timed},
          {"expert_slots", slots},
          {"experts", layout->num_experts()},
          {"plan_bytes", o.budget},
          {"peak_bytes", memory_of_process("VmHWM:")}};
}

}  // namespace nwc::bench
