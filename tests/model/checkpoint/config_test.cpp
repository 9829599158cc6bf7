#include "model/checkpoint/config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "tests/malformed/scratch.h"

namespace ossature {
namespace {

using nlohmann::json;

ModelConfig read_text(const std::string& text) {
  const Scratch scratch;
  return read_config(scratch.write("config.json", text));
}

/// Differs from every default.
ModelConfig unusual() {
  ModelConfig config = *preset("tiny");
  config.max_position_embeddings = 5000;
  config.initial_context_length = 777;
  config.rms_norm_eps = 3.25e-6;
  config.rope_theta = 12345.5;
  config.swiglu_limit = 5.5;
  config.rope_scaling = {8.5, 16.25, 0.75, 999, true};
  config.sliding_layers = {false, false, true, true};
  config.eos_token_id = -1;
  config.pad_token_id = 0;
  return config;
}

TEST(Config, HfTextReadsBackEqual) {
  for (const ModelConfig& config : {*preset("gpt-oss-20b"), *preset("gpt-oss-120b"), *preset("tiny"), unusual()})
    for (const bool mxfp4 : {false, true}) EXPECT_EQ(read_text(hf_config_json(config, mxfp4)), config);
}

TEST(Config, OpenAiTextReadsBackEqual) {
  EXPECT_EQ(read_text(openai_config_json(*preset("gpt-oss-20b"))), *preset("gpt-oss-20b"));
  EXPECT_EQ(read_text(openai_config_json(*preset("gpt-oss-120b"))), *preset("gpt-oss-120b"));
  ModelConfig tiny = *preset("tiny");
  const ModelConfig read = read_text(openai_config_json(tiny));
  tiny.eos_token_id = tiny.pad_token_id = -1;  // the layout has none, and o200k_harmony's are not in this vocabulary
  EXPECT_EQ(read, tiny);
}

TEST(Config, OnlyMxfp4NamesAQuantization) {
  EXPECT_TRUE(json::parse(hf_config_json(*preset("tiny"), true)).contains("quantization_config"));
  EXPECT_FALSE(json::parse(hf_config_json(*preset("tiny"), false)).contains("quantization_config"));
}

/// The config.json of openai/gpt-oss-20b has 1,806 bytes and, by `git hash-object`, the blob name 8fb5a4a0; the
/// original's has 376 bytes. FNV-1a of a file with that blob name stands below.
TEST(Config, TwentyBillionIsThePublishedFile) {
  const std::string text = hf_config_json(*preset("gpt-oss-20b"), true);
  EXPECT_EQ(text.size(), 1806U);
  std::uint64_t hash = 14695981039346656037U;
  for (const char byte : text) hash = (hash ^ static_cast<unsigned char>(byte)) * 1099511628211U;
  EXPECT_EQ(hash, 0x87f0348db519e312U);
  EXPECT_EQ(openai_config_json(*preset("gpt-oss-20b")),
            R"({"num_hidden_layers": 24, "num_experts": 32, "experts_per_token": 4, "vocab_size": 201088, )"
            R"("hidden_size": 2880, "intermediate_size": 2880, "swiglu_limit": 7.0, "head_dim": 64, )"
            R"("num_attention_heads": 64, "num_key_value_heads": 8, "sliding_window": 128, )"
            R"("initial_context_length": 4096, "rope_theta": 150000, "rope_scaling_factor": 32.0, )"
            R"("rope_ntk_alpha": 1, "rope_ntk_beta": 32})");
}

TEST(Config, RopeParametersOfTransformers5AreTheSame) {
  for (const ModelConfig& config : {*preset("gpt-oss-20b"), unusual()}) {
    json root = json::parse(hf_config_json(config, true));
    root["rope_parameters"] = root["rope_scaling"];
    root["rope_parameters"]["rope_theta"] = root["rope_theta"];
    root.erase("rope_scaling");
    root.erase("rope_theta");
    EXPECT_EQ(read_text(root.dump()), config);
  }
}

TEST(Config, DefaultRopeIsYarnByOne) {
  json root = json::parse(hf_config_json(*preset("tiny"), true));
  root["rope_scaling"] = {{"rope_type", "default"}};
  EXPECT_EQ(read_text(root.dump()).rope_scaling.factor, 1.0);
}

/// As modeling_rope_utils.py of transformers has it.
TEST(Config, TruncationIsOnUnlessTheFileSaysOtherwise) {
  json root = json::parse(hf_config_json(*preset("tiny"), true));
  EXPECT_FALSE(read_text(root.dump()).rope_scaling.truncate);
  root["rope_scaling"].erase("truncate");
  EXPECT_TRUE(read_text(root.dump()).rope_scaling.truncate);
}

TEST(Config, AbsentOptionalKeysHaveTheDefaultsOfGptOss) {
  json root = json::parse(hf_config_json(*preset("tiny"), true));
  for (const char* key : {"layer_types", "rms_norm_eps", "swiglu_limit", "initial_context_length", "attention_bias",
                          "hidden_act", "tie_word_embeddings", "max_position_embeddings", "quantization_config"})
    root.erase(key);
  EXPECT_EQ(read_text(root.dump()), *preset("tiny"));
}

TEST(Config, FirstEndOfAListIsTaken) {
  json root = json::parse(hf_config_json(*preset("tiny"), true));
  root["eos_token_id"] = {7, 8};
  root["pad_token_id"] = nullptr;
  const ModelConfig config = read_text(root.dump());
  EXPECT_EQ(config.eos_token_id, 7);
  EXPECT_EQ(config.pad_token_id, -1);
}

TEST(Config, OpenAiLayoutRefusesWhatItCannotSay) {
  EXPECT_THROW((void)openai_config_json(unusual()), CheckpointError);
  const auto changed = [](auto change) {
    ModelConfig config = *preset("tiny");
    change(config);
    return config;
  };
  EXPECT_THROW((void)openai_config_json(changed([](ModelConfig& c) { c.rope_scaling.truncate = true; })),
               CheckpointError);
  EXPECT_THROW((void)openai_config_json(changed([](ModelConfig& c) { c.rms_norm_eps = 1e-6; })), CheckpointError);
  EXPECT_THROW((void)openai_config_json(changed([](ModelConfig& c) { c.initial_context_length = 1; })),
               CheckpointError);
  EXPECT_THROW((void)openai_config_json(changed([](ModelConfig& c) { c.sliding_layers[1] = true; })), CheckpointError);
}

TEST(Config, PresetsAreValid) {
  for (const char* name : {"gpt-oss-20b", "gpt-oss-120b", "tiny"}) EXPECT_NO_THROW(validate(*preset(name), name));
  EXPECT_EQ(preset("gpt-oss-120b")->num_hidden_layers, 36);
  EXPECT_EQ(preset("gpt-oss-120b")->num_local_experts, 128);
  EXPECT_FALSE(preset("gpt-oss-7b").has_value());
}

TEST(Config, GoldenLayoutsAgree) {
  const std::filesystem::path source(OSSATURE_SOURCE_DIR);
  int models = 0;
  for (const std::filesystem::path& model :
       {source / "tests/golden/small", source / "../shared/golden/tiny-a", source / "../shared/golden/tiny-b"}) {
    if (!std::filesystem::exists(model)) continue;
    ++models;
    const ModelConfig config = read_config(model / "hf/config.json");
    EXPECT_EQ(read_config(model / "hf-bf16/config.json"), config);
    EXPECT_EQ(read_config(model / "hf-sharded/config.json"), config);
    ModelConfig openai = read_config(model / "openai/config.json");
    openai.eos_token_id = config.eos_token_id;
    openai.pad_token_id = config.pad_token_id;
    EXPECT_EQ(openai, config);
    EXPECT_EQ(config.sliding_layers[0], true);
    EXPECT_EQ(config.sliding_layers[1], false);
  }
  EXPECT_GE(models, 1);
}

}  // namespace
}  // namespace ossature
