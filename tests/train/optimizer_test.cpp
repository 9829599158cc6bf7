// AdamW against its definition (arXiv 1711.05101, algorithm 2) written out in float64.
#include "train/optimizer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "train/errors.h"

namespace ossature {
namespace {

/// The same parameters without buffers, vectors or float32.
struct Reference {
  AdamWOptions options;
  std::vector<bool> decays;
  std::vector<double> values;
  std::vector<double> first = std::vector<double>(values.size());
  std::vector<double> second = std::vector<double>(values.size());
  int steps = 0;

  double step(const std::vector<double>& gradient_sums, double learning_rate, double weight_sum) {
    double norm = 0.0;
    for (const double g : gradient_sums) norm += (g / weight_sum) * (g / weight_sum);
    norm = std::sqrt(norm);
    double clip = 1.0;
    if (options.max_grad_norm > 0.0 && norm > options.max_grad_norm) clip = options.max_grad_norm / norm;
    ++steps;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double g = gradient_sums[i] / weight_sum * clip;
      first[i] = options.beta1 * first[i] + (1.0 - options.beta1) * g;
      second[i] = options.beta2 * second[i] + (1.0 - options.beta2) * g * g;
      const double mean = first[i] / (1.0 - std::pow(options.beta1, steps));
      const double square = second[i] / (1.0 - std::pow(options.beta2, steps));
      if (decays[i]) values[i] -= learning_rate * options.weight_decay * values[i];
      values[i] -= learning_rate * mean / (std::sqrt(square) + options.epsilon);
    }
    return norm;
  }
};

std::vector<double> doubles(const at::Tensor& tensor) {
  const at::Tensor wide = tensor.to(at::kDouble).contiguous();
  return {wide.const_data_ptr<double>(), wide.const_data_ptr<double>() + wide.numel()};
}

class AdamWTest : public ::testing::Test {
 protected:
  // 66 values: neither part is a multiple of a vector's length, and the order given is not that of the buffer.
  ParameterSet parameters_{{{"bias", {13}, false}, {"weight", {5, 7}, true}, {"scale", {18}, false}}, at::kCPU};
  std::mt19937_64 random_{1};

  AdamWTest() { parameters_.values().copy_(random_tensor(1.0)); }
  at::Tensor random_tensor(double size) {
    std::normal_distribution<float> normal(0.0f, static_cast<float>(size));
    at::Tensor tensor = at::empty({66}, at::kFloat);
    for (std::int64_t i = 0; i < 66; ++i) tensor.data_ptr<float>()[i] = normal(random_);
    return tensor;
  }
  [[nodiscard]] Reference reference(const AdamWOptions& options) const {
    std::vector<bool> decays(66);
    for (std::size_t i = 0; i < 35; ++i) decays[i] = true;  // weight comes first
    return {options, decays, doubles(parameters_.values())};
  }
  /// Steps of both with gradients of changing size and a changing learning rate.
  void expect_equal_steps(const AdamWOptions& options, double gradient_size) {
    AdamW optimizer(parameters_, options);
    Reference expected = reference(options);
    for (int i = 0; i < 20; ++i) {
      const double weight_sum = 1.0 + i % 3, learning_rate = 1e-2 / (1 + i);
      const at::Tensor sums = random_tensor(gradient_size * (1 + i % 4) * weight_sum);
      parameters_.gradients().copy_(sums);
      const double norm = optimizer.step(learning_rate, weight_sum);
      const double expected_norm = expected.step(doubles(sums), learning_rate, weight_sum);
      EXPECT_NEAR(norm / expected_norm, 1.0, 1e-12) << "step " << i;
      EXPECT_EQ(parameters_.gradients().abs().max().item<float>(), 0.0f);
    }
    EXPECT_EQ(optimizer.steps_done(), 20);
    // Float32 has 6e-8 of relative rounding; 20 updates of values up to 3 stay well below 3e-6.
    const std::vector<double> found = doubles(parameters_.values());
    for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected.values[i], 3e-6) << i;
  }
};

TEST_F(AdamWTest, StepsAreTheDefinitions) {
  expect_equal_steps({0.9, 0.999, 1e-8, 0.0, 0.0}, 0.1);
}

TEST_F(AdamWTest, WeightDecayIsDecoupledAndOnlyOfTheDecayed) {
  expect_equal_steps({0.9, 0.999, 1e-8, 0.5, 0.0}, 0.1);
}

TEST_F(AdamWTest, LargeEpsilonAndOtherBetas) {
  expect_equal_steps({0.7, 0.95, 0.1, 0.01, 0.0}, 0.1);
}

TEST_F(AdamWTest, ClipsOnlyAboveTheNorm) {
  // Norms of the 66 gradients: about 0.2 to 1, on both sides of the limit. The division by norm + 1e-6, as PyTorch
  // does it, moves a clipped gradient by 1e-6 of itself, and Adam's ratio by less.
  expect_equal_steps({0.9, 0.999, 1e-8, 0.01, 0.5}, 0.03);
}

TEST_F(AdamWTest, ClippingShows) {
  // Adam's first step is blind to the size of the gradient but for epsilon, so the moments are compared.
  const at::Tensor gradient = random_tensor(1.0);
  const double norm = gradient.to(at::kDouble).norm().item<double>();
  for (const double limit : {0.0, 0.25 * norm, 4.0 * norm}) {
    AdamW optimizer(parameters_, {0.9, 0.999, 1e-8, 0.0, limit});
    parameters_.gradients().copy_(gradient * 3.0);
    EXPECT_NEAR(optimizer.step(1e-3, 3.0), norm, 1e-6 * norm);
    const double kept = limit == 0.25 * norm ? 0.25 : 1.0;
    EXPECT_NEAR(optimizer.exp_avg().to(at::kDouble).norm().item<double>() / (0.1 * kept * norm), 1.0, 1e-5) << limit;
  }
}

TEST_F(AdamWTest, NonFiniteGradientFailsAndChangesNothing) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  AdamW optimizer(parameters_, {0.9, 0.999, 1e-8, 0.01, 1.0});
  parameters_.gradients().copy_(random_tensor(1.0));
  optimizer.step(1e-2, 1.0);
  const at::Tensor values = parameters_.values().clone(), exp_avg = optimizer.exp_avg().clone(),
                   exp_avg_sq = optimizer.exp_avg_sq().clone();
  for (const float bad : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
    for (const std::int64_t place : {0, 40, 65}) {
      parameters_.gradients().copy_(random_tensor(1.0));
      parameters_.gradients().data_ptr<float>()[place] = bad;
      try {
        optimizer.step(1e-2, 1.0);
        ADD_FAILURE() << "took " << bad;
      } catch (const NonFiniteError& error) {
        EXPECT_TRUE(std::string(error.what()).starts_with("step 2: the gradient norm is not a finite number"))
            << error.what();
      }
      EXPECT_TRUE(at::equal(parameters_.values(), values));
      EXPECT_TRUE(at::equal(optimizer.exp_avg(), exp_avg));
      EXPECT_TRUE(at::equal(optimizer.exp_avg_sq(), exp_avg_sq));
      EXPECT_EQ(optimizer.steps_done(), 1);
    }
  }
}

TEST_F(AdamWTest, RestoredGoesOnToTheBit) {
  const AdamWOptions options{0.9, 0.999, 1e-8, 0.01, 1.0};
  AdamW straight(parameters_, options);
  std::vector<at::Tensor> gradients;
  for (int i = 0; i < 6; ++i) gradients.push_back(random_tensor(1.0));
  const auto run = [&](AdamW& optimizer, std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      parameters_.gradients().copy_(gradients[i]);
      optimizer.step(1e-2, 2.0);
    }
  };
  run(straight, 0, 3);
  const at::Tensor values = parameters_.values().clone(), exp_avg = straight.exp_avg().clone(),
                   exp_avg_sq = straight.exp_avg_sq().clone();
  run(straight, 3, 6);
  const at::Tensor expected = parameters_.values().clone();

  AdamW restored(parameters_, options);
  parameters_.values().copy_(values);
  restored.restore(3, exp_avg, exp_avg_sq);
  EXPECT_EQ(restored.steps_done(), 3);
  run(restored, 3, 6);
  EXPECT_TRUE(at::equal(parameters_.values(), expected));
  EXPECT_TRUE(at::equal(restored.exp_avg(), straight.exp_avg()));
  EXPECT_TRUE(at::equal(restored.exp_avg_sq(), straight.exp_avg_sq()));
  // The state that was given is not the optimizer's own.
  EXPECT_FALSE(at::equal(exp_avg, restored.exp_avg()));
}

}  // namespace
}  // namespace ossature
