#include "tests/fuzz/llama_reference.h"

#include <algorithm>
#include <cmath>

#include "runtime/base/half.h"
#include "runtime/graph/rope.h"

namespace nwc::fuzz {
namespace {

constexpr double kRounding = 1.0 / (1 << 20);  // of f32 arithmetic, sums of hundreds of terms included
constexpr double kLargestWeight = 1e30;
constexpr int kSamples = 6;
constexpr double kSampleFactor = 8;  // so few samples may all be small

// In -1 to 1; 0 without noise.
double uniform(ReferencePass* pass) {
  return pass->noise == nullptr ? 0 : static_cast<double>(pass->noise->below(2000001)) / 1e6 - 1;
}

void note(ReferencePass* pass, double size) {
  if (!(size <= pass->largest)) pass->largest = size;  // NaN stays
}

// What a session holds: the decoder's weights, rounded to `dtype`.
std::optional<ExactMatrix> held_matrix(const NwcFile& file, Decoder& decoder, size_t tensor, Dtype dtype) {
  const TensorRecord& r = file.tensors()[tensor];
  ExactMatrix held{r.rows(), r.cols(), std::vector<double>(r.num_elements()), std::vector<double>(r.num_elements())};
  std::vector<uint8_t> bytes(held.weight.size() * dtype_size(dtype));
  DecodeRequest request;
  request.tensor = tensor;
  request.row_end = r.rows();
  request.dtype = dtype;
  request.out = bytes;
  if (!decoder.decode(request).ok()) return std::nullopt;
  for (size_t i = 0; i < held.weight.size(); ++i) {
    const uint8_t* at = bytes.data() + i * dtype_size(dtype);
    held.weight[i] = dtype == Dtype::kF32   ? load_le<float>(at)
                     : dtype == Dtype::kF16 ? f16_to_f32(load_le<uint16_t>(at))
                                            : bf16_to_f32(load_le<uint16_t>(at));
    if (!(std::abs(held.weight[i]) < kLargestWeight)) return std::nullopt;
  }
  return held;
}

double rounded(Dtype dtype, double x) {
  return dtype == Dtype::kF16 ? static_cast<double>(f16_to_f32(f32_to_f16(static_cast<float>(x)))) : x;
}

}  // namespace

std::optional<LlamaReference> LlamaReference::create(const NwcFile& file, const DecodeTables& tables, Decoder& decoder,
                                                     const SessionParams& params, const MemoryPlan& plan) {
  Result<ModelLayout> layout = resolve_file_layout(file);
  if (!layout.ok() || !fits_record_1(layout->model)) return std::nullopt;
  LlamaReference reference;
  reference.layout_ = std::move(layout).value();
  reference.frequencies_ = rope_frequencies(reference.layout_.model.block(), plan.context);
  reference.cache_ = params.kv_dtype;
  reference.tensors_.resize(file.tensors().size());
  bool complete = true;
  const auto get = [&](size_t tensor, bool resident, Dtype dtype, ExactMatrix* to) {
    const bool fused =
        plan.mode == SessionMode::kFused && !resident && file.tensors()[tensor].storage == Storage::kCoded;
    std::optional<ExactMatrix> matrix =
        fused ? exact_matrix(file, tables, tensor) : held_matrix(file, decoder, tensor, dtype);
    if (matrix) *to = std::move(*matrix);
    complete = complete && matrix;
  };
  const ModelLayout& l = reference.layout_;
  get(l.embedding, true, params.weight_dtype, &reference.embedding_);
  get(l.head, plan.head_resident, params.weight_dtype, &reference.head_);
  for (const VectorPlace& vector : l.vectors) get(vector.tensor, true, Dtype::kF32, &reference.tensors_[vector.tensor]);
  for (size_t i = 0; i < l.layers.size(); ++i) {
    for (const PlacedMatrix& m : l.layers[i].matrices)
      get(m.tensor, i < plan.resident_layers, params.weight_dtype, &reference.tensors_[m.tensor]);
  }
  if (!complete) return std::nullopt;
  return reference;
}

LlamaReference::Vector LlamaReference::multiply(const ExactMatrix& m, const Vector& x, ReferencePass* pass) {
  Vector y(m.rows);
  for (uint64_t i = 0; i < m.rows; ++i) {
    double sum = 0, off = 0, size = 0;
    for (uint64_t j = 0; j < m.cols; ++j) {
      const double w = m.weight[i * m.cols + j];
      sum += w * x[j];
      size += std::abs(w * x[j]);
      off += std::abs(x[j]) * (m.error[i * m.cols + j] + kRounding * std::abs(w));
    }
    y[i] = sum + uniform(pass) * off;
    note(pass, size);
  }
  return y;
}

size_t LlamaReference::norm_tensor(uint32_t at) const {
  return std::find_if(layout_.vectors.begin(), layout_.vectors.end(), [&](const VectorPlace& v) { return v.at == at; })
      ->tensor;
}

LlamaReference::Vector LlamaReference::normalise(size_t tensor, const Vector& x, ReferencePass* pass) const {
  double squares = 0;
  for (const double v : x) squares += v * v;
  note(pass, squares);
  const double factor = 1 / std::sqrt(squares / static_cast<double>(x.size()) + layout_.model.block().norm_eps);
  Vector y(x.size());
  for (size_t i = 0; i < x.size(); ++i)
    y[i] = x[i] * factor * tensors_[tensor].weight[i] * (1 + kRounding * uniform(pass));
  return y;
}

std::vector<double> LlamaReference::logits(const std::vector<uint32_t>& tokens, ReferencePass* pass) const {
  const ModelRecord& r = layout_.model;
  const size_t d = r.block().head_dim, half = d / 2, group = r.block().num_heads / r.block().num_kv_heads;
  std::vector<std::vector<Vector>> keys(r.num_layers), values(r.num_layers);  // [layer][position]
  std::vector<double> out;
  const auto rotate = [&](Vector& x, size_t position) {
    for (size_t head = 0; head < x.size() / d; ++head) {
      for (size_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(position) * frequencies_[i];
        double &a = x[head * d + i], &b = x[head * d + i + half];
        const double off = kRounding * (std::abs(a) + std::abs(b));
        const double a0 = a, b0 = b;
        a = a0 * std::cos(angle) - b0 * std::sin(angle) + off * uniform(pass);
        b = b0 * std::cos(angle) + a0 * std::sin(angle) + off * uniform(pass);
      }
    }
  };
  for (size_t t = 0; t < tokens.size(); ++t) {
    Vector x(r.hidden_size);
    for (size_t i = 0; i < x.size(); ++i) {
      const size_t at = tokens[t] * x.size() + i;
      x[i] = embedding_.weight[at];
    }
    const auto add = [&](const Vector& branch) {
      for (size_t i = 0; i < x.size(); ++i) {
        x[i] += branch[i];
        x[i] += kRounding * std::abs(x[i]) * uniform(pass);
      }
    };
    for (uint32_t l = 0; l < r.num_layers; ++l) {
      const LayerLayout& layer = layout_.layers[l];
      const auto tensor = [&](Role role) -> const ExactMatrix& {
        return tensors_[std::find_if(layer.matrices.begin(), layer.matrices.end(), [&](const PlacedMatrix& m) {
                          return m.role == role;
                        })->tensor];
      };
      const Vector normed = normalise(norm_tensor(layer.vector(Role::kAttentionNorm)), x, pass);
      Vector q = multiply(tensor(Role::kQ), normed, pass), k = multiply(tensor(Role::kK), normed, pass);
      rotate(q, t);
      rotate(k, t);
      keys[l].push_back(std::move(k));
      values[l].push_back(multiply(tensor(Role::kV), normed, pass));
      for (Vector* cached : {&keys[l].back(), &values[l].back()}) {
        for (double& v : *cached) {
          v = rounded(cache_, v);
          note(pass, std::abs(v));
        }
      }
      Vector attention(q.size());
      for (size_t head = 0; head < r.block().num_heads; ++head) {
        const size_t from = head / group * d;
        Vector score(t + 1);
        for (size_t p = 0; p <= t; ++p) {
          double size = 0;
          for (size_t i = 0; i < d; ++i) {
            const double term = q[head * d + i] * keys[l][p][from + i];
            score[p] += term;
            size += std::abs(term);
          }
          note(pass, size);
          score[p] = (score[p] + kRounding * size * uniform(pass)) / std::sqrt(static_cast<double>(d));
        }
        const double top = *std::max_element(score.begin(), score.end());
        double sum = 0;
        for (double& s : score) sum += s = std::exp(s - top) * (1 + kRounding * uniform(pass));
        for (size_t p = 0; p <= t; ++p) {
          for (size_t i = 0; i < d; ++i) attention[head * d + i] += score[p] / sum * values[l][p][from + i];
        }
      }
      add(multiply(tensor(Role::kOutput), attention, pass));
      const Vector inner = normalise(norm_tensor(layer.vector(Role::kMlpNorm)), x, pass);
      Vector gate = multiply(tensor(Role::kGate), inner, pass);
      const Vector up = multiply(tensor(Role::kUp), inner, pass);
      for (size_t i = 0; i < gate.size(); ++i)
        gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i] * (1 + kRounding * uniform(pass));
      for (const double v : gate) note(pass, std::abs(v));
      add(multiply(tensor(Role::kDown), gate, pass));
    }
    const Vector last = multiply(head_, normalise(norm_tensor(layout_.final_norm_at), x, pass), pass);
    out.insert(out.end(), last.begin(), last.end());
  }
  return out;
}

std::vector<double> LlamaReference::allowed_error(const std::vector<uint32_t>& tokens,
                                                  const std::vector<double>& exact) const {
  const size_t vocab = layout_.model.vocab_size;
  std::vector<double> allowed(tokens.size());
  for (int sample = 0; sample < kSamples; ++sample) {
    Random noise(static_cast<uint64_t>(sample));
    ReferencePass pass{.noise = &noise};
    const std::vector<double> noisy = logits(tokens, &pass);
    for (size_t i = 0; i < noisy.size(); ++i) {
      double& most = allowed[i / vocab];
      const double off = std::abs(noisy[i] - exact[i]);
      if (!(off <= most)) most = off;  // NaN stays: nothing is promised then
    }
  }
  for (double& a : allowed) a = kSampleFactor * a + 1e-6;
  return allowed;
}

}  // namespace nwc::fuzz
