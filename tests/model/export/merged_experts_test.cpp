// Merged experts as stored against a float64 merge, encoded by the codec that works on whole tensors.
#include "model/export/merged_experts.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include "tests/support/tensor_file.h"

namespace ossature {
namespace {

/// MXFP4 experts of random codes [3, 80, 64]: rows that are no multiple of those worked on at a time.
Mxfp4Tensor random_experts() {
  at::manual_seed(1);
  return {at::randint(0, 256, {3, 80, 2, 16}, at::kByte), at::randint(118, 123, {3, 80, 2}, at::kByte)};
}

LowRank random_pair(double size) {
  return {at::randn({3, 5, 64}), at::randn({3, 80, 5}) * size, 0.75};
}

at::Tensor merged(const ExpertWeight& base, const LowRank& pair, std::int64_t e) {
  const at::Tensor weight = base.is_packed() ? mxfp4_decode_expert(base.packed, e, at::kFloat) : base.dense[e];
  return weight.to(at::kDouble) + pair.scale * at::matmul(pair.b[e].to(at::kDouble), pair.a[e].to(at::kDouble));
}

TEST(MergedExperts, BlocksAreTheNearestAtTheBasesScales) {
  const Mxfp4Tensor base = random_experts();
  for (const double size : {0.001, 0.01, 0.3}) {
    const LowRank pair = random_pair(size);
    for (std::int64_t e = 0; e < 3; ++e) {
      const Mxfp4Tensor found{merged_blocks(base, pair, e, "x").unsqueeze(0), base.scales.narrow(0, e, 1)};
      const at::Tensor wanted = merged({base, {}}, pair, e), values = mxfp4_decode_expert(found, 0, at::kFloat);
      // No other code is nearer, but for what float32 cannot tell apart.
      const at::Tensor scale = at::exp2(found.scales[0].to(at::kDouble) - 127).repeat_interleave(32, 1);
      at::Tensor least = at::full_like(wanted, 1e30);
      for (const double magnitude : {0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0}) {
        for (const double sign : {-1.0, 1.0}) least = at::minimum(least, (wanted - sign * magnitude * scale).abs());
      }
      const at::Tensor excess = ((values.to(at::kDouble) - wanted).abs() - least) / scale;
      EXPECT_LT(excess.max().item<double>(), 1e-5) << size;
    }
  }
}

TEST(MergedExperts, BlocksOfAZeroDeltaAreTheBases) {
  const Mxfp4Tensor base = random_experts();
  LowRank pair = random_pair(1.0);
  pair.b.zero_();
  for (std::int64_t e = 0; e < 3; ++e) EXPECT_TRUE(at::equal(merged_blocks(base, pair, e, "x"), base.blocks[e]));
}

TEST(MergedExperts, TransposedIsTheMergeInBfloat16) {
  const Mxfp4Tensor packed = random_experts();
  const LowRank pair = random_pair(0.05);
  const at::Tensor dense = at::randn({3, 64, 80}).to(at::kBFloat16).transpose(1, 2);
  for (const ExpertWeight& base : {ExpertWeight{packed, {}}, ExpertWeight{{}, dense}}) {
    for (std::int64_t e = 0; e < 3; ++e) {
      const at::Tensor found = merged_transposed(base, pair, e, "x"), wanted = merged(base, pair, e).t();
      ASSERT_EQ(found.sizes(), wanted.sizes());
      EXPECT_TRUE(found.is_contiguous());
      // One of the two values next to it: balanced_rounding_test has what this is good for.
      EXPECT_TRUE(at::allclose(found.to(at::kDouble), wanted, 1.0 / 128, 1e-6));
      EXPECT_TRUE(at::equal(merged_bfloat16(base, pair, e, "x"), found.t()));
      const at::Tensor plain = base.is_packed() ? mxfp4_decode_expert(packed, e, at::kBFloat16) : dense[e];
      EXPECT_TRUE(at::equal(merged_transposed(base, {}, e, "x"), plain.t()));
    }
  }
}

TEST(MergedExpertsRefuse, ValuesThatAreNotFinite) {
  const Mxfp4Tensor base = random_experts();
  LowRank pair = random_pair(0.1);
  pair.b.select(0, 1).fill_(1e30f);
  pair.a.select(0, 1).fill_(1e30f);
  EXPECT_NO_THROW((void)merged_blocks(base, pair, 0, "x"));
  EXPECT_THROW((void)merged_blocks(base, pair, 1, "x"), CheckpointError);
  EXPECT_THROW((void)merged_transposed({base, {}}, pair, 1, "x"), CheckpointError);
}

}  // namespace
}  // namespace ossature
