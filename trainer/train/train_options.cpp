#include "trainer/train/train_options.h"

#include <cmath>
#include <numbers>

namespace nwc {
namespace {

constexpr double kPaperImportance[] = {0.29, 0.83, 10, 20};  // paper, Table 3

/// Calls f(name, field) for every field, in file order. Options is TrainOptions or const TrainOptions.
template <typename Options, typename F>
void visit(Options& o, F&& f) {
  f("preset", o.preset);
  f("width", o.width);
  f("blocks", o.blocks);
  f("activation", o.activation);
  f("layer_norm", o.layer_norm);
  f("scheme", o.scheme);
  f("num_levels", o.num_levels);
  f("min_bpw", o.min_bpw);
  f("max_bpw", o.max_bpw);
  f("lambda", o.lambda);
  f("steps", o.steps);
  f("batch", o.batch);
  f("learning_rate", o.learning_rate);
  f("final_rate", o.final_rate);
  f("auxiliary_rate", o.auxiliary_rate);
  f("warmup", o.warmup);
  f("clip_norm", o.clip_norm);
  f("rounding_share", o.rounding_share);
  f("eval_every", o.eval_every);
  f("freeze_chunks", o.freeze_chunks);
  f("sources", o.data.sources);
  f("include_embedding", o.data.include_embedding);
  f("max_chunks", o.data.max_chunks);
  f("validation_chunks", o.data.validation_chunks);
  f("seed", o.data.seed);
  f("init_codec", o.init_codec);
}

struct FieldWriter {
  ByteWriter* writer;
  void operator()(const char*, bool v) { writer->write(static_cast<uint8_t>(v)); }
  void operator()(const char*, Preset v) { writer->write(static_cast<uint8_t>(v)); }
  void operator()(const char*, Activation v) { writer->write(static_cast<uint8_t>(v)); }
  void operator()(const char*, LevelScheme v) { writer->write(static_cast<uint32_t>(v)); }
  void operator()(const char*, uint32_t v) { writer->write(v); }
  void operator()(const char*, uint64_t v) { writer->write(v); }
  void operator()(const char*, double v) { writer->write(v); }
  void operator()(const char*, const std::string& v) {
    writer->write(static_cast<uint32_t>(v.size()));
    writer->write_string(v);
  }
  void operator()(const char* name, const std::vector<std::string>& v) {
    writer->write(static_cast<uint32_t>(v.size()));
    for (const std::string& s : v) (*this)(name, s);
  }
};

struct FieldReader {
  ByteReader* reader;
  Status status{};

  template <typename T>
  void operator()(const char* name, T& v) {
    if (status.ok()) status = get(name, &v);
  }

 private:
  template <typename T>
  Status get(const char* name, T* v) {
    return reader->read(v, name);
  }
  Status get(const char* name, bool* v) { return get_enum<uint8_t>(name, 1, v); }
  Status get(const char* name, Preset* v) { return get_enum<uint8_t>(name, 3, v); }
  Status get(const char* name, Activation* v) { return get_enum<uint8_t>(name, 2, v); }
  Status get(const char* name, LevelScheme* v) { return get_enum<uint32_t>(name, 1, v); }
  Status get(const char* name, std::string* v) {
    uint32_t size = 0;
    NWC_TRY(reader->read(&size, name));
    return reader->read_string(v, size, name);
  }
  Status get(const char* name, std::vector<std::string>* v) {
    uint32_t count = 0;
    NWC_TRY(reader->read(&count, name));
    if (count > reader->remaining() / sizeof(uint32_t))
      return truncated(std::string("field ") + name + ": too many entries");
    v->resize(count);
    for (std::string& s : *v) NWC_TRY(get(name, &s));
    return {};
  }
  template <typename Stored, typename T>
  Status get_enum(const char* name, Stored most, T* v) {
    Stored stored = 0;
    NWC_TRY(reader->read(&stored, name));
    if (stored > most) {
      return corrupt(std::string("field ") + name + " is " + std::to_string(stored) + ", at most " +
                     std::to_string(most) + " is known");
    }
    *v = static_cast<T>(stored);
    return {};
  }
};

Status require(bool condition, const char* option, const char* range) {
  return condition ? Status() : invalid_argument(std::string(option) + ": must be " + range);
}

}  // namespace

TrainOptions preset_options(Preset preset) {
  TrainOptions o;
  o.preset = preset;
  switch (preset) {
    case Preset::kLinear:
      o.steps = 2000;
      o.learning_rate = 2e-3;
      o.final_rate = 2e-5;
      break;
    case Preset::kSmall:
    case Preset::kOther:
      o.width = 64;
      o.blocks = 2;
      o.activation = Activation::kRelu;
      o.num_levels = 16;
      o.steps = 6000;
      o.learning_rate = 1e-3;
      o.final_rate = 1e-5;
      break;
    case Preset::kPaper:
      o.width = 512;
      o.blocks = 4;
      o.activation = Activation::kRelu;
      o.scheme = LevelScheme::kPaper;
      o.num_levels = 4;
      o.steps = 200000;
      o.rounding_share = 0;
      break;
  }
  return o;
}

Status validate(const TrainOptions& o) {
  NWC_TRY(require(o.width % 16 == 0 && o.width <= kMaxWidth, "width", "0 or a multiple of 16 up to 1024"));
  NWC_TRY(require(o.blocks <= kMaxBlocks && (o.blocks == 0) == (o.width == 0), "blocks", "1 to 8, or 0 with width 0"));
  NWC_TRY(require((o.activation == Activation::kNone) == (o.width == 0), "activation",
                  "relu or silu, or none with width 0"));
  NWC_TRY(require(!o.layer_norm || o.width != 0, "layer-norm", "off with width 0"));
  NWC_TRY(require(o.num_levels >= 1 && o.num_levels <= kMaxLevels, "levels", "1 to 64"));
  NWC_TRY(require(o.scheme != LevelScheme::kPaper || o.num_levels == std::size(kPaperImportance), "levels",
                  "4 with the paper's levels"));
  NWC_TRY(require(o.min_bpw >= 0.25 && o.max_bpw <= 10 && o.min_bpw <= o.max_bpw, "min-bpw and max-bpw",
                  "0.25 to 10, rising"));
  NWC_TRY(require(o.lambda >= 0.1 && o.lambda <= 1e6, "lambda", "0.1 to 1e6"));
  NWC_TRY(require(o.steps >= 1 && o.steps <= 1000000000, "steps", "1 to 1e9"));
  NWC_TRY(require(o.batch >= 8 && o.batch <= (1 << 16) && o.batch % 8 == 0, "batch", "a multiple of 8 up to 65536"));
  const auto is_rate = [](double rate) { return rate > 0 && rate <= 1; };
  NWC_TRY(require(is_rate(o.learning_rate) && is_rate(o.final_rate) && is_rate(o.auxiliary_rate), "lr",
                  "above 0, up to 1"));
  NWC_TRY(require(o.clip_norm >= 0 && std::isfinite(o.clip_norm), "clip-norm", "0 or more"));
  NWC_TRY(require(o.rounding_share >= 0 && o.rounding_share <= 1, "rounding-share", "0 to 1"));
  NWC_TRY(require(o.freeze_chunks >= 1 && o.freeze_chunks <= (1u << 24), "freeze-chunks", "1 to 16777216"));
  NWC_TRY(require(o.data.max_chunks >= 1 && o.data.max_chunks <= 0xffffffffu, "max-chunks", "1 to 4294967295"));
  return require(o.data.validation_chunks <= (1u << 24), "validation-chunks", "up to 16777216");
}

std::vector<float> level_lambdas(const TrainOptions& options) {
  std::vector<float> lambda;
  if (options.scheme == LevelScheme::kPaper) {
    for (const double importance : kPaperImportance) lambda.push_back(static_cast<float>(options.lambda * importance));
    return lambda;
  }
  // An entropy-coded scalar quantizer has D = pi e / 6 * 2^(-2 R), so that -dR/dD = 1 / (2 ln 2 D). This is the lambda
  // at which rate R is optimal.
  for (uint32_t l = 0; l < options.num_levels; ++l) {
    const double share = options.num_levels > 1 ? static_cast<double>(l) / (options.num_levels - 1) : 0.5;
    const double bpw = options.min_bpw + share * (options.max_bpw - options.min_bpw);
    const double distortion = std::numbers::pi * std::numbers::e / 6 * std::exp2(-2 * bpw);
    lambda.push_back(static_cast<float>(1 / (2 * std::numbers::ln2 * distortion)));
  }
  return lambda;
}

LevelObjective make_objective(const TrainOptions& options, std::span<const float> lambda) {
  // rate / lambda_I + lambda * MSE is rate + lambda * lambda_I * MSE divided by lambda_I. The universal codec leaves
  // that divisor out: at the optimum lambda_l * D_l is the same for every level, so all pull equally hard on the shared
  // parameters, where the divisor would leave the fine levels a thousandth of the gradient.
  LevelObjective objective;
  for (const float l : lambda) {
    objective.lambda.push_back(l);
    objective.weight.push_back(options.scheme == LevelScheme::kPaper ? static_cast<float>(options.lambda / l) : 1.0f);
  }
  return objective;
}

void write_options(const TrainOptions& options, ByteWriter* writer) { visit(options, FieldWriter{writer}); }

Status read_options(ByteReader* reader, TrainOptions* options) {
  FieldReader fields{reader};
  visit(*options, fields);
  NWC_TRY(fields.status);
  if (const Status status = validate(*options); !status.ok()) return corrupt("options: " + status.message());
  return {};
}

}  // namespace nwc
