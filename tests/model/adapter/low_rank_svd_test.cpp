// The decomposition of a low-rank product against LibTorch's of the product itself, in float64.
#include "model/adapter/low_rank_svd.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include "model/adapter/spectrum.h"

namespace ossature {
namespace {

LowRank random_pair(std::int64_t out, std::int64_t in, std::int64_t r, double scale, std::uint64_t seed) {
  at::manual_seed(seed);
  // Columns of falling size, so that the spectrum is no flat one.
  const at::Tensor size = at::pow(0.6, at::arange(r, at::kFloat));
  return {at::randn({r, in}), at::randn({out, r}) * size, scale};
}

at::Tensor delta(const LowRank& pair) {
  return at::matmul(pair.b.to(at::kDouble), pair.a.to(at::kDouble)) * pair.scale;
}

at::Tensor tensor_of(const std::vector<double>& values) {
  return at::tensor(values, at::kDouble);
}

struct Shape {
  std::int64_t out, in, r;
};

// The last three have a rank above a side: more than the product can have.
const Shape kShapes[] = {{40, 24, 4}, {24, 40, 1}, {64, 96, 20}, {6, 30, 9}, {30, 6, 9}, {5, 7, 12}};

TEST(LowRankSvd, SingularValuesAreThoseOfTheProduct) {
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(testing::Message() << shape.out << " x " << shape.in << ", rank " << shape.r);
    const LowRank pair = random_pair(shape.out, shape.in, shape.r, -1.75, 1);
    const auto k = std::min({shape.out, shape.in, shape.r});
    const at::Tensor expected = at::linalg_svdvals(delta(pair)).slice(0, 0, k);
    for (const auto& sigma : {low_rank_svd(pair).sigma, singular_values(pair)}) {
      ASSERT_EQ(static_cast<std::int64_t>(sigma.size()), k);
      EXPECT_LT((tensor_of(sigma) - expected).abs().max().item<double>(), 1e-13 * expected[0].item<double>());
    }
  }
}

TEST(LowRankSvd, VectorsAreOrthonormalAndGiveTheProduct) {
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(testing::Message() << shape.out << " x " << shape.in << ", rank " << shape.r);
    const LowRank pair = random_pair(shape.out, shape.in, shape.r, 0.5, 2);
    const LowRankSvd svd = low_rank_svd(pair);
    const at::Tensor one = at::eye(svd.u.size(1), at::kDouble);
    EXPECT_LT((svd.u.t().matmul(svd.u) - one).abs().max().item<double>(), 1e-13);
    EXPECT_LT((svd.v.t().matmul(svd.v) - one).abs().max().item<double>(), 1e-13);
    const at::Tensor product = (svd.u * tensor_of(svd.sigma)).matmul(svd.v.t()), wanted = delta(pair);
    EXPECT_LT((product - wanted).norm().item<double>(), 1e-13 * wanted.norm().item<double>());
  }
}

TEST(LowRankSvd, TruncationIsTheBestOfItsRank) {
  const LowRank pair = random_pair(48, 32, 8, 2.0, 3);
  const at::Tensor wanted = delta(pair);
  const auto [u, sigma, vh] = at::linalg_svd(wanted, /*full_matrices=*/false);
  const LowRankSvd svd = low_rank_svd(pair);
  for (std::int64_t k = 1; k <= 8; ++k) {
    const LowRank cut = truncated(svd, k);
    ASSERT_EQ(cut.a.sizes(), (at::IntArrayRef{k, 32}));
    ASSERT_EQ(cut.b.sizes(), (at::IntArrayRef{48, k}));
    const at::Tensor best = (u.slice(1, 0, k) * sigma.slice(0, 0, k)).matmul(vh.slice(0, 0, k));
    EXPECT_LT((delta(cut) - best).norm().item<double>(), 1e-6 * best.norm().item<double>()) << k;  // float32 pairs
    const double kept = best.square().sum().item<double>() / wanted.square().sum().item<double>();
    EXPECT_NEAR(kept_energy(svd.sigma, k), kept, 1e-12);
  }
}

TEST(LowRankSvd, MoreRanksThanThereAreStayZero) {
  const LowRank pair = random_pair(12, 10, 2, 1.0, 4);
  const LowRank same = truncated(low_rank_svd(pair), 5);
  EXPECT_EQ(same.a.slice(0, 2).count_nonzero().item<std::int64_t>(), 0);
  EXPECT_EQ(same.b.slice(1, 2).count_nonzero().item<std::int64_t>(), 0);
  EXPECT_LT((delta(same) - delta(pair)).norm().item<double>(), 1e-6 * delta(pair).norm().item<double>());
}

TEST(LowRankSvd, PairAndItsNegativeCancelExactly) {
  const LowRank pair = random_pair(48, 32, 6, 1.5, 5);
  const LowRank nothing{at::cat({pair.a, pair.a}), at::cat({pair.b, -pair.b}, 1), 1.5};
  EXPECT_EQ(frobenius_norm(singular_values(nothing)), 0.0);
  // A part in a million that is left is seen.
  const LowRank little{nothing.a, at::cat({pair.b, pair.b * -0.999999f}, 1), 1.5};
  EXPECT_NEAR(frobenius_norm(singular_values(little)) / delta(little).norm().item<double>(), 1.0, 1e-6);
}

TEST(LowRankSvd, UntrainedPairIsZero) {
  LowRank pair = random_pair(12, 10, 3, 1.0, 6);
  pair.b.zero_();
  const LowRankSvd svd = low_rank_svd(pair);
  EXPECT_EQ(svd.sigma, std::vector<double>(3, 0.0));
  EXPECT_EQ(truncated(svd, 2).b.count_nonzero().item<std::int64_t>(), 0);
}

TEST(LowRankSvd, InnerProductIsThatOfTheProducts) {
  const LowRank left = random_pair(20, 14, 3, 2.0, 7), right = random_pair(20, 14, 5, -0.5, 8);
  const double expected = (delta(left) * delta(right)).sum().item<double>();
  EXPECT_NEAR(inner_product(left, right), expected,
              1e-12 * delta(left).norm().item<double>() * delta(right).norm().item<double>());
}

}  // namespace
}  // namespace ossature
