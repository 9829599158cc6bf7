// Adapters of adapters: their deltas, written out in float64, are the sums and the best approximations that they claim.
#include "model/adapter/adapter_combination.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "model/adapter/adapter.h"
#include "tests/malformed/scratch.h"
#include "tests/support/small_lora.h"
#include "tests/support/tensor_file.h"

namespace ossature {
namespace {

using testing::small;
using testing::small_config;
using testing::small_lora;

/// Random, and of falling size along the rank, so that what a lower rank loses is neither everything nor nothing.
Lora random_lora(const LoraConfig& config, std::uint64_t seed) {
  Lora lora(config, small_config(), seed);
  at::manual_seed(seed);
  at::NoGradGuard no_grad;
  for (const LoraTarget& target : lora.targets()) {
    at::Tensor b = lora.b(target).detach();
    b.normal_().mul_(at::pow(0.7, at::arange(target.r, at::kFloat)));
  }
  return lora;
}

LoraConfig everything(std::int64_t r, double alpha) {
  LoraConfig config;
  config.r = r;
  config.lora_alpha = alpha;
  config.target_modules = {"q_proj", "k_proj", "v_proj", "o_proj"};
  config.target_parameters = {"mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.router.weight"};
  return config;
}

/// scale * B A of every target, [O, I] or [E, O, I], float64.
std::map<std::string, at::Tensor> deltas(const Lora& lora) {
  std::map<std::string, at::Tensor> all;
  for (const LoraTarget& target : lora.targets()) {
    all[target.name] =
        at::matmul(lora.b(target).detach().to(at::kDouble), lora.a(target).detach().to(at::kDouble)) * target.scale;
  }
  return all;
}

double norm_of(const at::Tensor& tensor) {
  return tensor.norm().item<double>();
}

void expect_deltas(const Lora& lora, const std::map<std::string, at::Tensor>& expected) {
  const auto found = deltas(lora);
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [name, wanted] : expected) {
    ASSERT_EQ(found.count(name), 1U) << name;
    EXPECT_LT(norm_of(found.at(name) - wanted), 1e-6 * norm_of(wanted)) << name;
  }
}

/// The best approximation of rank `r` of a delta, of each expert's on its own, by LibTorch's decomposition.
at::Tensor best(const at::Tensor& delta, std::int64_t r) {
  const auto [u, sigma, vh] = at::linalg_svd(delta, /*full_matrices=*/false);
  return at::matmul(u.narrow(-1, 0, r) * sigma.narrow(-1, 0, r).unsqueeze(-2), vh.narrow(-2, 0, r));
}

TEST(AdapterResize, ToItsOwnRankIsTheSameDelta) {
  const Lora lora = random_lora(everything(4, 6.0), 1);
  const ResizedLora same = resize(lora, small_config(), 4);
  expect_deltas(same.lora, deltas(lora));
  EXPECT_NEAR(same.kept_energy, 1.0, 1e-12);
  // Nor does a larger one add ranks.
  const ResizedLora larger = resize(lora, small_config(), 100);
  for (const LoraTarget& target : larger.lora.targets()) EXPECT_EQ(target.r, 4);
}

TEST(AdapterResize, KeepsTheBestOfTheRankAndSaysHowMuch) {
  const Lora lora = random_lora(everything(4, 6.0), 2);
  const auto before = deltas(lora);
  const ResizedLora cut = resize(lora, small_config(), 2);
  std::map<std::string, at::Tensor> expected;
  double kept = 0.0, all = 0.0;
  for (const auto& [name, delta] : before) {
    expected[name] = best(delta, 2);
    kept += std::pow(norm_of(expected[name]), 2);
    all += std::pow(norm_of(delta), 2);
  }
  expect_deltas(cut.lora, expected);
  EXPECT_NEAR(cut.kept_energy, kept / all, 1e-9);
  EXPECT_LT(cut.kept_energy, 0.95) << "a test that cuts nothing shows nothing";
  ASSERT_EQ(cut.targets.size(), before.size());
  for (const ResizedTarget& target : cut.targets) {
    const at::Tensor &delta = before.at(target.name), &part = expected.at(target.name);
    EXPECT_EQ(target.r_before, 4);
    EXPECT_EQ(target.r, 2);
    EXPECT_NEAR(target.kept_energy, std::pow(norm_of(part) / norm_of(delta), 2), 1e-9) << target.name;
    const auto energy = [](const at::Tensor& x) { return x.square().sum({-2, -1}); };
    EXPECT_NEAR(target.least_kept_energy, (energy(part) / energy(delta)).min().item<double>(), 1e-9) << target.name;
  }
}

TEST(AdapterResize, ToAnEnergyTakesTheLeastRankOfEachWeight) {
  LoraConfig config = everything(4, 4.0);
  config.rank_pattern = {{"q_proj", 6}, {"layers.1.mlp.experts.down_proj", 5}};
  const Lora lora = random_lora(config, 3);
  const ResizedLora cut = resize(lora, small_config(), 100, 0.9);
  const auto before = deltas(lora);
  std::map<std::int64_t, int> ranks;
  for (const ResizedTarget& target : cut.targets) {
    const at::Tensor sigma = at::linalg_svdvals(before.at(target.name));
    const auto kept = [&](std::int64_t r) {
      return (sigma.narrow(-1, 0, r).square().sum(-1) / sigma.square().sum(-1)).min().item<double>();
    };
    EXPECT_GE(kept(target.r), 0.9) << target.name;
    EXPECT_TRUE(target.r == 1 || kept(target.r - 1) < 0.9) << target.name;
    EXPECT_GE(target.least_kept_energy, 0.9) << target.name;
    ++ranks[target.r];
  }
  EXPECT_GT(ranks.size(), 1U) << "ranks that are all equal show nothing";
}

TEST(AdapterResize, FilesSayTheSame) {
  LoraConfig config = everything(4, 4.0);
  config.rank_pattern = {{"q_proj", 6}, {"layers.1.mlp.experts.down_proj", 2}};
  config.use_rslora = true;
  const ResizedLora cut = resize(random_lora(config, 4), small_config(), 5, 0.93);
  const Scratch scratch;
  write_adapter(cut.lora, scratch.path() / "adapter", "base");
  expect_deltas(read_adapter(scratch.path() / "adapter", small_config()), deltas(cut.lora));
}

TEST(AdapterResize, UntrainedAdapter) {
  const Lora lora(everything(4, 4.0), small_config(), 5);
  const ResizedLora cut = resize(lora, small_config(), 4, 0.9);
  EXPECT_EQ(cut.kept_energy, 1.0);
  for (const LoraTarget& target : cut.lora.targets()) {
    EXPECT_EQ(target.r, 1);
    EXPECT_EQ(cut.lora.b(target).count_nonzero().item<std::int64_t>(), 0);
  }
}

TEST(AdapterCombination, CatIsTheWeightedSum) {
  LoraConfig mixed = everything(3, 9.0);
  mixed.rank_pattern = {{"o_proj", 1}, {"layers.2.mlp.experts.gate_up_proj", 5}};
  const Lora first = random_lora(everything(4, 6.0), 6), second = random_lora(mixed, 7);
  const WeightedLora terms[] = {{&first, 0.25}, {&second, -1.5}};
  auto expected = deltas(first);
  for (auto& [name, delta] : expected) delta = 0.25 * delta - 1.5 * deltas(second).at(name);
  const Lora sum = combine(terms, small_config(), Combination::kCat);
  expect_deltas(sum, expected);
  for (const LoraTarget& target : sum.targets()) {
    const std::int64_t r = target.slot == LoraSlot::kOProj                             ? 5
                           : target.slot == LoraSlot::kGateUpProj && target.layer == 2 ? 9
                                                                                       : 7;
    EXPECT_EQ(target.r, r) << target.name;
  }
}

TEST(AdapterCombination, OfUnequalTargetsHasThemAll) {
  const Lora first = random_lora(small_lora({"q_proj", "1.self_attn.o_proj"}, {}), 8);
  const Lora second = random_lora(small_lora({"q_proj"}, {"mlp.experts.down_proj", "2.mlp.router.weight"}), 9);
  const WeightedLora terms[] = {{&first, 2.0}, {&second, 0.5}};
  auto expected = deltas(first);
  for (auto& [name, delta] : expected) delta = 2.0 * delta;
  for (const auto& [name, delta] : deltas(second)) {
    expected[name] = expected.count(name) > 0 ? expected[name] + 0.5 * delta : 0.5 * delta;
  }
  const Lora sum = combine(terms, small_config(), Combination::kCat);
  expect_deltas(sum, expected);
  const Scratch scratch;
  write_adapter(sum, scratch.path() / "adapter", "base");
  expect_deltas(read_adapter(scratch.path() / "adapter", small_config()), expected);
}

TEST(AdapterCombination, SvdIsTheBestApproximationOfTheSum) {
  const Lora first = random_lora(everything(4, 6.0), 10), second = random_lora(everything(2, 2.0), 11);
  const WeightedLora terms[] = {{&first, 1.0}, {&second, -0.5}};
  auto expected = deltas(first);
  for (auto& [name, delta] : expected) delta = best(delta - 0.5 * deltas(second).at(name), 4);
  const ResizedLora sum = combine_svd(terms, small_config());
  for (const LoraTarget& target : sum.lora.targets()) EXPECT_EQ(target.r, 4) << "the larger of 4 and 2";
  expect_deltas(sum.lora, expected);
  for (auto& [name, delta] : expected) delta = best(deltas(first).at(name) - 0.5 * deltas(second).at(name), 1);
  expect_deltas(combine_svd(terms, small_config(), 1).lora, expected);
}

TEST(AdapterCombination, AdapterWithoutItselfIsNothing) {
  const Lora lora = random_lora(everything(4, 6.0), 12);
  const WeightedLora terms[] = {{&lora, 1.0}, {&lora, -1.0}};
  const ResizedLora nothing = combine_svd(terms, small_config());
  for (const LoraTarget& target : nothing.lora.targets()) {
    EXPECT_EQ(nothing.lora.b(target).count_nonzero().item<std::int64_t>(), 0) << target.name;
  }
}

// PEFT's definition, by its formula: (sum sqrt(w) B) (sum sqrt(w) A).
TEST(AdapterCombination, LinearSumsAAndBApart) {
  const Lora first = random_lora(everything(3, 6.0), 13), second = random_lora(everything(3, 1.5), 14);
  const WeightedLora terms[] = {{&first, 0.5}, {&second, -2.0}};
  std::map<std::string, at::Tensor> expected;
  for (const LoraTarget& target : first.targets()) {
    const double w1 = std::sqrt(0.5 * 2.0), w2 = std::sqrt(2.0 * 0.5);
    const at::Tensor b = w1 * first.b(target).detach().to(at::kDouble) + w2 * second.b(target).detach().to(at::kDouble);
    const at::Tensor a = w1 * first.a(target).detach().to(at::kDouble) - w2 * second.a(target).detach().to(at::kDouble);
    expected[target.name] = at::matmul(b, a);
  }
  expect_deltas(combine(terms, small_config(), Combination::kLinear), expected);
  const WeightedLora alone[] = {{&first, 0.5}};
  expected = deltas(first);
  for (auto& [name, delta] : expected) delta = 0.5 * delta;
  expect_deltas(combine(alone, small_config(), Combination::kLinear), expected);
}

std::string refused(const std::vector<WeightedLora>& terms, Combination combination) {
  try {
    (void)combine(terms, small_config(), combination);
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(AdapterCombinationRefuses, WhatLinearCannotAdd) {
  const Lora first = random_lora(everything(3, 6.0), 15), larger = random_lora(everything(4, 6.0), 16);
  const Lora fewer = random_lora(small_lora({"q_proj"}, {}), 17);
  const std::string ranks = refused({{&first, 1.0, "one"}, {&larger, 1.0, "two"}}, Combination::kLinear);
  EXPECT_NE(ranks.find("has rank 4 in two and 3 in one; linear expects equal ranks"), std::string::npos) << ranks;
  const std::string targets = refused({{&first, 1.0}, {&fewer, 1.0}}, Combination::kLinear);
  EXPECT_NE(targets.find("is a target of 1 of the 2 adapters"), std::string::npos) << targets;
}

TEST(AdapterCombinationRefuses, WeightsAndLists) {
  const Lora first = random_lora(small_lora({"q_proj"}, {}), 18);
  EXPECT_NE(refused({}, Combination::kCat).find("no adapter"), std::string::npos);
  const std::string message = refused({{&first, std::nan(""), "mine"}}, Combination::kCat);
  EXPECT_NE(message.find("the weight of mine is not finite"), std::string::npos) << message;
}

}  // namespace
}  // namespace ossature
