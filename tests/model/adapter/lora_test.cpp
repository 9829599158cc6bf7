// Which weights a configuration picks, with which rank and scale, as PEFT does; and how the pairs begin.
#include "model/adapter/lora.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include <ATen/ATen.h>

#include "tests/support/tensor_file.h"

namespace ossature {
namespace {

const ModelConfig& model() {  // hidden 32, intermediate 64, 3 layers, 4 experts, 4 and 2 heads of 16
  static const ModelConfig config = read_config(testing::small("hf") / "config.json");
  return config;
}

/// "LAYER SLOT" of each target, in order.
std::vector<std::string> picked(const LoraConfig& config) {
  std::vector<std::string> names;
  for (const LoraTarget& target : lora_targets(config, model()))
    names.push_back(std::to_string(target.layer) + " " + slot_name(target.slot));
  return names;
}

using Names = std::vector<std::string>;

TEST(LoraTargets, AModuleIsNamedByItsEnd) {
  LoraConfig config;
  config.target_modules = {"v_proj"};
  EXPECT_EQ(picked(config), (Names{"0 v_proj", "1 v_proj", "2 v_proj"}));
  config.target_modules = {"self_attn.v_proj"};
  EXPECT_EQ(picked(config), (Names{"0 v_proj", "1 v_proj", "2 v_proj"}));
  config.target_modules = {"1.self_attn.v_proj", "model.layers.2.self_attn.o_proj"};
  EXPECT_EQ(picked(config), (Names{"1 v_proj", "2 o_proj"}));
  config.target_modules = {"o_proj", "q_proj", "q_proj", "k_proj", "v_proj"};  // in the order of a layer, none twice
  EXPECT_EQ(picked(config), (Names{"0 q_proj", "0 k_proj", "0 v_proj", "0 o_proj", "1 q_proj", "1 k_proj", "1 v_proj",
                                   "1 o_proj", "2 q_proj", "2 k_proj", "2 v_proj", "2 o_proj"}));
}

TEST(LoraTargets, AParameterIsNamedByItsEnd) {
  LoraConfig config;
  config.target_parameters = {"mlp.experts.down_proj"};
  EXPECT_EQ(picked(config), (Names{"0 experts.down_proj", "1 experts.down_proj", "2 experts.down_proj"}));
  config.target_parameters = {"2.mlp.experts.gate_up_proj", "mlp.router.weight"};
  EXPECT_EQ(picked(config), (Names{"0 router", "1 router", "2 router", "2 experts.gate_up_proj"}));
  config.target_parameters = {"gate_up_proj"};
  EXPECT_EQ(picked(config), (Names{"0 experts.gate_up_proj", "1 experts.gate_up_proj", "2 experts.gate_up_proj"}));
}

TEST(LoraTargets, LayersRestrictModulesButNoFullNameAndNoParameter) {
  LoraConfig config;
  config.target_modules = {"q_proj", "model.layers.0.self_attn.k_proj", "0.self_attn.v_proj"};
  config.target_parameters = {"mlp.experts.down_proj"};
  config.layers_to_transform = {0, 2, 2};
  EXPECT_EQ(picked(config), (Names{"0 q_proj", "0 k_proj", "0 v_proj", "0 experts.down_proj", "1 experts.down_proj",
                                   "2 q_proj", "2 experts.down_proj"}));
  config.layers_to_transform = {0};
  config.target_modules = {"model.layers.1.self_attn.q_proj"};
  config.target_parameters = {};
  EXPECT_EQ(picked(config), (Names{"1 q_proj"}));
}

TEST(LoraTargets, WhatPicksNothingIsRefused) {
  const auto refused = [](const LoraConfig& config, const std::string& mention) {
    try {
      (void)lora_targets(config, model());
      ADD_FAILURE() << mention;
    } catch (const CheckpointError& error) {
      EXPECT_NE(std::string(error.what()).find(mention), std::string::npos) << error.what();
    }
  };
  for (const char* name : {"proj", "", ".q_proj", "Q_proj", "q_proj.weight", "mlp.experts.down_proj", "self_attn",
                           "router", "mlp.router", "lm_head", "3.self_attn.q_proj", "ayers.0.self_attn.q_proj"}) {
    LoraConfig config;
    config.target_modules = {"v_proj", name};
    refused(config, "lora.target_modules: \"" + std::string(name) + "\"");
  }
  for (const char* name : {"q_proj", "up_proj", "experts", "mlp.experts", "", "3.mlp.experts.down_proj"}) {
    LoraConfig config;
    config.target_parameters = {"mlp.experts.down_proj", name};
    refused(config, "lora.target_parameters: \"" + std::string(name) + "\"");
  }
  for (const char* name : {"weight", "bias", "sinks", "q_proj.weight", "embed_tokens.weight", "norm.weight"}) {
    LoraConfig config;
    config.target_parameters = {name};
    refused(config, "lora.target_parameters: \"" + std::string(name) + "\" matches ");
  }
  refused({}, "no weight is targeted");
  LoraConfig layers;
  layers.target_modules = {"q_proj"};
  layers.layers_to_transform = {3};
  refused(layers, "lora.layers_to_transform: 3");
  layers.layers_to_transform = {-1};
  refused(layers, "lora.layers_to_transform: -1");
  LoraConfig rank;
  rank.target_modules = {"q_proj"};
  for (const std::int64_t r : {std::int64_t{0}, std::int64_t{-1}, kMaxLoraRank + 1}) {
    rank.r = r;
    refused(rank, "lora.r: " + std::to_string(r));
    rank.r = 2;
    rank.rank_pattern = {{"q_proj", r}};
    refused(rank, "lora.r: " + std::to_string(r));
    rank.rank_pattern = {};
  }
}

/// Rank and scale of the target of that name.
std::pair<std::int64_t, double> rank_and_scale(const LoraConfig& config, const std::string& name) {
  for (const LoraTarget& target : lora_targets(config, model())) {
    if (target.name == name) return {target.r, target.scale};
  }
  throw std::out_of_range(name);
}

TEST(LoraTargets, PatternsMatchTheWholeEndOfAName) {
  LoraConfig config;
  config.r = 8;
  config.lora_alpha = 16.0;
  config.target_modules = {"q_proj", "v_proj"};
  config.target_parameters = {"mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.router.weight"};
  config.rank_pattern = {
      {"layers.2.self_attn.q_proj", 3}, {"experts.*", 1}, {"_proj", 5}, {"[12].self_attn.v_proj", 4}};
  config.alpha_pattern = {{"v_proj", 6.0}, {"mlp.router.weight", 2.5}, {"self_attn", 100.0}};
  const std::string layer = "model.layers.";
  const auto expect = [&](const std::string& name, std::int64_t r, double alpha) {
    EXPECT_EQ(rank_and_scale(config, layer + name), (std::pair{r, alpha / static_cast<double>(r)})) << name;
  };
  expect("0.self_attn.q_proj", 8, 16.0);  // "_proj" and "self_attn" match neither from a dot nor to the end
  expect("2.self_attn.q_proj", 3, 16.0);
  expect("0.self_attn.v_proj", 8, 6.0);
  expect("1.self_attn.v_proj", 4, 6.0);
  expect("1.mlp.experts.gate_up_proj", 1, 16.0);
  expect("1.mlp.experts.down_proj", 1, 16.0);
  expect("0.mlp.router.weight", 8, 2.5);
  config.use_rslora = true;
  EXPECT_DOUBLE_EQ(rank_and_scale(config, layer + "2.self_attn.q_proj").second, 16.0 / std::sqrt(3.0));
  EXPECT_DOUBLE_EQ(rank_and_scale(config, layer + "0.self_attn.v_proj").second, 6.0 / std::sqrt(8.0));
}

TEST(LoraTargets, OfTwoPatternsTheFirstInTheAlphabetCounts) {
  LoraConfig config;
  config.target_modules = {"q_proj"};
  config.rank_pattern = {{"q_proj", 7}, {"layers.1.self_attn.q_proj", 3}};
  EXPECT_EQ(rank_and_scale(config, "model.layers.1.self_attn.q_proj").first, 3);
  EXPECT_EQ(rank_and_scale(config, "model.layers.0.self_attn.q_proj").first, 7);
}

TEST(LoraTargets, ShapesOfEveryPair) {
  LoraConfig config;
  config.r = 3;
  config.target_modules = {"0.self_attn.q_proj", "0.self_attn.k_proj", "0.self_attn.v_proj", "0.self_attn.o_proj"};
  config.target_parameters = {"0.mlp.router.weight", "0.mlp.experts.gate_up_proj", "0.mlp.experts.down_proj"};
  using Shape = std::vector<std::int64_t>;
  std::vector<std::pair<Shape, Shape>> shapes;
  for (const LoraTarget& target : lora_targets(config, model())) shapes.emplace_back(target.a_shape, target.b_shape);
  EXPECT_EQ(shapes, (std::vector<std::pair<Shape, Shape>>{{{3, 32}, {64, 3}},
                                                          {{3, 32}, {32, 3}},
                                                          {{3, 32}, {32, 3}},
                                                          {{3, 64}, {32, 3}},
                                                          {{3, 32}, {4, 3}},
                                                          {{4, 3, 32}, {4, 128, 3}},
                                                          {{4, 3, 64}, {4, 32, 3}}}));
}

LoraConfig everything(std::int64_t r) {
  LoraConfig config;
  config.r = r;
  config.target_modules = {"q_proj", "k_proj", "v_proj", "o_proj"};
  config.target_parameters = {"mlp.router.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"};
  return config;
}

TEST(Lora, SummaryCountsEachGroup) {
  LoraConfig config = everything(2);
  config.layers_to_transform = {1};
  config.rank_pattern = {{"2.mlp.experts.down_proj", 5}};
  const Lora lora(config, model(), 1);
  // r (in + out) a weight, of experts E times that.
  const std::vector<std::pair<std::string, std::int64_t>> lines = {
      {"q_proj                1 layer, r 2, ", 2 * (32 + 64)},
      {"k_proj                1 layer, r 2, ", 2 * (32 + 32)},
      {"v_proj                1 layer, r 2, ", 2 * (32 + 32)},
      {"o_proj                1 layer, r 2, ", 2 * (64 + 32)},
      {"router                3 layers, r 2, ", 3 * 2 * (32 + 4)},
      {"experts.gate_up_proj  3 layers, r 2, ", 3 * 4 * 2 * (32 + 128)},
      {"experts.down_proj     3 layers, r 2/5, ", 4 * (2 + 2 + 5) * (64 + 32)}};
  std::string expected;
  std::int64_t total = 0;
  for (const auto& [line, count] : lines) {
    expected += "  " + line + std::to_string(count) + " parameters\n";
    total += count;
  }
  expected += "  trainable in all      " + std::to_string(total) + " parameters\n";
  EXPECT_EQ(lora.summary(), expected);
  EXPECT_EQ(lora.parameters().numel(), total);
}

TEST(Lora, BeginsWithRandomAAndZeroB) {
  const Lora lora(everything(16), model(), 7);
  for (const LoraTarget& target : lora.targets()) {
    const at::Tensor a = lora.a(target).detach().to(at::kDouble);
    const double bound = 1.0 / std::sqrt(static_cast<double>(target.a_shape.back()));
    EXPECT_EQ(lora.b(target).detach().abs().max().item<float>(), 0.0f) << target.name;
    EXPECT_LE(a.abs().max().item<double>(), bound) << target.name;
    // Uniform: 512 draws or more, so these bounds are five standard errors wide.
    EXPECT_GT(a.abs().max().item<double>(), 0.97 * bound) << target.name;
    const double count = static_cast<double>(a.numel()), deviation = bound / std::sqrt(3.0);
    EXPECT_LT(std::abs(a.mean().item<double>()), 5.0 * deviation / std::sqrt(count)) << target.name;
    EXPECT_NEAR(a.square().mean().item<double>(), deviation * deviation,
                5.0 * deviation * deviation * std::sqrt(0.8 / count))
        << target.name;
    EXPECT_TRUE(lora.a(target).requires_grad() && lora.b(target).requires_grad());
  }
}

TEST(Lora, SeedDecidesEveryValue) {
  const Lora first(everything(2), model(), 7), again(everything(2), model(), 7), other(everything(2), model(), 8);
  EXPECT_TRUE(at::equal(first.parameters().values(), again.parameters().values()));
  std::set<double> sums;
  for (const Lora* lora : {&first, &other}) {
    for (const LoraTarget& target : lora->targets())
      EXPECT_TRUE(sums.insert(lora->a(target).detach().to(at::kDouble).sum().item<double>()).second) << target.name;
  }
}

TEST(Lora, AttachSharesThePairs) {
  LoraConfig config = everything(2);
  config.lora_dropout = 0.25;
  config.lora_alpha = 3.0;
  config.layers_to_transform = {1};
  config.target_parameters = {"2.mlp.experts.down_proj"};
  const Lora lora(config, model(), 3);
  Transformer transformer(Checkpoint(testing::small("hf")), at::kFloat);
  lora.attach(transformer);
  std::size_t attached = 0;
  for (Layer& layer : transformer.layers()) {
    for (const LoraSlot slot : {LoraSlot::kQProj, LoraSlot::kKProj, LoraSlot::kVProj, LoraSlot::kOProj,
                                LoraSlot::kRouter, LoraSlot::kGateUpProj, LoraSlot::kDownProj})
      attached += low_rank(layer, slot).defined() ? 1 : 0;
  }
  EXPECT_EQ(attached, lora.targets().size());
  for (const LoraTarget& target : lora.targets()) {
    const LowRank& pair = low_rank(transformer.layers()[static_cast<std::size_t>(target.layer)], target.slot);
    EXPECT_TRUE(pair.a.is_same(lora.a(target)) && pair.b.is_same(lora.b(target))) << target.name;
    EXPECT_EQ(pair.scale, 1.5);
    EXPECT_EQ(pair.dropout, 0.25);
  }
}

}  // namespace
}  // namespace ossature
