// Norms by group against LibTorch's own of the same tensors and of products that are made.
#include "train/loop/group_norms.h"

#include <gtest/gtest.h>

#include <cmath>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "model/adapter/adapter.h"
#include "model/checkpoint/checkpoint.h"
#include "tests/train/small_run.h"

namespace ossature {
namespace {

TEST(GroupNorms, GroupsOfNames) {
  EXPECT_EQ(parameter_group("model.layers.3.self_attn.q_proj.lora_A"), "q_proj");
  EXPECT_EQ(parameter_group("model.layers.3.self_attn.q_proj.bias"), "q_proj");
  EXPECT_EQ(parameter_group("model.layers.3.mlp.experts.gate_up_proj.lora_B"), "experts.gate_up_proj");
  EXPECT_EQ(parameter_group("model.layers.3.mlp.experts.down_proj_bias"), "experts.down_proj");
  EXPECT_EQ(parameter_group("model.layers.3.mlp.router.weight"), "router");
  EXPECT_EQ(parameter_group("model.layers.3.input_layernorm.weight"), "norms");
  EXPECT_EQ(parameter_group("model.norm.weight"), "norms");
  EXPECT_EQ(parameter_group("model.layers.3.self_attn.sinks"), "sinks");
  EXPECT_EQ(parameter_group("model.embed_tokens.weight"), "embed_tokens");
  EXPECT_EQ(parameter_group("lm_head.weight"), "lm_head");
}

TEST(GroupNorms, OfGradientsAddUpToTheWhole) {
  const Checkpoint base(small_golden() / "hf");
  Lora lora = read_adapter(small_golden() / "adapter", base.config());
  lora.parameters().gradients().normal_();
  const GroupNorms norms = gradient_norms(lora.parameters());
  EXPECT_EQ(norms.size(), 6U);
  double squares = 0.0, q_proj = 0.0;
  for (const auto& [group, norm] : norms) squares += norm * norm;
  const double whole = lora.parameters().gradient_norm();
  EXPECT_NEAR(std::sqrt(squares), whole, 1e-12 * whole);
  for (const LoraTarget& target : lora.targets()) {
    if (target.slot != LoraSlot::kQProj) continue;
    for (const at::Tensor& tensor : {lora.a(target), lora.b(target)})
      q_proj += std::pow(tensor.grad().to(at::kDouble).norm().item<double>(), 2);
  }
  EXPECT_NEAR(norms.at("q_proj"), std::sqrt(q_proj), 1e-12 * std::sqrt(q_proj));
}

TEST(GroupNorms, OfTheAdapterAreThoseOfItsProducts) {
  const Checkpoint base(small_golden() / "hf");
  const Lora lora = read_adapter(small_golden() / "adapter", base.config());
  const GroupNorms norms = adapter_norms(lora);
  const at::NoGradGuard no_grad;
  GroupNorms expected;
  for (const LoraTarget& target : lora.targets()) {
    const at::Tensor delta = target.scale * at::matmul(lora.b(target).to(at::kDouble), lora.a(target).to(at::kDouble));
    expected[slot_name(target.slot)] += delta.square().sum().item<double>();
  }
  ASSERT_EQ(norms.size(), expected.size());
  for (const auto& [group, square] : expected)
    EXPECT_NEAR(norms.at(group), std::sqrt(square), 1e-6 * std::sqrt(square)) << group;
}

TEST(GroupNorms, AreAllZeroBeforeTheFirstStep) {
  const Checkpoint base(small_golden() / "hf");
  LoraConfig config = read_adapter(small_golden() / "adapter", base.config()).config();
  const Lora lora(std::move(config), base.config(), 7);
  for (const auto& [group, norm] : adapter_norms(lora)) EXPECT_EQ(norm, 0.0) << group;
  for (const auto& [group, norm] : gradient_norms(lora.parameters())) EXPECT_EQ(norm, 0.0) << group;
}

}  // namespace
}  // namespace ossature
