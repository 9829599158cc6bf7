// AdamW against its definition (arXiv 1711.05101, algorithm 2) written out in float64.
#include "train/optimizer/optimizer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <ATen/Parallel.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "train/failure/errors.h"
#include "train/optimizer/dynamic_code.h"

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
  double most_roots = std::numeric_limits<double>::infinity();  // that a first moment may be of its second

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
      if (std::abs(first[i]) > most_roots * std::sqrt(second[i])) {
        first[i] = std::copysign(most_roots * std::sqrt(second[i]), first[i]);
      }
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

AdamW::State copied(const AdamW::State& state) {
  AdamW::State copies;
  for (const auto& [name, tensor] : state) copies[name] = tensor.clone();
  return copies;
}
void expect_equal_states(const AdamW::State& found, const AdamW::State& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [name, tensor] : expected) EXPECT_TRUE(at::equal(found.at(name), tensor)) << name;
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
    EXPECT_NEAR(optimizer.state().at("exp_avg").to(at::kDouble).norm().item<double>() / (0.1 * kept * norm), 1.0, 1e-5)
        << limit;
  }
}

TEST_F(AdamWTest, NonFiniteGradientFailsAndChangesNothing) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  AdamW optimizer(parameters_, {0.9, 0.999, 1e-8, 0.01, 1.0});
  parameters_.gradients().copy_(random_tensor(1.0));
  optimizer.step(1e-2, 1.0);
  const at::Tensor values = parameters_.values().clone();
  const AdamW::State state = copied(optimizer.state());
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
      expect_equal_states(optimizer.state(), state);
      EXPECT_EQ(optimizer.steps_done(), 1);
    }
  }
}

/// Of each way to store the moments. 1,000 values: three whole blocks of 256 and a part of one, decayed up to the
/// middle of the second.
class AdamWStateTest : public ::testing::TestWithParam<OptimizerState> {
 protected:
  static constexpr std::int64_t kNumel = 1000, kNumDecayed = 300;

  static ParameterSet parameters(std::uint64_t seed) {
    ParameterSet made({{"weight", {kNumDecayed}, true}, {"scale", {kNumel - kNumDecayed}, false}}, at::kCPU);
    made.values().copy_(gradient(seed, 1.0));
    return made;
  }
  /// Normal, with magnitudes over four decades.
  static at::Tensor gradient(std::uint64_t seed, double size) {
    std::mt19937_64 random(seed);
    std::normal_distribution<double> normal;
    at::Tensor tensor = at::empty({kNumel}, at::kFloat);
    for (std::int64_t i = 0; i < kNumel; ++i) {
      const double magnitude = size * std::pow(10.0, -static_cast<double>(i % 5));
      tensor.data_ptr<float>()[i] = static_cast<float>(magnitude * normal(random));
    }
    return tensor;
  }
  static AdamWOptions options() { return {0.9, 0.999, 1e-8, 0.1, 1.0, GetParam()}; }
  /// The largest |first| / sqrt(second) that any gradients lead to: those that decay by beta1 / beta2 into the past.
  static double most_roots() {
    double first = 0.0, second = 0.0;
    for (int age = 0; age < 10'000; ++age) {
      const double g = std::pow(options().beta1 / options().beta2, age);
      first += (1.0 - options().beta1) * std::pow(options().beta1, age) * g;
      second += (1.0 - options().beta2) * std::pow(options().beta2, age) * g * g;
    }
    return first / std::sqrt(second);
  }
  static bool is_8bit() { return GetParam() == OptimizerState::k8Bit; }

  /// What the stored moments stand for.
  static std::vector<double> decoded(const AdamW& optimizer, const std::string& name) {
    const at::Tensor& stored = optimizer.state().at(name);
    if (!is_8bit()) return doubles(stored);
    const std::vector<double> absmax = doubles(optimizer.state().at(name + "_absmax"));
    const auto& known = dynamic_code::levels();
    std::vector<double> moments;
    for (std::int64_t i = 0; i < stored.numel(); ++i) {
      const auto code = stored.data_ptr<std::uint8_t>()[i];
      moments.push_back((name == "exp_avg" ? known.first[code] : known.second[code]) *
                        absmax[static_cast<std::size_t>(i / dynamic_code::kBlock)]);
    }
    return moments;
  }
  /// Room for one rounding of `exact` in a block whose largest magnitude is `largest`.
  static double rounding(const std::string& name, double exact, double largest) {
    if (GetParam() == OptimizerState::kFloat32) return 0.0;
    if (GetParam() == OptimizerState::kBFloat16) return exact / 128.0 + 1e-30;
    // A decade's levels lie at most 9 / 2^k of themselves apart, of the 2^k that it has; and the lowest, 1e-6 and 1e-8
    // of the largest (of its root).
    const bool is_first = name == "exp_avg";
    const double part = is_first ? exact / largest : std::sqrt(exact / largest);
    const double decade = std::pow(10.0, std::ceil(std::log10(std::max(part, 1e-8))));
    const double step = 0.9 * decade / std::exp2((is_first ? 6.0 : 7.0) + std::log10(decade));
    if (is_first) return largest * std::max(1.001 * step, 1e-6);
    return largest * ((part + 1.001 * step) * (part + 1.001 * step) - part * part + 1e-16);
  }
};
INSTANTIATE_TEST_SUITE_P(States, AdamWStateTest,
                         ::testing::Values(OptimizerState::kFloat32, OptimizerState::kBFloat16, OptimizerState::k8Bit));

// Each step, begun from the moments as stored: the values are the definition's, the new moments one rounding from it.
TEST_P(AdamWStateTest, EveryStepIsTheDefinitionsButForTheStorage) {
  ParameterSet trained = parameters(1);
  AdamW optimizer(trained, options());
  std::vector<bool> decays(kNumel);
  for (std::size_t i = 0; i < kNumDecayed; ++i) decays[i] = true;
  for (int i = 0; i < 30; ++i) {
    Reference expected{options(), decays, doubles(trained.values())};
    expected.first = decoded(optimizer, "exp_avg");
    expected.second = decoded(optimizer, "exp_avg_sq");
    expected.steps = i;
    if (GetParam() != OptimizerState::kFloat32) expected.most_roots = most_roots();
    const std::vector<double> first = expected.first, second = expected.second;
    const at::Tensor sums = gradient(static_cast<std::uint64_t>(100 + i), i % 2 == 0 ? 0.01 : 1.0);  // clipped or not
    trained.gradients().copy_(sums);
    const double norm = optimizer.step(1e-2, 2.0);
    EXPECT_NEAR(norm / expected.step(doubles(sums), 1e-2, 2.0), 1.0, 1e-12);
    EXPECT_EQ(trained.gradients().abs().max().item<float>(), 0.0f);
    // The size of a step is up to ten times the learning rate, rounded in float32 at values up to 3.
    const std::vector<double> values = doubles(trained.values());
    for (std::size_t n = 0; n < values.size(); ++n) EXPECT_NEAR(values[n], expected.values[n], 1e-6) << i << " " << n;
    for (const std::string name : {"exp_avg", "exp_avg_sq"}) {
      const std::vector<double>& exact = name == "exp_avg" ? expected.first : expected.second;
      const std::vector<double>& before = name == "exp_avg" ? first : second;
      const std::vector<double> moments = decoded(optimizer, name);
      for (std::size_t n = 0; n < moments.size(); ++n) {
        double largest = 0.0, arithmetic = 3e-6 * (std::abs(exact[n]) + 2.0 * std::abs(before[n]));
        const std::size_t block = n / dynamic_code::kBlock * dynamic_code::kBlock;
        for (std::size_t k = block; k < std::min(moments.size(), block + dynamic_code::kBlock); ++k) {
          largest = std::max(largest, std::abs(exact[k]));
        }
        EXPECT_NEAR(moments[n], exact[n], arithmetic + rounding(name, std::abs(exact[n]), largest))
            << name << i << " " << n;
      }
    }
  }
}

// With beta2 = 0.999 an average moves by a thousandth a step, less than half a step between the numbers of 8 bits of
// precision or fewer: rounded to nearest it would stay where it is. The mean over many keeps to the exact decay.
TEST_P(AdamWStateTest, AveragesDoNotStall) {
  const at::Tensor one = at::ones({1}, at::kBFloat16);
  ASSERT_TRUE(at::equal(one * 0.999, one));  // rounded to nearest
  constexpr std::int64_t kBlocks = 64, kSteps = 1000, kSize = kBlocks * dynamic_code::kBlock;
  ParameterSet trained({{"weight", {kSize}, false}}, at::kCPU);
  AdamW optimizer(trained, {0.9, 0.999, 1e-8, 0.0, 0.0, GetParam()});
  at::Tensor gradients = trained.gradients();
  const at::Tensor sizes = at::arange(kSize, at::kFloat).remainder(97.0).div(97.0).add(0.01);
  const at::Tensor firsts = at::arange(kBlocks) * dynamic_code::kBlock;  // keep the largest magnitude of their block
  gradients.copy_(sizes).index_fill_(0, firsts, 1.5);
  optimizer.step(1e-3, 1.0);
  const auto others = [&](const std::vector<double>& moments) {
    double sum = 0.0;
    for (std::size_t i = 0; i < moments.size(); ++i) sum += i % dynamic_code::kBlock == 0 ? 0.0 : moments[i];
    return sum;
  };
  const double before = others(decoded(optimizer, "exp_avg_sq"));
  for (int i = 0; i < kSteps; ++i) {
    gradients.zero_().index_fill_(0, firsts, 1.5);
    optimizer.step(1e-3, 1.0);
  }
  EXPECT_NEAR(others(decoded(optimizer, "exp_avg_sq")) / before / std::pow(0.999, kSteps), 1.0, 0.02);
}

// An expert that no token visits has zero gradients beside others' large ones, and moments that fade. 8 bits cannot
// tell its first moment from zero exactly; its steps must still be those that Adam can take, and fade.
TEST_P(AdamWStateTest, UnvisitedParametersTakeNoLargeSteps) {
  ParameterSet trained({{"weight", {2048}, false}}, at::kCPU);
  AdamW optimizer(trained, {0.9, 0.999, 1e-8, 0.0, 0.0, GetParam()});
  const at::Tensor is_large = at::arange(2048).remainder(2).to(at::kFloat);
  const at::Tensor sizes = at::pow(10.0, at::arange(2048).remainder(13).mul(-0.5));  // 1 to 1e-6
  at::Tensor gradients = trained.gradients();
  double last = 0.0;
  for (int i = 0; i < 150; ++i) {
    gradients.copy_(i < 5 ? at::where(is_large.to(at::kBool), 10.0, sizes) : is_large * 10.0);
    const at::Tensor before = trained.values().clone();
    optimizer.step(1.0, 1.0);
    const at::Tensor sizes_of_steps = (trained.values() - before).abs();
    const double correction = std::sqrt(1.0 - std::pow(0.999, i + 1)) / (1.0 - std::pow(0.9, i + 1));
    EXPECT_LT(sizes_of_steps.max().item<double>(), std::max(1.1, 7.28 * correction)) << i;
    last = (sizes_of_steps * (1.0 - is_large)).mean().item<double>();
  }
  EXPECT_LT(last, 1e-3);
}

TEST_P(AdamWStateTest, NumberOfThreadsDoesNotMatter) {
  constexpr std::int64_t kLarge = 100'000;
  const int before = at::get_num_threads();
  std::vector<at::Tensor> values;
  std::vector<AdamW::State> states;
  for (const int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    ParameterSet trained({{"weight", {kLarge}, true}}, at::kCPU);
    AdamW optimizer(trained, options());
    for (int i = 0; i < 3; ++i) {
      trained.gradients().copy_(at::arange(kLarge, at::kFloat).mul(0.1 * (i + 1)).sin());
      optimizer.step(1e-2, 2.0);
    }
    values.push_back(trained.values().clone());
    states.push_back(copied(optimizer.state()));
  }
  at::set_num_threads(before);
  for (std::size_t i = 1; i < values.size(); ++i) {
    EXPECT_TRUE(at::equal(values[i], values[0]));
    expect_equal_states(states[i], states[0]);
  }
}

TEST_P(AdamWStateTest, RestoredGoesOnToTheBit) {
  ParameterSet trained = parameters(1);
  AdamW straight(trained, options());
  const auto run = [&](AdamW& optimizer, std::uint64_t begin, std::uint64_t end) {
    for (std::uint64_t i = begin; i < end; ++i) {
      trained.gradients().copy_(gradient(i, 1.0));
      optimizer.step(1e-2, 2.0);
    }
  };
  run(straight, 0, 3);
  const at::Tensor values = trained.values().clone();
  const AdamW::State saved = copied(straight.state());
  run(straight, 3, 6);
  const at::Tensor expected = trained.values().clone();

  AdamW restored(trained, options());
  trained.values().copy_(values);
  restored.restore(3, saved);
  EXPECT_EQ(restored.steps_done(), 3);
  run(restored, 3, 6);
  EXPECT_TRUE(at::equal(trained.values(), expected));
  expect_equal_states(restored.state(), straight.state());
  // The state that was given is not the optimizer's own.
  EXPECT_FALSE(at::equal(saved.at("exp_avg"), restored.state().at("exp_avg")));
}

TEST_P(AdamWStateTest, BytesAreThoseHeld) {
  ParameterSet trained = parameters(1);
  AdamW optimizer(trained, options());
  std::int64_t moments = 0;
  for (const auto& [name, tensor] : optimizer.state()) moments += static_cast<std::int64_t>(tensor.nbytes());
  const TrainedBytes bytes = trained_bytes(kNumel, GetParam());
  EXPECT_EQ(bytes.moments, moments);
  EXPECT_EQ(bytes.values, static_cast<std::int64_t>(trained.values().nbytes()));
  EXPECT_EQ(bytes.gradients, static_cast<std::int64_t>(trained.gradients().nbytes()));
}

TEST(AdamWOnOtherDevices, OnlyFloat32) {
  ParameterSet elsewhere({{"weight", {3}, true}}, at::kMeta);
  EXPECT_NO_THROW(AdamW(elsewhere, {}));
  for (const OptimizerState state : {OptimizerState::kBFloat16, OptimizerState::k8Bit}) {
    EXPECT_THROW(AdamW(elsewhere, {.state = state}), RecipeError);
  }
}

}  // namespace
}  // namespace ossature
