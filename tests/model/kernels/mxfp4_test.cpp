#include "model/kernels/mxfp4.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <ATen/ATen.h>

#include "model/checkpoint/checkpoint.h"
#include "tests/support/golden.h"

namespace ossature {
namespace {

/// E2M1 as the standard gives it: sign, two exponent bits of bias 1, one mantissa bit.
double e2m1(int code) {
  const int exponent = (code >> 1) & 3, mantissa = code & 1;
  const double magnitude = exponent == 0 ? 0.5 * mantissa : std::ldexp(1.0 + 0.5 * mantissa, exponent - 1);
  return (code & 8) != 0 ? -magnitude : magnitude;
}

/// One row for each scale byte that a checkpoint may carry, with all codes in both nibbles of a byte.
Mxfp4Tensor every_code_and_scale() {
  constexpr std::int64_t kRows = kMxfp4MaxScale + 1;
  Mxfp4Tensor all{at::empty({1, kRows, 1, kMxfp4BlockBytes}, at::kByte), at::empty({1, kRows, 1}, at::kByte)};
  for (std::int64_t row = 0; row < kRows; ++row) {
    all.scales.data_ptr<std::uint8_t>()[row] = static_cast<std::uint8_t>(row);
    for (int i = 0; i < kMxfp4BlockBytes; ++i) {
      all.blocks.data_ptr<std::uint8_t>()[row * kMxfp4BlockBytes + i] = static_cast<std::uint8_t>(i | (15 - i) << 4);
    }
  }
  return all;
}

/// Random codes; scale bytes from `min_scale` to `max_scale`.
Mxfp4Tensor random_weight(std::int64_t experts, std::int64_t rows, std::int64_t groups, int min_scale, int max_scale) {
  at::manual_seed(7);
  return {at::randint(0, 256, {experts, rows, groups, kMxfp4BlockBytes}, at::kByte),
          at::randint(min_scale, max_scale + 1, {experts, rows, groups}, at::kByte)};
}

std::vector<std::uint32_t> bits(const at::Tensor& values) {
  const at::Tensor plain = values.contiguous();
  const auto* first = reinterpret_cast<const std::uint32_t*>(plain.const_data_ptr<float>());
  return {first, first + plain.numel()};
}

TEST(Mxfp4Decode, EveryCodeAtEveryScaleIsExact) {
  const Mxfp4Tensor all = every_code_and_scale();
  const at::Tensor narrow = mxfp4_decode_expert(all, 0, at::kBFloat16), wide = mxfp4_decode_expert(all, 0, at::kFloat);
  ASSERT_EQ(narrow.scalar_type(), at::kBFloat16);
  ASSERT_EQ(wide.scalar_type(), at::kFloat);
  for (std::int64_t scale = 0; scale <= kMxfp4MaxScale; ++scale) {
    for (int i = 0; i < kMxfp4BlockSize; ++i) {
      const int code = i % 2 == 0 ? i / 2 : 15 - i / 2;  // the lower nibble is the even element
      const double expected = std::ldexp(e2m1(code), static_cast<int>(scale) - 127);
      const std::int64_t at = scale * kMxfp4BlockSize + i;
      const auto low = static_cast<float>(narrow.const_data_ptr<at::BFloat16>()[at]);
      const float high = wide.const_data_ptr<float>()[at];
      ASSERT_EQ(static_cast<double>(low), expected) << "code " << code << " scale " << scale;
      ASSERT_EQ(static_cast<double>(high), expected) << "code " << code << " scale " << scale;
      ASSERT_EQ(std::signbit(low), code >= 8) << "code " << code << " scale " << scale;
      ASSERT_EQ(std::signbit(high), code >= 8) << "code " << code << " scale " << scale;
    }
  }
}

TEST(Mxfp4Decode, EveryKernelGivesTheSameBits) {
  constexpr std::int64_t kRows = 300, kGroups = 7;
  const Mxfp4Tensor weight = random_weight(1, kRows, kGroups, 0, kMxfp4MaxScale);
  const auto* blocks = weight.blocks.const_data_ptr<std::uint8_t>();
  const auto* scales = weight.scales.const_data_ptr<std::uint8_t>();
  // From the second row on, and with a guard behind: neither neighbour is touched.
  constexpr std::size_t kValues = (kRows - 2) * kGroups * kMxfp4BlockSize;
  const auto decoded = [&](std::optional<Mxfp4Kernel> kernel) {
    std::vector<std::uint16_t> out(kValues + 1, 0xabcd);
    mxfp4_decode_rows(blocks, scales, 1, kRows - 2, kGroups, out.data(), kernel);
    return out;
  };
  const auto plain = decoded(Mxfp4Kernel::kPlain);
  EXPECT_EQ(plain.back(), 0xabcd);
  EXPECT_EQ(mxfp4_kernels().back(), Mxfp4Kernel::kPlain);
  EXPECT_EQ(decoded(std::nullopt), plain);
  for (const Mxfp4Kernel kernel : mxfp4_kernels()) EXPECT_EQ(decoded(kernel), plain) << static_cast<int>(kernel);
}

TEST(Mxfp4Decode, ExpertsAreDecodedOneByOneOrTogether) {
  const Mxfp4Tensor weight = random_weight(3, 130, 4, 100, 140);
  for (const auto dtype : {at::kBFloat16, at::kFloat}) {
    const at::Tensor together = mxfp4_decode(weight, dtype);
    ASSERT_EQ(together.sizes(), at::IntArrayRef({3, 130, 128}));
    for (std::int64_t e = 0; e < 3; ++e) {
      EXPECT_TRUE(at::equal(together[e], mxfp4_decode_expert(weight, e, dtype)));
    }
  }
  const at::Tensor scratch = at::empty({130, 128}, at::kBFloat16);
  const at::Tensor decoded = mxfp4_decode_expert(weight, 2, at::kBFloat16, scratch);
  EXPECT_EQ(decoded.data_ptr(), scratch.data_ptr());
  EXPECT_TRUE(at::equal(scratch, mxfp4_decode(weight, at::kBFloat16)[2]));
}

class Mxfp4Golden : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, Mxfp4Golden, ::testing::ValuesIn(testing::golden_dirs()), testing::golden_test_name);

TEST_P(Mxfp4Golden, DecodesToThePeersBfloat16Weights) {
  const std::filesystem::path dir = GetParam();
  const Checkpoint packed(dir / "hf"), dense(dir / "hf-bf16");
  for (const TensorShape& tensor : tensor_shapes(packed.config())) {
    if (!tensor.is_expert_weight) continue;
    const at::Tensor expected = dense.expert_weight(tensor.name).dense;
    const Mxfp4Tensor weight = packed.expert_weight(tensor.name).packed;
    EXPECT_TRUE(at::equal(mxfp4_decode(weight, at::kBFloat16), expected)) << tensor.name;
    EXPECT_TRUE(at::equal(mxfp4_decode(mxfp4_encode(expected), at::kBFloat16), expected)) << tensor.name;
  }
}

TEST(Mxfp4Encode, ValuesOnTheGridComeBackToTheBit) {
  const at::Tensor all = mxfp4_decode(every_code_and_scale(), at::kFloat);
  EXPECT_EQ(bits(mxfp4_decode(mxfp4_encode(all), at::kFloat)), bits(all));
  EXPECT_EQ(bits(mxfp4_round(all)), bits(all));
  // Blocks that lack the large codes, so that another scale than the given one may be chosen.
  for (int largest = 0; largest < 8; ++largest) {
    Mxfp4Tensor small = every_code_and_scale();
    small.blocks =
        at::bitwise_or(at::bitwise_and(small.blocks, 0x88),
                       at::bitwise_and(small.blocks, 0x77).bitwise_and(0x07).clamp_max(largest).to(at::kByte));
    const at::Tensor values = mxfp4_decode(small, at::kFloat);
    ASSERT_EQ(bits(mxfp4_decode(mxfp4_encode(values), at::kFloat)), bits(values)) << "largest code " << largest;
    ASSERT_EQ(bits(mxfp4_round(values)), bits(values)) << "largest code " << largest;
  }
}

TEST(Mxfp4Encode, Bfloat16AndFloat32InAnyStrideAgree) {
  at::manual_seed(3);
  const at::Tensor narrow = at::randn({64, 2, 40}).to(at::kBFloat16);
  const at::Tensor transposed = narrow.permute({2, 1, 0});  // [40, 2, 64]
  const Mxfp4Tensor a = mxfp4_encode(transposed), b = mxfp4_encode(transposed.to(at::kFloat).contiguous());
  ASSERT_EQ(a.blocks.sizes(), at::IntArrayRef({40, 2, 2, kMxfp4BlockBytes}));
  ASSERT_EQ(a.scales.sizes(), at::IntArrayRef({40, 2, 2}));
  EXPECT_TRUE(at::equal(a.blocks, b.blocks));
  EXPECT_TRUE(at::equal(a.scales, b.scales));
  EXPECT_TRUE(at::equal(mxfp4_round(transposed), mxfp4_decode(a, at::kFloat)));
}

/// Squared error of a block at its best codes for one scale byte.
double least_error(const float* values, int scale) {
  double sum = 0;
  for (int i = 0; i < kMxfp4BlockSize; ++i) {
    double least = std::numeric_limits<double>::infinity();
    for (int code = 0; code < 16; ++code) {
      least = std::min(least, std::pow(values[i] - std::ldexp(e2m1(code), scale - 127), 2));
    }
    sum += least;
  }
  return sum;
}

TEST(Mxfp4Encode, NoNeighbouringScaleAndNoCodeIsBetter) {
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  int saturated = 0, doubled = 0;
  for (int trial = 0; trial < 4000; ++trial) {
    const int exponent = static_cast<int>(random() % 270) - 148;  // from the smallest subnormal to near the largest
    at::Tensor block = at::empty({1, kMxfp4BlockSize});
    float* values = block.data_ptr<float>();
    for (int i = 0; i < kMxfp4BlockSize; ++i) values[i] = std::ldexp(normal(random), exponent);
    const Mxfp4Tensor encoded = mxfp4_encode(block);
    const int scale = encoded.scales.const_data_ptr<std::uint8_t>()[0];
    ASSERT_LE(scale, kMxfp4MaxScale);
    const at::Tensor decoded =
        mxfp4_decode_expert({encoded.blocks.unsqueeze(0), encoded.scales.unsqueeze(0)}, 0, at::kFloat);
    double error = 0;
    for (int i = 0; i < kMxfp4BlockSize; ++i) {
      error += std::pow(static_cast<double>(decoded.const_data_ptr<float>()[i]) - static_cast<double>(values[i]), 2);
    }
    ASSERT_NEAR(error / least_error(values, scale), 1.0, 1e-9);
    // Floor rule (largest in [4, 8) steps) and ceil rule (largest in (3, 6]).
    const double largest = block.abs().max().item<double>();
    const int floor_scale = std::clamp(static_cast<int>(std::floor(std::log2(largest))) - 2 + 127, 0, kMxfp4MaxScale);
    const int ceil_scale = std::clamp(static_cast<int>(std::ceil(std::log2(largest / 6))) + 127, 0, kMxfp4MaxScale);
    ASSERT_LE(error, std::min(least_error(values, floor_scale), least_error(values, ceil_scale)) * (1 + 1e-5));
    saturated += floor_scale != ceil_scale && scale == floor_scale;
    doubled += floor_scale != ceil_scale && scale == ceil_scale;
  }
  EXPECT_GT(saturated, 100);  // both rules win at times
  EXPECT_GT(doubled, 100);
}

TEST(Mxfp4Encode, TiesGoToTheEvenCode) {
  at::Tensor block = at::zeros({1, kMxfp4BlockSize});
  const std::vector<std::pair<float, float>> ties = {{0.25f, 0.0f}, {0.75f, 1.0f}, {1.25f, 1.0f}, {1.75f, 2.0f},
                                                     {2.5f, 2.0f},  {3.5f, 4.0f},  {5.0f, 4.0f},  {-3.5f, -4.0f}};
  float* values = block.data_ptr<float>();
  for (std::size_t i = 0; i < ties.size(); ++i) values[i] = ties[i].first;
  values[31] = 6.0f;
  const at::Tensor rounded = mxfp4_round(block);
  for (std::size_t i = 0; i < ties.size(); ++i) {
    EXPECT_EQ(rounded.const_data_ptr<float>()[i], ties[i].second) << ties[i].first;
  }
}

TEST(Mxfp4Encode, AGaussianKeepsItsKnownShareOfError) {
  at::manual_seed(5);
  const at::Tensor weight = at::randn({512, 2880});
  const double error = ((mxfp4_round(weight) - weight).square().mean() / weight.square().mean()).item<double>();
  // The better of both rules per block; either rule alone gives 0.0130 or more.
  EXPECT_NEAR(error, 0.01242, 0.00010);
}

TEST(Mxfp4Encode, RejectsWhatIsNotFinite) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    for (const auto dtype : {at::kFloat, at::kBFloat16}) {
      at::Tensor weight = at::ones({1000, 64});
      weight[999][63] = bad;
      EXPECT_THROW((void)mxfp4_encode(weight.to(dtype)), CheckpointError);
      EXPECT_THROW((void)mxfp4_round(weight.to(dtype)), CheckpointError);
    }
  }
}

}  // namespace
}  // namespace ossature
