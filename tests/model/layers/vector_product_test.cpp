// Layers for a few tokens: linear and experts, with and without low-rank pairs, by each kernel, against the ways for
// many tokens in float32; the same in bfloat16 show how far rounding alone may lead.
#include "model/layers/vector_product.h"

#include <gtest/gtest.h>

#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "tests/support/golden.h"

namespace ossature {
namespace {

using testing::relative_error;

constexpr double kFloatError = 2e-6;
/// Of results that are rounded to bfloat16 themselves; intermediate ones are rounded too.
constexpr double kBFloat16Error = 0.008;

Linear random_linear(std::int64_t in, std::int64_t out, std::int64_t rank) {
  Linear linear{at::randn({out, in}).mul_(0.1).to(at::kBFloat16), at::randn({out}).to(at::kBFloat16), {}};
  if (rank > 0) linear.low_rank = {at::randn({rank, in}).mul_(0.1), at::randn({out, rank}).mul_(0.1), 1.5, 0.25};
  return linear;
}

/// As linear.h says it, in float32.
at::Tensor expected_of(const Linear& linear, const at::Tensor& any_x) {
  const at::Tensor x = any_x.to(at::kFloat);
  at::Tensor y = at::linear(x, linear.weight.to(at::kFloat), linear.bias.to(at::kFloat));
  if (!linear.low_rank.defined()) return y;
  return y + linear.low_rank.scale * at::linear(at::linear(x, linear.low_rank.a), linear.low_rank.b);
}

TEST(VectorProduct, LinearEqualsTheProductOfMatrices) {
  at::manual_seed(5);
  at::NoGradGuard no_grad;
  for (const std::int64_t rank : {0, 3}) {
    const Linear linear = random_linear(96, 77, rank);
    for (const std::int64_t tokens : {1, 3, 15}) {
      for (const auto dtype : {at::kFloat, at::kBFloat16}) {
        const at::Tensor x = at::randn({tokens, 96}).to(dtype), expected = expected_of(linear, x);
        ASSERT_TRUE(takes_vectors(linear, x, {}));
        for (const vectors::Kernel kernel : vectors::kernels()) {
          const at::Tensor found = vector_apply(linear, x, dtype, kernel);
          EXPECT_EQ(found.scalar_type(), dtype);
          EXPECT_LT(relative_error(found, expected), dtype == at::kFloat ? kFloatError : kBFloat16Error)
              << tokens << " tokens, rank " << rank << ", kernel " << static_cast<int>(kernel);
          // Where the caller wants them, sums are not rounded.
          EXPECT_LT(relative_error(vector_apply(linear, x, at::kFloat, kernel), expected), kFloatError);
        }
      }
    }
  }
}

TEST(VectorProduct, IsTakenWhereItIsRight) {
  const Linear linear = random_linear(64, 32, 2);
  const at::Tensor x = at::randn({3, 64});
  EXPECT_FALSE(takes_vectors(linear, x, {})) << "autograd may ask for a backward pass";
  at::NoGradGuard no_grad;
  EXPECT_TRUE(takes_vectors(linear, x, {}));
  EXPECT_FALSE(takes_vectors(linear, x, {7, 1})) << "dropout";
  EXPECT_FALSE(takes_vectors(linear, at::randn({kFewTokens, 64}), {}));
  EXPECT_FALSE(takes_vectors(linear, at::randn({0, 64}), {}));
  EXPECT_FALSE(takes_vectors(random_linear(48, 32, 0), at::randn({3, 48}), {})) << "half a group";
  Linear trained = linear;
  trained.weight = trained.weight.to(at::kFloat);
  EXPECT_FALSE(takes_vectors(trained, x, {}));
}

struct Layer {
  static constexpr std::int64_t kExperts = 5, kHidden = 96, kIntermediate = 160;
  Experts experts;
  Assignments assigned;
  at::Tensor x, factors;

  Layer(std::int64_t tokens, std::int64_t rank, bool packed) {
    at::manual_seed(11);
    const auto weight = [&](std::int64_t out, std::int64_t in) {
      ExpertWeight result;
      const at::Tensor values = at::randn({kExperts, out, in}).mul_(0.1);
      if (packed) {
        result.packed = mxfp4_encode(values);
      } else {
        result.dense = values.to(at::kBFloat16);
      }
      return result;
    };
    const auto pair = [&](std::int64_t out, std::int64_t in) {
      return LowRank{at::randn({kExperts, rank, in}).mul_(0.1), at::randn({kExperts, out, rank}).mul_(0.1), 2.0, 0.1};
    };
    experts.gate_up = weight(2 * kIntermediate, kHidden);
    experts.down = weight(kHidden, kIntermediate);
    experts.gate_up_bias = at::randn({kExperts, 2 * kIntermediate}).to(at::kBFloat16);
    experts.down_bias = at::randn({kExperts, kHidden}).to(at::kBFloat16);
    if (rank > 0) {
      experts.gate_up_low_rank = pair(2 * kIntermediate, kHidden);
      experts.down_low_rank = pair(kHidden, kIntermediate);
    }
    x = at::randn({tokens, kHidden}).to(at::kBFloat16);
    at::Tensor logits = at::randn({tokens, kExperts});
    logits.select(1, 3).fill_(-100.0);  // an expert that no token takes
    const Routing routing = route(logits, 3);
    assigned = assign(routing.indices, kExperts);
    factors = routing.weights.reshape(-1).index_select(0, assigned.order);
  }
  [[nodiscard]] ExpertsPass pass(at::ScalarType dtype) const {
    return {experts,
            assigned,
            x.to(dtype),
            factors,
            experts.gate_up_low_rank.a,
            experts.gate_up_low_rank.b,
            experts.down_low_rank.a,
            experts.down_low_rank.b,
            7.0,
            {}};
  }
};

TEST(VectorProduct, ExpertsEqualTheSerialWay) {
  at::NoGradGuard no_grad;
  for (const bool packed : {true, false}) {
    for (const std::int64_t rank : {0, 3}) {
      for (const std::int64_t tokens : {1, 4, 15}) {
        SCOPED_TRACE(::testing::Message() << tokens << " tokens, rank " << rank << (packed ? " packed" : " dense"));
        const Layer layer(tokens, rank, packed);
        const ExpertsPass exact = layer.pass(at::kFloat), rounded = layer.pass(at::kBFloat16);
        ASSERT_TRUE(takes_vectors(exact) && takes_vectors(rounded));
        const at::Tensor expected = serial_forward(exact, true, nullptr);
        const double by_rounding = relative_error(serial_forward(rounded, true, nullptr), expected);
        for (const vectors::Kernel kernel : vectors::kernels()) {
          EXPECT_LT(relative_error(vector_forward(exact, kernel), expected), kFloatError);
          EXPECT_LT(relative_error(vector_forward(rounded, kernel), expected), 1.1 * by_rounding)
              << "no worse than the serial way in bfloat16; kernel " << static_cast<int>(kernel);
        }
      }
    }
  }
}

TEST(VectorProduct, SameBitsFromAnyNumberOfThreads) {
  at::NoGradGuard no_grad;
  const Layer layer(6, 2, true);
  const Linear linear = random_linear(96, 211, 2);
  const int threads = at::get_num_threads();
  std::vector<at::Tensor> found;
  for (const int n : {1, 2, 3}) {
    at::set_num_threads(n);
    found.push_back(vector_forward(layer.pass(at::kBFloat16)));
    found.push_back(vector_apply(linear, layer.x, at::kFloat));
  }
  at::set_num_threads(threads);
  for (std::size_t i = 2; i < found.size(); ++i) EXPECT_TRUE(at::equal(found[i], found[i % 2]));
}

}  // namespace
}  // namespace ossature
