// Every gradient of the trainer against central differences in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "trainer/train/rd_loss.h"

namespace nwc {
namespace {

/// Relative error of dL/dparams, for at most `checks` parameters spread over the array.
void expect_gradient(std::vector<double> params, const std::vector<double>& grad, size_t begin, size_t end,
                     size_t checks, const std::function<double(const std::vector<double>&)>& loss, const char* what) {
  const size_t stride = std::max<size_t>(1, (end - begin) / checks);
  double largest = 0;
  for (size_t i = begin; i < end; ++i) largest = std::max(largest, std::abs(grad[i]));
  ASSERT_GT(largest, 0) << what << ": no gradient at all";
  for (size_t i = begin; i < end; i += stride) {
    const double at = params[i], h = 1e-6 * std::max(1.0, std::abs(at));
    params[i] = at + h;
    const double up = loss(params);
    params[i] = at - h;
    const double down = loss(params);
    params[i] = at;
    EXPECT_NEAR((up - down) / (2 * h), grad[i], 2e-6 * largest + 1e-5 * std::abs(grad[i]))
        << what << "[" << i - begin << "]";
  }
}

std::vector<double> random_vector(Random* random, size_t n, double deviation) {
  std::vector<double> v(n);
  for (double& x : v) x = deviation * random->normal();
  return v;
}

MlpShape make_shape(uint32_t width, uint32_t blocks, Activation activation, bool layer_norm, uint32_t levels) {
  return {.width = width, .blocks = blocks, .activation = activation, .layer_norm = layer_norm, .levels = levels};
}

const MlpShape kShapes[] = {
    make_shape(0, 0, Activation::kNone, false, 4), make_shape(16, 2, Activation::kRelu, false, 3),
    make_shape(16, 1, Activation::kSilu, false, 3), make_shape(32, 3, Activation::kRelu, true, 2),
    make_shape(16, 2, Activation::kSilu, true, 5)};

TEST(GradCheck, EveryLayerOfTheNetwork) {
  for (const MlpShape& shape : kShapes) {
    SCOPED_TRACE(testing::Message() << "width " << shape.width << " blocks " << shape.blocks << " LayerNorm "
                                    << shape.layer_norm);
    Random random({1, shape.width, shape.blocks});
    const size_t count = num_parameters(shape);
    const std::vector<double> params = random_vector(&random, count, 0.5);
    constexpr size_t kRows = 7;
    RowMatrix<double> x(kRows, kChunk), target(kRows, kChunk);
    std::vector<uint8_t> level(kRows);
    for (Eigen::Index i = 0; i < x.size(); ++i) {
      x.data()[i] = random.normal();
      target.data()[i] = random.normal();
    }
    for (auto& l : level) l = static_cast<uint8_t>(random.below(shape.levels));
    for (uint32_t l = 0; l < shape.levels && l < kRows; ++l) level[l] = static_cast<uint8_t>(l);

    Mlp<double> mlp(shape);
    const auto loss_at = [&](const std::vector<double>& p) {
      return 0.5 * (mlp.forward(p.data(), x, level.data()) - target).squaredNorm();
    };
    loss_at(params);
    const RowMatrix<double> dy = mlp.forward(params.data(), x, level.data()) - target;
    std::vector<double> grad(count, 0.0);
    RowMatrix<double> dx;
    mlp.backward(params.data(), dy, grad.data(), &dx);
    expect_gradient(params, grad, 0, count, 400, loss_at, "parameter");

    const std::vector<double> inputs(x.data(), x.data() + x.size());
    const std::vector<double> input_grad(dx.data(), dx.data() + dx.size());
    const auto loss_of_input = [&](const std::vector<double>& v) {
      std::copy(v.begin(), v.end(), x.data());
      return loss_at(params);
    };
    expect_gradient(inputs, input_grad, 0, inputs.size(), inputs.size(), loss_of_input, "input");
  }
}

TEST(GradCheck, DensityAndItsInputs) {
  Random random({2});
  constexpr size_t kPoints = 33;
  std::vector<double> params = random_vector(&random, DensityLayout::kPerChannel, 0.6);
  // Gentle slopes: no point may reach the clamp of the probability, where the rate is deliberately not differentiable.
  for (size_t i = 0; i < DensityLayout::kMatrix; ++i) params[i] -= 1;
  const std::vector<double> t = random_vector(&random, kPoints, 2.0);
  std::vector<double> h(kPoints), weight = random_vector(&random, kPoints, 1.0), bits(kPoints);
  for (double& v : h) v = 0.05 + 0.5 * random.uniform();
  FactorizedDensity<double> density;
  const auto loss_of = [&](const std::vector<double>& p, const std::vector<double>& centre,
                           const std::vector<double>& half) {
    density.forward(p.data(), centre, half, bits);
    double sum = 0;
    for (size_t n = 0; n < kPoints; ++n) sum += weight[n] * bits[n];
    return sum;
  };
  loss_of(params, t, h);
  std::vector<double> grad(params.size(), 0.0), dt(kPoints), dh(kPoints);
  density.backward(params.data(), weight, grad.data(), dt, dh);
  expect_gradient(
      params, grad, 0, params.size(), 99, [&](const auto& p) { return loss_of(p, t, h); }, "parameter");
  expect_gradient(
      t, dt, 0, kPoints, 99, [&](const auto& v) { return loss_of(params, v, h); }, "centre");
  expect_gradient(
      h, dh, 0, kPoints, 99, [&](const auto& v) { return loss_of(params, t, v); }, "half width");

  std::vector<double> up(kPoints), down(kPoints), f(kPoints);
  FactorizedDensity<double>::logits(params.data(), t, f);
  for (size_t n = 0; n < kPoints; ++n) {
    double value = 0, slope = 0, ahead = 0, behind = 0, unused = 0;
    FactorizedDensity<double>::logit_slope(params.data(), t[n], &value, &slope);
    FactorizedDensity<double>::logit_slope(params.data(), t[n] + 1e-6, &ahead, &unused);
    FactorizedDensity<double>::logit_slope(params.data(), t[n] - 1e-6, &behind, &unused);
    EXPECT_EQ(value, f[n]);
    EXPECT_GT(slope, 0) << "a cumulative distribution rises";
    EXPECT_NEAR((ahead - behind) / 2e-6, slope, 1e-6 * std::max(1.0, slope));
  }
}

TEST(GradCheck, WholeLoss) {
  for (const MlpShape& shape : kShapes) {
    SCOPED_TRACE(testing::Message() << "width " << shape.width << " blocks " << shape.blocks);
    Random random({3, shape.width, shape.blocks});
    LevelObjective objective;
    for (uint32_t l = 0; l < shape.levels; ++l) {
      objective.lambda.push_back(static_cast<float>(3 * (l + 1)));
      objective.weight.push_back(1.0f / static_cast<float>(l + 1));
    }
    RdLoss<double> loss(shape, objective);
    const CodecLayout& layout = loss.layout();
    std::vector<float> initial(layout.total, 0.0f);
    initialize_mlp(shape, &random, std::span(initial).first(layout.synthesis));
    initialize_mlp(shape, &random, std::span(initial).subspan(layout.synthesis, layout.synthesis));
    initialize_density(&random, std::span(initial).subspan(layout.density, DensityLayout::kTotal));
    std::vector<double> params(initial.begin(), initial.end());
    for (double& p : params) p += 0.05 * random.normal();

    LossBatch<double> batch;
    constexpr size_t kRows = 9;
    batch.x.resize(kRows, kChunk);
    batch.noise.resize(kRows, kChunk);
    for (Eigen::Index i = 0; i < batch.x.size(); ++i) {
      batch.x.data()[i] = random.normal();
      batch.noise.data()[i] = random.uniform() - 0.5;
    }
    for (size_t n = 0; n < kRows; ++n) batch.level.push_back(static_cast<uint8_t>(n % shape.levels));

    std::vector<double> grad(layout.total, 0.0);
    loss.evaluate(params, batch, 0.25, grad, nullptr);
    const auto loss_at = [&](const std::vector<double>& p) { return loss.evaluate(p, batch, 0.25, {}, nullptr); };
    const size_t cuts[] = {0, layout.synthesis, layout.density, layout.log_step, layout.log_scale, layout.total};
    const char* names[] = {"g_a", "g_s", "density", "log step", "log level_scale"};
    for (size_t part = 0; part < 5; ++part) {
      expect_gradient(params, grad, cuts[part], cuts[part + 1], 150, loss_at, names[part]);
    }
  }
}

}  // namespace
}  // namespace nwc
