#include "trainer/train/train_log.h"

#include <cerrno>
#include <cinttypes>
#include <cstring>
#include <filesystem>

#include "runtime/base/os.h"
#include "trainer/data/fs_path.h"

namespace nwc {
namespace {

std::string number(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", v);
  return text;
}

/// The result is the file or folder name of a source, without its path.
std::string base_name(const std::string& path) {
  const std::filesystem::path p = fs_path(path).lexically_normal();
  return (p.has_filename() ? p : p.parent_path()).filename().string();
}

}  // namespace

Result<TrainLog> TrainLog::open(const std::string& path, bool append) {
  TrainLog log;
  if (path.empty()) return log;
  log.file_.reset(os::open_stream(path, append ? "ab" : "wb"));
  if (log.file_ == nullptr) return io_error(path + ": cannot be opened for writing: " + std::strerror(errno));
  return log;
}

Status TrainLog::write(const TrainProgress& p) {
  if (file_ == nullptr) return {};
  std::string line = "{\"step\":" + std::to_string(p.step) + ",\"epoch\":" + number(p.epoch) +
                     ",\"rate\":" + number(p.rate) + ",\"distortion\":" + number(p.distortion) +
                     ",\"loss\":" + number(p.loss);
  if (p.validation != nullptr) {
    line += ",\"levels\":[";
    for (size_t l = 0; l < p.validation->size(); ++l) {
      const LevelFigures& f = (*p.validation)[l];
      line += std::string(l == 0 ? "" : ",") + "{\"lambda\":" + number(f.lambda) + ",\"step\":" + number(f.step) +
              ",\"bpw\":" + number(f.bpw) + ",\"mse\":" + number(f.mse) + ",\"gap\":" + number(f.gap) + "}";
    }
    line += "]";
  }
  line += ",\"seconds\":" + number(p.seconds) + "}\n";
  if (std::fwrite(line.data(), 1, line.size(), file_.get()) != line.size() || std::fflush(file_.get()) != 0) {
    return io_error(std::string("training log: ") + std::strerror(errno));
  }
  return {};
}

const char* preset_name(Preset preset) {
  switch (preset) {
    case Preset::kLinear: return "linear";
    case Preset::kSmall: return "small";
    case Preset::kPaper: return "paper";
    case Preset::kOther: break;
  }
  return "other";
}

Metadata describe_training(const TrainOptions& o, uint64_t codec_id) {
  char id[17];
  std::snprintf(id, sizeof id, "%016" PRIx64, codec_id);
  std::string sources;
  for (const std::string& source : o.data.sources) sources += (sources.empty() ? "" : ", ") + base_name(source);
  std::string settings = "width=" + std::to_string(o.width) + " blocks=" + std::to_string(o.blocks) +
                         " layer_norm=" + std::to_string(o.layer_norm) + " levels=" + std::to_string(o.num_levels);
  settings += o.scheme == LevelScheme::kPaper ? " scheme=paper lambda=" + number(o.lambda)
                                              : " scheme=universal bpw=" + number(o.min_bpw) + ".." + number(o.max_bpw);
  settings += " steps=" + std::to_string(o.steps) + " batch=" + std::to_string(o.batch) +
              " lr=" + number(o.learning_rate) + ".." + number(o.final_rate) +
              " rounding_share=" + number(o.rounding_share) + " max_chunks=" + std::to_string(o.data.max_chunks) +
              " seed=" + std::to_string(o.data.seed);
  Metadata m;
  m["encoder"] = "nwc " NWC_VERSION;
  m["codec"] = preset_name(o.preset);
  m["codec_id"] = id;
  m["preset"] = preset_name(o.preset);
  m["source"] = sources.empty() ? "none" : sources;
  m["settings"] = settings;
  m["calibration"] = "none";
  if (!o.init_codec.empty()) m["init"] = base_name(o.init_codec);
  return m;
}

}  // namespace nwc
