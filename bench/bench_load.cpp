// Times the loading of a model, that is, opening it and decoding all weights, against reading its f16 weights from a
// file.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <memory>

#include "bench/bench_commands.h"
#include "bench/bench_files.h"

namespace nwc::bench {
namespace {

constexpr uint64_t kMostMemory = 4ull << 30;  // of decoded weights; larger models go tensor by tensor to the same place

struct LoadOptions : CommonOptions {
  BackendOptions backend;
  SyntheticOptions layer;
  uint32_t copies = 8;
  std::string model, folder = std::filesystem::temp_directory_path().string();
};

/// Asks the system to forget what it holds of the file in memory. False if more than a tenth stays, as where the file
/// lies in memory anyway.
bool drop_from_cache(const std::string& path) {
  const OpenFile file(path);
  const size_t size = file.size(), page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  fdatasync(file.get());
  file.forget();
  void* const map = mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
  if (map == MAP_FAILED) return false;
  std::vector<uint8_t> resident((size + page - 1) / page);
  const bool known = mincore(map, size, resident.data()) == 0;
  munmap(map, size);
  size_t count = 0;
  for (const uint8_t r : resident) count += r & 1;
  return known && count * 10 <= resident.size();
}

/// f16 of all weights, in fresh memory for every load.
class Target {
 public:
  explicit Target(const NwcFile& file) {
    for (const TensorRecord& t : file.tensors()) {
      if (!dtype_is_float(t.dtype)) continue;
      weights_ += t.num_elements();
      largest_ = std::max(largest_, t.num_elements());
    }
  }
  uint64_t weights() const { return weights_; }
  bool reused() const { return 2 * weights_ > kMostMemory; }

  /// Pages that nobody has touched: as a program that has just started.
  void begin() {
    bytes_.reset();
    bytes_ = std::unique_ptr<uint8_t[]>(new uint8_t[2 * (reused() ? largest_ : weights_)]);
    used_ = 0;
  }
  MutableBytes take(uint64_t weights) {
    const MutableBytes out(bytes_.get() + (reused() ? 0 : used_), 2 * weights);
    used_ += 2 * weights;
    return out;
  }

 private:
  uint64_t weights_ = 0, largest_ = 0, used_ = 0;
  std::unique_ptr<uint8_t[]> bytes_;
};

class Loading {
 public:
  Loading(const LoadOptions& options, const std::string& model, Report* report)
      : o_(options),
        model_(model),
        report_(report),
        plain_(options.folder, "plain"),
        runner_(make_thread_pool(options.threads)) {
    const auto file = open_file();
    target_ = std::make_unique<Target>(*file);
    record_.preset = !file->codec() ? "" : file->codec()->synthesis.width == 0 ? "linear" : "network";
    record_.quantizer = !file->codec() ? "" : file->codec()->quantizer == Quantizer::kTrellis ? "trellis" : "scalar";
    record_.bpw = 8.0 * static_cast<double>(file->reader().size()) / static_cast<double>(target_->weights());
    record_.weights = target_->weights();
    record_.threads = runner_->num_workers();
    record_.extra = {{"file_bytes", static_cast<double>(file->reader().size())}};
    // The uncompressed weights, tensor after tensor.
    const BackendDecoder cpu = open_cpu(*file, *runner_);
    std::vector<uint8_t> out;
    for (size_t i = 0; i < file->tensors().size(); ++i) {
      const TensorRecord& t = file->tensors()[i];
      if (!dtype_is_float(t.dtype)) continue;
      out.resize(2 * t.num_elements());
      decode(*cpu.decoder, i, t.rows(), out);
      plain_.append(out);
    }
  }

  void run() {
    std::vector<bool> backends;
    if (o_.backend.cpu()) backends.push_back(false);
    if (o_.backend.vulkan() && open_vulkan(*open_file(), *runner_, o_.backend.device, *report_))
      backends.push_back(true);
    for (const bool cold : {false, true}) {
      if (cold && !(drop_from_cache(plain_.path()) && drop_from_cache(model_))) {
        report_->note("cold left out: the system does not drop files in " + o_.folder + " from memory; see --folder");
        return;
      }
      measure(cold, backends);
    }
  }

 private:
  std::unique_ptr<NwcFile> open_file() const {
    auto reader = open_file_reader(model_);
    check(reader.status());
    auto file = NwcFile::open(std::move(reader).value());
    check(file.status());
    return std::move(file).value();
  }

  static void decode(Decoder& decoder, size_t tensor, uint64_t rows, MutableBytes out) {
    DecodeRequest request;
    request.tensor = tensor;
    request.row_end = rows;
    request.out = out;
    check(decoder.decode(request));
  }

  void load(bool vulkan) {
    const auto file = open_file();
    const BackendDecoder d =
        vulkan ? *open_vulkan(*file, *runner_, o_.backend.device, *report_) : open_cpu(*file, *runner_);
    target_->begin();
    for (size_t i = 0; i < file->tensors().size(); ++i) {
      const TensorRecord& t = file->tensors()[i];
      if (dtype_is_float(t.dtype)) decode(*d.decoder, i, t.rows(), target_->take(t.num_elements()));
    }
  }

  void read_plain() {
    const OpenFile file(plain_.path());
    const auto model = open_file();  // its metadata, which both need
    target_->begin();
    for (const TensorRecord& t : model->tensors()) {
      if (!dtype_is_float(t.dtype)) continue;
      for (MutableBytes out = target_->take(t.num_elements()); !out.empty();) {
        const ssize_t n = read(file.get(), out.data(), std::min<size_t>(out.size(), 1u << 30));
        if (n <= 0) check(io_error(plain_.path() + ": cannot be read"));
        out = out.subspan(static_cast<size_t>(n));
      }
    }
  }

  void measure(bool cold, const std::vector<bool>& backends) {
    std::vector<Job> jobs;
    const auto add = [&](const std::string& name, const std::string& backend, const std::string& device,
                         const std::string& path, const std::function<void()>& work) {
      Record r = record_;
      r.name = name + (cold ? ", cold" : ", page cache warm");
      r.backend = backend;
      r.device = device;
      Job job{.record = r, .work = work, .wall_clock = true};
      if (cold) job.before = [path] { drop_from_cache(path); };
      jobs.push_back(std::move(job));
    };
    add("read uncompressed", "file", o_.folder, plain_.path(), [this] { read_plain(); });
    for (const bool vulkan : backends) {
      const auto file = open_file();
      const BackendDecoder d =
          vulkan ? *open_vulkan(*file, *runner_, o_.backend.device, *report_) : open_cpu(*file, *runner_);
      add("load", d.backend, d.device, model_, [this, vulkan] { load(vulkan); });
    }
    report_->measure(jobs, Against{0, "ratio_read"});
  }

  const LoadOptions& o_;
  const std::string model_;
  Report* report_;
  TemporaryFile plain_;
  const std::unique_ptr<Runner> runner_;
  std::unique_ptr<Target> target_;
  Record record_;
};

void run_load(const LoadOptions& o) {
  Report report(o.json, o.repeat, o.only);
  if (!o.model.empty()) {
    Loading(o, o.model, &report).run();
  } else {
    TemporaryFile synthetic(o.folder, "model.nwc");
    synthetic.append(make_synthetic(o.layer, o.copies)->bytes);
    Loading(o, synthetic.path(), &report).run();
  }
  report.finish();
}

}  // namespace

void add_load(cli::CommandLine& line) {
  const auto o = std::make_shared<LoadOptions>();
  cli::Command command = line.add_command("load", "Opening a model and decoding all of it against reading f16 weights");
  o->add_to(command);
  o->backend.add_to(command);
  command.add_option("model", o->model, ".nwc file (default: synthetic, of 8 x 16 million weights)");
  command.add_option("--folder", o->folder, "Where the uncompressed weights are written meanwhile").show_default();
  command.on_run([o] { run_load(*o); });
}

}  // namespace nwc::bench
