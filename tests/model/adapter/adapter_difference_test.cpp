#include "model/adapter/adapter_difference.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include "tests/support/tensor_file.h"

namespace ossature {
namespace {

Lora random_lora(std::vector<std::string> modules, std::vector<std::string> parameters, std::int64_t r,
                 std::uint64_t seed) {
  LoraConfig config;
  config.r = r;
  config.lora_alpha = 3.0;
  config.target_modules = std::move(modules);
  config.target_parameters = std::move(parameters);
  Lora lora(config, read_config(testing::small("hf") / "config.json"), seed);
  at::manual_seed(seed);
  lora.parameters().values().normal_();
  return lora;
}

at::Tensor delta(const Lora& lora, const std::string& name) {
  for (const LoraTarget& target : lora.targets()) {
    if (target.name == name)
      return at::matmul(lora.b(target).detach().to(at::kDouble), lora.a(target).detach().to(at::kDouble)) *
             target.scale;
  }
  return at::zeros({1}, at::kDouble);
}

TEST(AdapterDifference, NormsAndProductAreThoseOfTheDeltas) {
  const Lora first = random_lora({"q_proj"}, {"mlp.experts.down_proj"}, 3, 1);
  const Lora second = random_lora({"q_proj", "1.self_attn.o_proj"}, {"0.mlp.experts.down_proj"}, 2, 2);
  const std::vector<TargetDifference> differences = compare(first, second);
  ASSERT_EQ(differences.size(), 7U);  // q_proj and down_proj of three layers, one o_proj
  for (const TargetDifference& found : differences) {
    const at::Tensor a = delta(first, found.name), b = delta(second, found.name);
    const auto near = [&](double value, const at::Tensor& expected) {
      EXPECT_NEAR(value, expected.item<double>(), 1e-6 * (a.norm() + b.norm()).item<double>()) << found.name;
    };
    near(found.first_norm, a.norm());
    near(found.second_norm, b.norm());
    near(found.difference_norm, (a - b).norm());
    EXPECT_NEAR(found.inner_product, (a * b).sum().item<double>(), 1e-9 * (a.norm() * b.norm()).item<double>() + 1e-12);
  }
}

TEST(AdapterDifference, OfAnAdapterWithItselfIsZero) {
  const Lora lora = random_lora({"q_proj"}, {"mlp.experts.gate_up_proj", "mlp.router.weight"}, 4, 3);
  for (const TargetDifference& found : compare(lora, lora)) {
    EXPECT_EQ(found.difference_norm, 0.0) << found.name;
    EXPECT_NEAR(found.inner_product, found.first_norm * found.second_norm, 1e-9 * found.inner_product);
  }
}

}  // namespace
}  // namespace ossature
