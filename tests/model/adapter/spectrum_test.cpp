#include "model/adapter/spectrum.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace ossature {
namespace {

TEST(Spectrum, NormIsTheRootOfTheEnergy) {
  EXPECT_DOUBLE_EQ(frobenius_norm(std::vector<double>{4.0, 3.0, 0.0}), 5.0);
  EXPECT_EQ(frobenius_norm({}), 0.0);
}

TEST(Spectrum, EqualValuesHaveTheirCountAsRank) {
  const std::vector<double> equal(6, 0.25);
  EXPECT_NEAR(effective_rank(equal), 6.0, 1e-12);
  EXPECT_NEAR(stable_rank(equal), 6.0, 1e-12);
}

TEST(Spectrum, OneValueHasRankOne) {
  const std::vector<double> one{7.0, 0.0, 0.0};
  EXPECT_DOUBLE_EQ(effective_rank(one), 1.0);
  EXPECT_DOUBLE_EQ(stable_rank(one), 1.0);
}

TEST(Spectrum, EffectiveRankIsTheExponentialOfTheEntropy) {
  // p = 1/2, 1/4, 1/4: entropy 3/2 ln 2.
  EXPECT_NEAR(effective_rank(std::vector<double>{2.0, 1.0, 1.0}), std::pow(2.0, 1.5), 1e-12);
  EXPECT_NEAR(stable_rank(std::vector<double>{2.0, 1.0, 1.0}), 1.5, 1e-12);
}

TEST(Spectrum, ZeroMatrix) {
  const std::vector<double> zero(3, 0.0);
  EXPECT_EQ(effective_rank(zero), 0.0);
  EXPECT_EQ(stable_rank(zero), 0.0);
  EXPECT_EQ(kept_energy(zero, 1), 1.0);
  EXPECT_EQ(rank_for_energy(zero, 1.0), 1);
}

TEST(Spectrum, KeptEnergyIsTheShareOfSquares) {
  const std::vector<double> sigma{3.0, 2.0, 1.0};
  EXPECT_NEAR(kept_energy(sigma, 1), 9.0 / 14.0, 1e-15);
  EXPECT_NEAR(kept_energy(sigma, 2), 13.0 / 14.0, 1e-15);
  EXPECT_EQ(kept_energy(sigma, 3), 1.0);
  EXPECT_EQ(kept_energy(sigma, 9), 1.0);
}

TEST(Spectrum, LeastRankThatKeepsEnough) {
  const std::vector<double> sigma{3.0, 2.0, 1.0, 0.0};
  EXPECT_EQ(rank_for_energy(sigma, 0.0), 1);
  EXPECT_EQ(rank_for_energy(sigma, 0.6), 1);
  EXPECT_EQ(rank_for_energy(sigma, 0.65), 2);
  EXPECT_EQ(rank_for_energy(sigma, 0.95), 3);
  EXPECT_EQ(rank_for_energy(sigma, 1.0), 3);
}

}  // namespace
}  // namespace ossature
