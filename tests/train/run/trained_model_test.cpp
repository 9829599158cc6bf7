// What a recipe may ask of the model that it names.
#include "train/run/trained_model.h"

#include <gtest/gtest.h>

#include "model/checkpoint/config.h"

namespace ossature {
namespace {

Recipe small() {
  Recipe recipe;
  recipe.base_model = std::filesystem::path(OSSATURE_SOURCE_DIR) / "tests/golden/small/hf";
  recipe.device = Device::kCpu;
  return recipe;
}

std::string refusal(const Recipe& recipe) {
  try {
    const TrainedModel model(recipe);
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

TEST(TrainedModel, ExceptionsOfRankAndAlphaReachTheirTargets) {
  Recipe recipe = small();
  recipe.lora.rank_pattern = {{"layers.1.self_attn.q_proj", 3}};
  recipe.lora.alpha_pattern = {{"v_proj", 5.0}};
  TrainedModel model(recipe);
  EXPECT_EQ(model.parameters().tensor("model.layers.1.self_attn.q_proj.lora_A").size(0), 3);
  EXPECT_EQ(model.parameters().tensor("model.layers.0.self_attn.q_proj.lora_A").size(0), 8);
  EXPECT_EQ(model.transformer().layers()[2].v_proj.low_rank.scale, 5.0 / 8);
  EXPECT_EQ(model.transformer().layers()[2].k_proj.low_rank.scale, 2.0);
}

TEST(TrainedModelRefuses, ExceptionsThatFitNothing) {
  Recipe recipe = small();
  recipe.lora.rank_pattern = {{"q_prj", 3}};
  EXPECT_TRUE(refusal(recipe).starts_with("lora.rank_pattern: \"q_prj\" is the end of no targeted weight's name"))
      << refusal(recipe);
  recipe.lora.rank_pattern.clear();
  recipe.lora.alpha_pattern = {{"layers.9.self_attn.q_proj", 3.0}};
  EXPECT_TRUE(refusal(recipe).starts_with("lora.alpha_pattern: \"layers.9.self_attn.q_proj\"")) << refusal(recipe);
}

TEST(TrainedModelRefuses, TargetsThatTheModelHasNot) {
  Recipe recipe = small();
  recipe.lora.target_modules = {"q_proj", "w_proj"};
  EXPECT_NE(refusal(recipe).find("w_proj"), std::string::npos) << refusal(recipe);
}

}  // namespace
}  // namespace ossature
