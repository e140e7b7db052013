// A mixture of experts that is larger than the memory: tokens per second, hits, and bytes read by budget, against
// experts in f16 that are mapped from the disk, in the same run and in the same memory. Page caches are emptied before
// every token, so that no memory beside the budget helps. Each run has a process of its own, whose peak memory counts.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <list>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <unordered_map>

#include "bench/bench_commands.h"
#include "bench/child_process.h"
#include "runtime/engine/file_layout.h"
#include "runtime/engine/kernels_cpu.h"

namespace nwc::bench {
namespace {

struct MixtureOptions : CommonOptions {
  std::string model, mapped, weights = "packed";
  std::vector<uint32_t> shares = {25, 50, 100};
  uint32_t tokens = 24, context = 256;
  // Of a child:
  std::string child;
  uint64_t budget = 0;
};

/// Empties the page cache of a file.
class ColdFile {
 public:
  explicit ColdFile(const std::string& path) : file_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (file_ < 0) check(io_error(path + ": cannot be opened"));
  }
  ~ColdFile() { close(file_); }
  ColdFile(const ColdFile&) = delete;
  ColdFile& operator=(const ColdFile&) = delete;
  void forget(off_t begin = 0, off_t size = 0) const { posix_fadvise(file_, begin, size, POSIX_FADV_DONTNEED); }
  int descriptor() const { return file_; }

 private:
  const int file_;
};

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

nwc_session_params params_of(const MixtureOptions& o) {
  nwc_session_params params;
  nwc_session_params_init(&params);
  params.backend = NWC_BACKEND_CPU;
  params.num_threads = o.threads;
  params.context = o.context;
  params.memory_budget_bytes = o.budget;
  params.weight_precision = precision_named(o.weights);
  return params;
}

/// One session: tokens one after another.
nlohmann::json run_session(const MixtureOptions& o) {
  const ColdFile cold(o.model);
  nwc_model* const model = open_model(o.model);
  const nwc_session_params params = params_of(o);
  const nwc_session_plan plan = make_plan(model, params);
  const uint64_t before = memory_of_process("VmRSS:");
  nwc_session* const session = create_session(model, params);
  const auto stats = [&] {
    nwc_expert_stats s;
    nwc_expert_stats_init(&s);
    check(nwc_session_get_expert_stats(session, &s), session, nwc_session_last_error);
    return s;
  };
  nwc_model_info info;
  nwc_model_info_init(&info);
  check(nwc_model_get_info(model, &info), model, nwc_model_last_error);
  std::vector<float> logits(info.vocab_size);
  // What a model of random weights would write goes in circles, which no real text does.
  std::mt19937 rng(11);
  const auto step = [&] {
    const uint32_t token = static_cast<uint32_t>(rng() % info.vocab_size);
    check(nwc_session_eval(session, &token, 1, NWC_LOGITS_LAST, logits.data(), logits.size()), session,
          nwc_session_last_error);
  };
  for (uint32_t t = 0; t < o.tokens / 2; ++t) step();  // the cache fills
  const nwc_expert_stats first = stats();
  std::vector<double> seconds;
  for (uint32_t t = 0; t < o.tokens; ++t) {
    cold.forget();
    const double begin = now();
    step();
    seconds.push_back(now() - begin);
  }
  const nwc_expert_stats last = stats();
  const auto per_token = [&](uint64_t a, uint64_t b) { return static_cast<double>(b - a) / o.tokens; };
  const double hits = per_token(first.hits, last.hits), misses = per_token(first.misses, last.misses);
  const double predicted = per_token(first.predicted, last.predicted);
  nlohmann::json json = {
      {"seconds", seconds},
      {"hit_rate", hits + misses == 0 ? 1.0 : hits / (hits + misses)},
      {"read_bytes_per_token", per_token(first.bytes_read, last.bytes_read)},
      {"stall_seconds_per_token", (last.stall_seconds - first.stall_seconds) / o.tokens},
      {"prefetch_used", predicted == 0 ? 0.0 : per_token(first.predicted_used, last.predicted_used) / predicted},
      {"expert_slots", plan.num_expert_slots},
      {"experts", plan.num_experts},
      {"plan_bytes", plan.total_bytes},
      {"before_bytes", before},
      {"peak_bytes", memory_of_process("VmHWM:")}};
  nwc_session_destroy(session);
  nwc_model_destroy(model);
  return json;
}

/// The experts of the mapped file alone: of each layer as many as a token takes, drawn at random, times a vector. As
/// many stay in memory as the budget holds beside everything else of the model, those used last; what makes way is
/// forgotten by mapping and page cache.
nlohmann::json run_mapped(const MixtureOptions& o) {
  auto reader = open_file_reader(o.mapped);
  check(reader.status());
  auto opened = NwcFile::open(std::move(reader).value());
  check(opened.status());
  const NwcFile& file = **opened;
  const auto layout = resolve_file_layout(file);
  check(layout.status());
  const ModelRecord& model = *file.model();
  const ColdFile cold(o.mapped);
  const size_t size = static_cast<size_t>(file.reader().size());
  auto* const base = static_cast<uint8_t*>(mmap(nullptr, size, PROT_READ, MAP_PRIVATE, cold.descriptor(), 0));
  if (base == MAP_FAILED) check(io_error(o.mapped + ": cannot be mapped"));
  const ExpertSpec& spec = model.block().experts;
  uint64_t expert_bytes = 0, other_bytes = 0;
  for (const PlacedMatrix& m : layout->layers[0].expert(0)) expert_bytes += file.tensors()[m.tensor].size;
  for (const TensorRecord& t : file.tensors()) other_bytes += t.size;
  other_bytes -= expert_bytes * layout->num_experts();
  const uint64_t slots = o.budget <= other_bytes ? 0 : (o.budget - other_bytes) / expert_bytes;

  std::list<std::pair<uint32_t, uint32_t>> used;  // layer, expert: the last used one first
  std::unordered_map<uint64_t, std::list<std::pair<uint32_t, uint32_t>>::iterator> held;
  const auto forget = [&](uint32_t layer, uint32_t expert) {
    constexpr uint64_t kPage = 4096;
    for (const PlacedMatrix& m : layout->layers[layer].expert(expert)) {
      const TensorRecord& t = file.tensors()[m.tensor];
      const uint64_t begin = (file.data_offset() + t.offset) / kPage * kPage;
      const uint64_t end = std::min<uint64_t>(size, align_up(file.data_offset() + t.offset + t.size, kPage));
      madvise(base + begin, static_cast<size_t>(end - begin), MADV_DONTNEED);
      cold.forget(static_cast<off_t>(begin), static_cast<off_t>(end - begin));
    }
  };
  const auto runner = make_thread_pool(o.threads);
  const KernelTable& kernels = kernel_table(detect_cpu_level());
  std::vector<float> scratch(kMatmulScratch * runner->num_workers()), x(model.hidden_size, 0.01f),
      inner(2 * size_t{spec.intermediate_size}), out(model.hidden_size);
  const auto multiply = [&](const PlacedMatrix& m, const float* in, float* to) {
    const TensorRecord& t = file.tensors()[m.tensor];
    const WeightView view{base + file.data_offset() + t.offset, t.dtype, m.rows, m.cols};
    matmul(kernels, *runner, 1, in, m.cols, view, to, m.rows, scratch.data());
  };
  std::mt19937 rng(7);
  uint64_t hits = 0, misses = 0;
  const auto step = [&] {
    for (uint32_t l = 0; l < model.num_layers; ++l) {
      std::vector<uint32_t> all(spec.num_experts);
      for (uint32_t e = 0; e < spec.num_experts; ++e) all[e] = e;
      std::shuffle(all.begin(), all.end(), rng);
      for (uint32_t i = 0; i < spec.per_token; ++i) {
        const uint64_t key = uint64_t{l} << 32 | all[i];
        if (const auto found = held.find(key); found != held.end()) {
          used.splice(used.begin(), used, found->second);
          ++hits;
        } else {
          ++misses;
          used.emplace_front(l, all[i]);
          held[key] = used.begin();
        }
        const std::span<const PlacedMatrix> matrices = layout->layers[l].expert(all[i]);
        multiply(matrices[0], x.data(), inner.data());
        multiply(matrices[1], x.data(), inner.data() + spec.intermediate_size);
        activate(kernels, *runner, 1, spec.intermediate_size, model.block(), inner.data());
        multiply(matrices[2], inner.data(), out.data());
        while (used.size() > std::max<uint64_t>(1, slots)) {
          const auto [layer, expert] = used.back();
          held.erase(uint64_t{layer} << 32 | expert);
          used.pop_back();
          forget(layer, expert);
        }
      }
    }
  };
  cold.forget();
  // The same experts stay as after many tokens: the cache is filled before the first one is timed.
  for (uint32_t t = 0; t < o.tokens / 2; ++t) step();
  hits = misses = 0;
  std::vector<double> seconds;
  for (uint32_t t = 0; t < o.tokens; ++t) {
    const double begin = now();
    step();
    seconds.push_back(now() - begin);
  }
  munmap(base, size);
  return {{"seconds", seconds},
          {"hit_rate", static_cast<double>(hits) / static_cast<double>(hits + misses)},
          {"read_bytes_per_token", static_cast<double>(misses * expert_bytes) / o.tokens},
          {"expert_slots", slots},
          {"experts", layout->num_experts()},
          {"plan_bytes", o.budget},
          {"peak_bytes", memory_of_process("VmHWM:")}};
}

void run_mixture(const MixtureOptions& o) {
  if (!o.child.empty()) {
    std::printf("%s\n", (o.child == "mapped" ? run_mapped(o) : run_session(o)).dump().c_str());
    return;
  }
  nwc_model* const model = open_model(o.model);
  nwc_model_info info;
  nwc_model_info_init(&info);
  check(nwc_model_get_info(model, &info), model, nwc_model_last_error);
  const uint64_t whole = make_plan(model, params_of(o)).needed_resident_bytes;
  nwc_model_destroy(model);
  Report report(o.json, o.repeat, o.only);
  report.note("everything decoded takes " + std::to_string(whole >> 20) + " MiB as " + o.weights);
  for (const uint32_t share : o.shares) {
    const uint64_t budget = whole / 100 * share + (share == 100 ? whole % 100 : 0);
    std::vector<std::string> kinds = {"nwc"};
    if (!o.mapped.empty()) kinds.emplace_back("mapped");
    double mapped_seconds = 0, own_seconds = 0;
    for (const std::string& kind : kinds) {
      Record r{.name = kind + ", " + std::to_string(share) + " %",
               .backend = "cpu",
               .device = cpu_name(),
               .threads = o.threads,
               .weights = info.num_weights};
      if (kind == "nwc") r.bpw = info.bpw_file;
      if (!report.wanted(r)) continue;
      const double copy = report.copy_seconds_per_byte(false);
      std::vector<double> medians;
      nlohmann::json json;
      for (uint32_t i = 0; i < o.repeat; ++i) {
        const auto text = run_again({"--child", kind, "--budget", std::to_string(budget)});
        json = nlohmann::json::parse(text.value_or(""), nullptr, false);
        if (json.is_discarded()) break;
        double sum = 0;
        for (const double s : json["seconds"]) sum += s;
        medians.push_back(sum / o.tokens);
      }
      if (json.is_discarded()) {
        report.note(r.name + " left out: it failed");
        continue;
      }
      r.seconds_median = median(medians);
      r.seconds_min = *std::min_element(medians.begin(), medians.end());
      r.ratio_memcpy = r.seconds_median / (copy * 2 * static_cast<double>(r.weights));
      (kind == "nwc" ? own_seconds : mapped_seconds) = r.seconds_median;
      r.extra.emplace_back("share", share);
      r.extra.emplace_back("tokens_per_second", 1 / r.seconds_median);
      for (const auto& [key, value] : json.items())
        if (value.is_number()) r.extra.emplace_back(key, value.get<double>());
      report.add(r);
      char line[256];
      std::snprintf(
          line, sizeof line, "  %.2f tokens/s, %.1f %% hits, %.1f MB read a token, peak %.0f MiB of %.0f planned",
          1 / r.seconds_median, 100 * json.value("hit_rate", 0.0), 1e-6 * json.value("read_bytes_per_token", 0.0),
          (json.value("peak_bytes", 0.0) - json.value("before_bytes", 0.0)) / (1 << 20),
          json.value("plan_bytes", 0.0) / (1 << 20));
      report.note(line);
    }
    if (mapped_seconds != 0 && own_seconds != 0) {
      char line[128];
      std::snprintf(line, sizeof line, "  nwc is %.2f times as fast as mapped f16 in %u %%",
                    mapped_seconds / own_seconds, share);
      report.note(line);
    }
  }
  report.finish();
}

}  // namespace

void add_mixture(CLI::App* app) {
  const auto o = std::make_shared<MixtureOptions>();
  CLI::App* command = app->add_subcommand(
      "mixture", "Tokens per second of a mixture of experts by memory budget, with cold page caches");
  o->add_to(command);
  command->add_option("model", o->model, ".nwc file, as `model --experts` writes it")
      ->required()
      ->check(CLI::ExistingFile);
  command
      ->add_option("--mapped", o->mapped, "The same model with --raw: experts in f16, mapped, within the same memory")
      ->check(CLI::ExistingFile);
  command->add_option("--shares", o->shares, "Budgets, in percent of what everything decoded takes")
      ->capture_default_str();
  command->add_option("--tokens", o->tokens, "Tokens that are timed, after half as many")
      ->check(CLI::Range(2, 4096))
      ->capture_default_str();
  command->add_option("--context", o->context, "Tokens of the KV cache")->capture_default_str();
  command->add_option("--weights", o->weights, "Form of decoded weights")
      ->check(CLI::IsMember(weight_forms()))
      ->capture_default_str();
  command->add_option("--child", o->child)->group("");
  command->add_option("--budget", o->budget)->group("");
  command->callback([o] { run_mixture(*o); });
}

}  // namespace nwc::bench
