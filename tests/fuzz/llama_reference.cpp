#include "tests/fuzz/llama_reference.h"

#include <algorithm>
#include <cmath>

#include "runtime/engine/rope.h"

namespace nwc::fuzz {
namespace {

constexpr double kRounding = 1.0 / (1 << 20);  // of f32 arithmetic, sums of hundreds of terms included
constexpr int kSamples = 6;
constexpr double kSampleFactor = 8;  // so few samples may all be small

// In -1 to 1; 0 without noise.
double uniform(ReferencePass* pass) {
  return pass->noise == nullptr ? 0 : static_cast<double>(pass->noise->below(2000001)) / 1e6 - 1;
}

void note(ReferencePass* pass, double size) {
  if (!(size <= pass->largest)) pass->largest = size;  // NaN stays
}

double rounding(const HeldAs& type, double x) { return type.relative * std::abs(x) + type.absolute; }

}  // namespace

HeldAs held_as(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF16: return {0x1p-11, 0x1p-25, 65504};
    case Dtype::kBf16: return {0x1p-8, 0, 3e38};
    default: return {0, 0, 3e38};
  }
}

std::optional<LlamaReference> LlamaReference::create(const NwcFile& file, const DecodeTables& tables) {
  Result<LlamaLayout> layout = resolve_llama_layout(file);
  if (!layout.ok()) return std::nullopt;
  LlamaReference reference;
  reference.layout_ = std::move(layout).value();
  reference.frequencies_ = rope_frequencies(reference.layout_.model);
  reference.matrices_.resize(file.tensors().size());
  std::vector<size_t> used = {reference.layout_.embedding, reference.layout_.head, reference.layout_.final_norm};
  for (const LlamaLayer& layer : reference.layout_.layers) {
    used.insert(used.end(), std::begin(layer.matrix), std::end(layer.matrix));
    used.push_back(layer.attention_norm);
    used.push_back(layer.mlp_norm);
  }
  for (const size_t tensor : used) {
    std::optional<ExactMatrix> exact = exact_matrix(file, tables, tensor);
    if (!exact) return std::nullopt;
    reference.matrices_[tensor] = std::move(*exact);
  }
  return reference;
}

LlamaReference::Vector LlamaReference::multiply(size_t tensor, const Vector& x, ReferencePass* pass) const {
  const ExactMatrix& m = matrices_[tensor];
  Vector y(m.rows);
  for (uint64_t i = 0; i < m.rows; ++i) {
    double sum = 0, off = 0, size = 0;
    for (uint64_t j = 0; j < m.cols; ++j) {
      const double w = m.weight[i * m.cols + j];
      sum += w * x[j];
      size += std::abs(w * x[j]);
      off += std::abs(x[j]) * (m.error[i * m.cols + j] + kRounding * std::abs(w) + rounding(pass->weights, w));
      pass->fits &= std::abs(w) < pass->weights.largest;
    }
    y[i] = sum + uniform(pass) * off;
    note(pass, size);
  }
  return y;
}

LlamaReference::Vector LlamaReference::normalise(size_t tensor, const Vector& x, ReferencePass* pass) const {
  double squares = 0;
  for (const double v : x) squares += v * v;
  note(pass, squares);
  const double factor = 1 / std::sqrt(squares / static_cast<double>(x.size()) + layout_.model.rms_norm_eps);
  Vector y(x.size());
  for (size_t i = 0; i < x.size(); ++i)
    y[i] = x[i] * factor * matrices_[tensor].weight[i] * (1 + kRounding * uniform(pass));
  return y;
}

std::vector<double> LlamaReference::logits(const std::vector<uint32_t>& tokens, ReferencePass* pass) const {
  const ModelRecord& r = layout_.model;
  const size_t d = r.head_dim, half = d / 2, group = r.num_heads / r.num_kv_heads;
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
    const ExactMatrix& embedding = matrices_[layout_.embedding];
    Vector x(r.hidden_size);
    for (size_t i = 0; i < x.size(); ++i) {
      const size_t at = tokens[t] * x.size() + i;
      const double w = embedding.weight[at];
      x[i] = w + (embedding.error[at] + rounding(pass->weights, w)) * uniform(pass);
      pass->fits &= std::abs(w) < pass->weights.largest;
    }
    const auto add = [&](const Vector& branch) {
      for (size_t i = 0; i < x.size(); ++i) {
        x[i] += branch[i];
        x[i] += kRounding * std::abs(x[i]) * uniform(pass);
      }
    };
    for (uint32_t l = 0; l < r.num_layers; ++l) {
      const LlamaLayer& layer = layout_.layers[l];
      const Vector normed = normalise(layer.attention_norm, x, pass);
      Vector q = multiply(layer.matrix[kQ], normed, pass), k = multiply(layer.matrix[kK], normed, pass);
      rotate(q, t);
      rotate(k, t);
      keys[l].push_back(std::move(k));
      values[l].push_back(multiply(layer.matrix[kV], normed, pass));
      for (Vector* cached : {&keys[l].back(), &values[l].back()}) {
        for (double& v : *cached) {
          pass->fits &= std::abs(v) < pass->cache.largest;
          v += rounding(pass->cache, v) * uniform(pass);
        }
      }
      Vector attention(q.size());
      for (size_t head = 0; head < r.num_heads; ++head) {
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
      add(multiply(layer.matrix[kO], attention, pass));
      const Vector inner = normalise(layer.mlp_norm, x, pass);
      Vector gate = multiply(layer.matrix[kGate], inner, pass);
      const Vector up = multiply(layer.matrix[kUp], inner, pass);
      for (size_t i = 0; i < gate.size(); ++i)
        gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i] * (1 + kRounding * uniform(pass));
      for (const double v : gate) note(pass, std::abs(v));
      add(multiply(layer.matrix[kDown], gate, pass));
    }
    const Vector last = multiply(layout_.head, normalise(layout_.final_norm, x, pass), pass);
    out.insert(out.end(), last.begin(), last.end());
  }
  return out;
}

std::vector<double> LlamaReference::allowed_error(const std::vector<uint32_t>& tokens, const std::vector<double>& exact,
                                                  ReferencePass pass) const {
  const size_t vocab = layout_.model.vocab_size;
  std::vector<double> allowed(tokens.size());
  for (int sample = 0; sample < kSamples; ++sample) {
    Random noise(static_cast<uint64_t>(sample));
    pass.noise = &noise;
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
