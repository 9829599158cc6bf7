// PEFT's adapter files: keys and layouts by an index computation of our own, and files of every variant there and back.
#include "model/adapter/adapter.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/malformed/scratch.h"
#include "tests/support/small_lora.h"
#include "tests/support/tensor_file.h"

namespace ossature {
namespace {

using nlohmann::json;
using testing::same_bytes;
using testing::small;
using testing::small_config;
using testing::small_lora;
using testing::Tensors;

/// An adapter whose values are all different and not zero.
Lora filled(const LoraConfig& config) {
  Lora lora(config, small_config(), 5);
  lora.parameters().values().copy_(at::arange(1, lora.parameters().numel() + 1, at::kFloat).div(1024.0));
  return lora;
}

const LoraTarget& target_of(const Lora& lora, const std::string& name) {
  for (const LoraTarget& target : lora.targets()) {
    if (target.name == name) return target;
  }
  throw std::out_of_range(name);
}

Tensors written(const Lora& lora, const Scratch& scratch) {
  write_adapter(lora, scratch.path() / "adapter", "base");
  return testing::read_tensors(scratch.path() / "adapter/adapter_model.safetensors");
}

std::vector<std::string> names_of(const Tensors& tensors) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors) names.push_back(name);
  return names;
}

const std::string kLayer1 = "base_model.model.model.layers.1.";

TEST(AdapterKeys, BothExpertParametersOfALayer) {
  const Scratch scratch;
  const Tensors tensors =
      written(filled(small_lora({"1.self_attn.q_proj"},
                                {"1.mlp.experts.down_proj", "1.mlp.experts.gate_up_proj", "1.mlp.router.weight"})),
              scratch);
  EXPECT_EQ(names_of(tensors),
            (std::vector<std::string>{
                kLayer1 + "mlp.experts.base_layer.lora_A.weight", kLayer1 + "mlp.experts.base_layer.lora_B.weight",
                kLayer1 + "mlp.experts.lora_A.weight", kLayer1 + "mlp.experts.lora_B.weight",
                kLayer1 + "mlp.router.lora_A.weight", kLayer1 + "mlp.router.lora_B.weight",
                kLayer1 + "self_attn.q_proj.lora_A.weight", kLayer1 + "self_attn.q_proj.lora_B.weight"}));
  // base_layer is gate_up_proj: 32 -> 128, the other down_proj: 64 -> 32.
  EXPECT_EQ(tensors.at(kLayer1 + "mlp.experts.base_layer.lora_A.weight").sizes(), (at::IntArrayRef{12, 32}));
  EXPECT_EQ(tensors.at(kLayer1 + "mlp.experts.base_layer.lora_B.weight").sizes(), (at::IntArrayRef{128, 12}));
  EXPECT_EQ(tensors.at(kLayer1 + "mlp.experts.lora_A.weight").sizes(), (at::IntArrayRef{12, 64}));
  EXPECT_EQ(tensors.at(kLayer1 + "mlp.experts.lora_B.weight").sizes(), (at::IntArrayRef{32, 12}));
}

TEST(AdapterKeys, OneExpertParameterOfALayer) {
  for (const auto& [parameter, out, in] :
       {std::tuple{"1.mlp.experts.gate_up_proj", 128, 32}, std::tuple{"1.mlp.experts.down_proj", 32, 64}}) {
    const Scratch scratch;
    const Tensors tensors = written(filled(small_lora({}, {parameter})), scratch);
    EXPECT_EQ(names_of(tensors),
              (std::vector<std::string>{kLayer1 + "mlp.experts.lora_A.weight", kLayer1 + "mlp.experts.lora_B.weight"}));
    EXPECT_EQ(tensors.at(kLayer1 + "mlp.experts.lora_A.weight").sizes(), (at::IntArrayRef{12, in}));
    EXPECT_EQ(tensors.at(kLayer1 + "mlp.experts.lora_B.weight").sizes(), (at::IntArrayRef{out, 12}));
  }
}

/// One layer has both, another the one, a third the other: base_layer is decided layer by layer.
TEST(AdapterKeys, DecidedLayerByLayer) {
  const Scratch scratch;
  const Lora lora = filled(small_lora({}, {"0.mlp.experts.gate_up_proj", "0.mlp.experts.down_proj",
                                           "1.mlp.experts.gate_up_proj", "2.mlp.experts.down_proj"}));
  const Tensors tensors = written(lora, scratch);
  const auto rows = [&](const std::string& key) {
    return tensors.at("base_model.model.model.layers." + key + ".lora_B.weight").size(0);
  };
  EXPECT_EQ(tensors.size(), 8U);
  EXPECT_EQ(rows("0.mlp.experts.base_layer"), 128);
  EXPECT_EQ(rows("0.mlp.experts"), 32);
  EXPECT_EQ(rows("1.mlp.experts"), 128);
  EXPECT_EQ(rows("2.mlp.experts"), 32);
  const Lora back = read_adapter(scratch.path() / "adapter", small_config());
  EXPECT_TRUE(at::equal(back.parameters().values(), lora.parameters().values()));
}

/// Element by element: row e r + i of A belongs to rank i of expert e, column i E + e of B does.
TEST(AdapterLayout, ExpertMajorRowsOfAAndRankMajorColumnsOfB) {
  const Scratch scratch;
  const Lora lora = filled(small_lora({}, {"1.mlp.experts.gate_up_proj", "1.mlp.experts.down_proj"}));
  const Tensors tensors = written(lora, scratch);
  constexpr std::int64_t kExperts = 4, kRank = 3;
  for (const auto& [name, key] : {std::pair{"model.layers.1.mlp.experts.gate_up_proj", "mlp.experts.base_layer"},
                                  std::pair{"model.layers.1.mlp.experts.down_proj", "mlp.experts"}}) {
    const LoraTarget& target = target_of(lora, name);
    const at::Tensor a = lora.a(target).detach(), b = lora.b(target).detach();  // [E, r, in] and [E, out, r]
    const at::Tensor flat_a = tensors.at(kLayer1 + key + ".lora_A.weight");
    const at::Tensor flat_b = tensors.at(kLayer1 + key + ".lora_B.weight");
    const auto in = a.size(2), out = b.size(1);
    const float *wide_a = a.const_data_ptr<float>(), *wide_b = b.const_data_ptr<float>();
    const float *file_a = flat_a.const_data_ptr<float>(), *file_b = flat_b.const_data_ptr<float>();
    std::int64_t wrong = 0;
    for (std::int64_t e = 0; e < kExperts; ++e) {
      for (std::int64_t i = 0; i < kRank; ++i) {
        for (std::int64_t j = 0; j < in; ++j)
          wrong += file_a[(e * kRank + i) * in + j] != wide_a[(e * kRank + i) * in + j] ? 1 : 0;
        for (std::int64_t o = 0; o < out; ++o)
          wrong += file_b[o * (kRank * kExperts) + i * kExperts + e] != wide_b[(e * out + o) * kRank + i] ? 1 : 0;
      }
    }
    EXPECT_EQ(wrong, 0) << name;
  }
}

/// A file that peft wrote, read and written again, has the same tensors to the bit and a configuration with the same
/// meaning.
class PeftFiles : public ::testing::TestWithParam<const char*> {};

TEST_P(PeftFiles, ComeBackToTheBit) {
  const Scratch scratch;
  const Lora lora = read_adapter(small(GetParam()), small_config());
  const Tensors theirs = testing::read_tensors(small(GetParam()) / "adapter_model.safetensors");
  const Tensors ours = written(lora, scratch);
  ASSERT_EQ(names_of(ours), names_of(theirs));
  for (const auto& [name, tensor] : theirs) EXPECT_TRUE(same_bytes(ours.at(name), tensor)) << name;
  const json before = json::parse(read_bytes(small(GetParam()) / "adapter_config.json"));
  const json after = json::parse(read_bytes(scratch.path() / "adapter/adapter_config.json"));
  for (const auto& [key, value] : after.items()) {
    if (key == "base_model_name_or_path") continue;
    if (key == "layers_to_transform" || key == "target_parameters") {
      EXPECT_TRUE(value == before.at(key) || (value.is_null() && before.at(key).empty())) << key;
    } else {
      EXPECT_EQ(value, before.at(key)) << key;
    }
  }
  EXPECT_EQ(after.at("base_model_name_or_path"), "base");
  const Lora again = read_adapter(scratch.path() / "adapter", small_config());
  EXPECT_TRUE(at::equal(again.parameters().values(), lora.parameters().values()));
}

INSTANTIATE_TEST_SUITE_P(Small, PeftFiles,
                         ::testing::Values("adapter", "adapter-trained", "adapter-gate-up", "adapter-down",
                                           "adapter-patterns"));

/// Targets agree in everything that a product with them needs.
void expect_same(const Lora& a, const Lora& b) {
  ASSERT_EQ(a.targets().size(), b.targets().size());
  for (std::size_t i = 0; i < a.targets().size(); ++i) {
    const LoraTarget &x = a.targets()[i], &y = b.targets()[i];
    EXPECT_EQ(x.name, y.name);
    EXPECT_EQ(x.r, y.r);
    EXPECT_EQ(x.scale, y.scale);
    EXPECT_TRUE(same_bytes(a.a(x).detach(), b.a(y).detach())) << x.name;
    EXPECT_TRUE(same_bytes(a.b(x).detach(), b.b(y).detach())) << x.name;
  }
}

TEST(AdapterFiles, EveryVariantComesBackToTheBit) {
  std::vector<LoraConfig> variants = {
      small_lora({"q_proj"}, {}),
      small_lora({}, {"mlp.router.weight"}),
      small_lora({"k_proj", "o_proj"}, {"mlp.experts.gate_up_proj"}),
      small_lora({"v_proj"}, {"mlp.experts.down_proj", "mlp.router.weight"}),
      small_lora({"q_proj", "k_proj", "v_proj", "o_proj"}, {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}),
      small_lora({}, {"0.mlp.experts.gate_up_proj", "2.mlp.experts.down_proj"})};
  variants[0].layers_to_transform = {0, 2};
  variants[0].lora_dropout = 0.125;
  variants[2].use_rslora = true;
  variants[3].r = 1;
  variants[4].rank_pattern = {{"layers.1.mlp.experts.gate_up_proj", 2}, {"q_proj", 7}};
  variants[4].alpha_pattern = {{"mlp.experts.down_proj", 0.75}, {"v_proj", -2.0}};
  for (const LoraConfig& config : variants) {
    const Scratch scratch;
    const Lora lora = filled(config);
    write_adapter(lora, scratch.path() / "adapter", "base");
    const Lora back = read_adapter(scratch.path() / "adapter", small_config());
    expect_same(lora, back);
    EXPECT_EQ(back.config().layers_to_transform, config.layers_to_transform);
    EXPECT_EQ(back.config().lora_dropout, config.lora_dropout);
    // Written over itself, it leaves no other file.
    write_adapter(back, scratch.path() / "adapter", "base");
    std::size_t files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(scratch.path() / "adapter")) files += entry.exists();
    EXPECT_EQ(files, 2U);
  }
}

TEST(AdapterFiles, DropoutIsNotWrittenWithExperts) {
  LoraConfig config = small_lora({"q_proj"}, {"mlp.experts.down_proj"});
  config.lora_dropout = 0.5;
  const Scratch scratch;
  write_adapter(filled(config), scratch.path(), "base");
  EXPECT_EQ(json::parse(read_bytes(scratch.path() / "adapter_config.json")).at("lora_dropout"), 0.0);
}

TEST(AdapterFiles, NarrowFloatsAreWidenedExactly) {
  for (const auto dtype : {at::kBFloat16, at::kHalf}) {
    const Scratch scratch;
    std::filesystem::copy(small("adapter-trained") / "adapter_config.json", scratch.path());
    Tensors narrow = testing::read_tensors(small("adapter-trained") / "adapter_model.safetensors");
    for (auto& [name, tensor] : narrow) tensor = tensor.to(dtype);
    testing::write_tensors(scratch.path() / "adapter_model.safetensors", narrow);
    const Scratch out;
    const Tensors wide = written(read_adapter(scratch.path(), small_config()), out);
    for (const auto& [name, tensor] : narrow) EXPECT_TRUE(same_bytes(wide.at(name), tensor.to(at::kFloat))) << name;
  }
}

TEST(AdapterFiles, TargetModulesMayBeAnExpression) {
  const Scratch scratch;
  const std::vector<std::pair<std::string, std::string>> expressions = {
      {R"(.*\.self_attn\.(q|v)_proj)", "0.q 0.v 1.q 1.v 2.q 2.v"},
      {R"(model\.layers\.[02]\.self_attn\.k_proj)", "0.k 2.k"},
      {"model.layers.1.self_attn.o_proj", "1.o"},
      {"all-linear", "0.q 0.k 0.v 0.o 1.q 1.k 1.v 1.o 2.q 2.k 2.v 2.o"}};
  for (const auto& [expression, expected] : expressions) {
    // Written by names, then told by an expression.
    std::vector<std::string> names;
    std::istringstream words(expected);
    for (std::string word; words >> word;)
      names.push_back("model.layers." + word.substr(0, 2) + "self_attn." + word.substr(2) + "_proj");
    const Lora lora = filled(small_lora(names, {}));
    write_adapter(lora, scratch.path(), "base");
    json config = json::parse(read_bytes(scratch.path() / "adapter_config.json"));
    config["target_modules"] = expression;
    scratch.write("adapter_config.json", config.dump());
    expect_same(read_adapter(scratch.path(), small_config()), lora);
  }
}

TEST(AdapterFiles, ALayerMayBeGivenAsANumber) {
  const Scratch scratch;
  LoraConfig config = small_lora({"q_proj"}, {});
  config.layers_to_transform = {1};
  const Lora lora = filled(config);
  write_adapter(lora, scratch.path(), "base");
  json text = json::parse(read_bytes(scratch.path() / "adapter_config.json"));
  text["layers_to_transform"] = 1;
  scratch.write("adapter_config.json", text.dump());
  expect_same(read_adapter(scratch.path(), small_config()), lora);
}

TEST(AdapterFiles, AbsentKeysHavePeftsDefaults) {
  const Scratch scratch;
  LoraConfig config = small_lora({"q_proj"}, {});
  config.r = 8;
  config.lora_alpha = 8.0;
  const Lora lora = filled(config);
  write_adapter(lora, scratch.path(), "base");
  scratch.write("adapter_config.json", R"({"peft_type": "LORA", "target_modules": ["q_proj"]})");
  expect_same(read_adapter(scratch.path(), small_config()), lora);
}

}  // namespace
}  // namespace ossature
