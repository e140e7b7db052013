#include "host-tools/compress_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <system_error>

#include "runtime/base/os.h"
#include "trainer/data/fs_path.h"
#include "trainer/data/output_path.h"
#include "trainer/parallel/message.h"

namespace nwc::cli {
namespace {

namespace fs = std::filesystem;

/// Files beside the output that a search makes; gone at the end.
class Attempts {
 public:
  explicit Attempts(const std::string& output) {
    const fs::path folder = fs_path(output).parent_path();
    const std::string stem = (folder / ("nwc-attempt-" + std::to_string(os::process_id()))).string();
    next_ = stem + "-1.partial";
    best_ = stem + "-2.partial";
  }
  ~Attempts() {
    std::error_code ignored;
    fs::remove(fs_path(next_), ignored);
    fs::remove(fs_path(best_), ignored);
  }
  Attempts(const Attempts&) = delete;
  Attempts& operator=(const Attempts&) = delete;
  const std::string& next() const { return next_; }
  const std::string& best() const { return best_; }
  Status keep() { return move(next_, best_); }
  Status finish(const std::string& output) { return move(best_, output); }

 private:
  static Status move(const std::string& from, const std::string& to) {
    std::error_code error;
    fs::rename(fs_path(from), fs_path(to), error);
    return error ? io_error(to + ": cannot be replaced: " + error.message()) : Status();
  }
  std::string next_, best_;
};

}  // namespace

Result<CompressReport> compress_once(const CompressOptions& wanted, const ModelSource& source, const CodecModel& codec,
                                     const std::string& path, const std::string& label, double share,
                                     const Context& context) {
  struct Line {
    ProgressLine progress;
    const RecoveryFiles* files;
  } line{{context, "compressing", share}, wanted.recovery.files};
  CompressOptions options = wanted;
  options.ranks = context.ranks;
  options.stage = [&](const char* stage, double part) { line.progress.next(stage + label, part); };
  const Progress progress{[](void* user, uint64_t done, uint64_t total) {
                            Line* l = static_cast<Line*>(user);
                            const uint32_t taken = l->files != nullptr ? l->files->taken() : 0;
                            return l->progress.report(
                                done, total, taken == 0 ? "" : fmt::format("{} blocks from an earlier run", taken));
                          },
                          &line};
  return compress_model(source, codec, options, path, progress, context.logger());
}

Result<MeasuredFile> reach_kld(const CompressCommand& command, const ModelSource& source, const CodecModel& codec,
                               QualityRequest request, const Context& context) {
  constexpr double kClose = 0.03, kAcceptable = 0.25;  ///< relative
  constexpr int kMostFiles = 6;
  constexpr double kLeastBits = 0.5, kMostBits = 16;
  const double target = *command.kld;
  CompressOptions options = command.options;
  NWC_ASSIGN_OR_RETURN(const std::string output, resolve_output(command.output));
  Attempts attempts(output);
  MeasuredFile best;
  double best_distance = INFINITY;
  double slope = -std::log(4.0), last_bits = 0, last_log = 0;
  for (int file = 1; file <= kMostFiles && best_distance >= kClose; ++file) {
    const std::string label = fmt::format(" at {:.3f} bits, file {}", options.bits, file);
    MeasuredFile made;
    NWC_TRY(share(*context.ranks, &options.bits));
    options.settings = canonical_settings(options, command);
    NWC_ASSIGN_OR_RETURN(made.report, compress_once(options, source, codec, attempts.next(), label, 0.4, context));
    request.model = attempts.next();
    NWC_ASSIGN_OR_RETURN(made.quality, measure_quality(request, context, 0.3));
    const double bits = made.report.bpw_coded;
    const double kld = std::max(made.quality.evaluation.kld_mean, 1e-12);
    context.logger().log(LogLevel::kInfo, fmt::format("{:.4f} bits per weight: KL divergence {:.5g}", bits, kld));
    const double here = std::log(kld);
    // A file that is closer than asked for is worth more than one that is as much farther away.
    const double distance = kld > target ? kld / target - 1 : (1 - kld / target) / 4;
    if (distance < best_distance) {
      best_distance = distance;
      best = std::move(made);
      NWC_TRY(attempts.keep());
    }
    const bool finest = bits < options.bits - 0.05 || options.bits >= kMostBits;
    if ((kld > target && finest) || (kld < target && options.bits <= kLeastBits)) break;
    if (file > 1 && std::abs(bits - last_bits) > 0.01)
      slope = std::clamp((here - last_log) / (bits - last_bits), -3.0, -0.5);
    last_bits = bits;
    last_log = here;
    options.bits = std::clamp(bits + (std::log(target) - here) / slope, kLeastBits, kMostBits);
  }
  double no_more = 0;
  NWC_TRY(share(*context.ranks, &no_more));
  const double kld = best.quality.evaluation.kld_mean;
  if (kld > target * (1 + kAcceptable))
    return invalid_argument(
        fmt::format("--kld {:g}: the least KL divergence that this codec reaches on {} is {:.3g}, at "
                    "{:.2f} bits per weight",
                    target, best.quality.text, kld, best.report.bpw_coded));
  if (best_distance >= kClose)
    context.logger().log(
        LogLevel::kWarning,
        fmt::format("KL divergence {:.5g} is as close to {:g} as up to {} files got", kld, target, kMostFiles));
  best.quality.model = fs_path(command.output).filename().string();
  NWC_TRY(write_quality_card(attempts.best(), best.quality));
  NWC_TRY(attempts.finish(output));
  return best;
}

Status help_compress(const CompressCommand& command, const ModelSource& source, const CodecModel& codec,
                     const Context& context) {
  if (!command.kld) return compress_once(command.options, source, codec, "", "", 1, context).status();
  CompressOptions options = command.options;
  for (;;) {  // reach_kld says which rates
    NWC_TRY(share(*context.ranks, &options.bits));
    if (!(options.bits > 0)) return {};
    NWC_TRY(compress_once(options, source, codec, "", "", 1, context).status());
  }
}

}  // namespace nwc::cli
