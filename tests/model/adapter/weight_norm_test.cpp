#include "model/adapter/weight_norm.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include "tests/support/tensor_file.h"

namespace ossature {
namespace {

double expected(const at::Tensor& weight) {
  return weight.to(at::kDouble).norm().item<double>();
}

TEST(WeightNorm, OfDenseWeights) {
  at::manual_seed(1);
  const at::Tensor weight = at::randn({37, 29}).to(at::kBFloat16);
  EXPECT_NEAR(weight_norm(weight), expected(weight), 1e-12 * expected(weight));
  EXPECT_EQ(weight_norm(at::zeros({3, 3})), 0.0);
}

TEST(WeightNorm, OfExpertsAsIfDecoded) {
  for (const char* layout : {"hf", "hf-bf16", "openai"}) {
    const Checkpoint checkpoint(testing::small(layout));
    for (const TensorShape& tensor : tensor_shapes(checkpoint.config())) {
      if (!tensor.is_expert_weight) continue;
      const ExpertWeight weight = checkpoint.expert_weight(tensor.name);
      for (std::int64_t e = 0; e < weight.num_experts(); ++e) {
        const double wanted =
            expected(weight.is_packed() ? mxfp4_decode_expert(weight.packed, e, at::kFloat) : weight.dense[e]);
        EXPECT_NEAR(weight_norm(weight, e), wanted, 1e-12 * wanted) << layout << " " << tensor.name << " " << e;
      }
    }
  }
}

// Every code at the smallest, a middle and the largest scale.
TEST(WeightNorm, OfEveryCodeAndExtremeScales) {
  Mxfp4Tensor packed{at::arange(0, 256, at::kByte).view({1, 16, 1, 16}), at::full({1, 16, 1}, 127, at::kByte)};
  for (const int scale : {0, 127, kMxfp4MaxScale}) {
    packed.scales.fill_(scale);
    const double wanted = expected(mxfp4_decode_expert(packed, 0, at::kFloat));
    EXPECT_NEAR(weight_norm(ExpertWeight{packed, {}}, 0), wanted, 1e-12 * wanted) << scale;
  }
}

}  // namespace
}  // namespace ossature
