// Every rule of config.json broken once: one CheckpointError, which names the file and the key.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "model/checkpoint/config.h"
#include "tests/malformed/scratch.h"

namespace ossature {
namespace {

using nlohmann::json;

json good_hf() {
  return json::parse(hf_config_json(*preset("tiny"), true));
}
json good_openai() {
  return json::parse(openai_config_json(*preset("tiny")));
}

/// The message of the CheckpointError that reading `text` gives; fails the test if there is none.
std::string message_of(const Scratch& scratch, std::string_view text) {
  const std::filesystem::path file = scratch.write("config.json", text);
  try {
    const ModelConfig config = read_config(file);
    ADD_FAILURE() << "was read: " << text.substr(0, 200);
    return "";
  } catch (const CheckpointError& error) {
    const std::string what = error.what();
    EXPECT_EQ(what.rfind(file.string(), 0), 0U) << what;
    EXPECT_NE(what.find("; expected "), std::string::npos) << what;
    EXPECT_LT(what.size(), 600U) << what;
    return what;
  }
}

/// `patch` is merged into a good file (RFC 7396); its nulls remove keys.
struct Rule {
  std::string name;
  std::string patch;
  std::string mentions;
};

void PrintTo(const Rule& rule, std::ostream* out) {
  *out << rule.name;
}

class HostileConfig : public testing::TestWithParam<Rule> {};
class HostileOpenAiConfig : public testing::TestWithParam<Rule> {};

TEST_P(HostileConfig, IsRefusedByName) {
  const Scratch scratch;
  json root = good_hf();
  root.merge_patch(json::parse(GetParam().patch));
  const std::string message = message_of(scratch, root.dump());
  EXPECT_NE(message.find(GetParam().mentions), std::string::npos) << message;
}

TEST_P(HostileOpenAiConfig, IsRefusedByName) {
  const Scratch scratch;
  json root = good_openai();
  root.merge_patch(json::parse(GetParam().patch));
  const std::string message = message_of(scratch, root.dump());
  EXPECT_NE(message.find(GetParam().mentions), std::string::npos) << message;
}

const std::vector<Rule> kHfRules = {
    {"vocab_missing", R"({"vocab_size": null})", "vocab_size is missing"},
    {"vocab_text", R"({"vocab_size": "1024"})", "vocab_size is \"1024\""},
    {"vocab_one", R"({"vocab_size": 1})", "vocab_size is 1"},
    {"hidden_missing", R"({"hidden_size": null})", "hidden_size is missing"},
    {"hidden_negative", R"({"hidden_size": -64})", "hidden_size is -64"},
    {"hidden_zero", R"({"hidden_size": 0})", "hidden_size is 0"},
    {"hidden_huge", R"({"hidden_size": 16777248})", "hidden_size is 16777248"},
    {"hidden_past_int64", R"({"hidden_size": 18446744073709551615})", "hidden_size is 18446744073709551615"},
    {"hidden_past_uint64", R"({"hidden_size": 184467440737095516160})", "hidden_size is 1.84467440737"},
    {"hidden_fraction", R"({"hidden_size": 64.5})", "hidden_size is 64.5"},
    {"hidden_float", R"({"hidden_size": 64.0})", "hidden_size is 64.0"},
    {"hidden_bool", R"({"hidden_size": true})", "hidden_size is true"},
    {"hidden_list", R"({"hidden_size": [64]})", "hidden_size is [64]"},
    {"hidden_object", R"({"hidden_size": {"a": 1}})", "hidden_size is {"},
    {"hidden_not_blocks", R"({"hidden_size": 72})", "hidden_size is 72; expected a multiple of 32"},
    {"intermediate_missing", R"({"intermediate_size": null})", "intermediate_size is missing"},
    {"intermediate_not_blocks", R"({"intermediate_size": 100})", "intermediate_size is 100; expected a multiple of 32"},
    {"layers_missing", R"({"num_hidden_layers": null})", "num_hidden_layers is missing"},
    {"layers_zero", R"({"num_hidden_layers": 0})", "num_hidden_layers is 0"},
    {"layers_huge", R"({"num_hidden_layers": 1000000000})", "num_hidden_layers is 1000000000"},
    {"heads_missing", R"({"num_attention_heads": null})", "num_attention_heads is missing"},
    {"heads_not_divisible", R"({"num_attention_heads": 3})", "num_attention_heads is 3 with num_key_value_heads 2"},
    {"kv_heads_missing", R"({"num_key_value_heads": null})", "num_key_value_heads is missing"},
    {"kv_heads_zero", R"({"num_key_value_heads": 0})", "num_key_value_heads is 0"},
    {"head_dim_missing", R"({"head_dim": null})", "head_dim is missing"},
    {"head_dim_odd", R"({"head_dim": 31})", "head_dim is 31; expected a multiple of 2"},
    {"head_dim_huge", R"({"head_dim": 65538})", "head_dim is 65538"},
    {"experts_missing", R"({"num_local_experts": null})", "num_local_experts is missing"},
    {"experts_negative", R"({"num_local_experts": -1})", "num_local_experts is -1"},
    {"topk_missing", R"({"num_experts_per_tok": null, "experts_per_token": null})", "num_experts_per_tok is missing"},
    {"topk_too_many", R"({"num_experts_per_tok": 5})", "num_experts_per_tok is 5 with num_local_experts 4"},
    {"topk_zero", R"({"num_experts_per_tok": 0})", "num_experts_per_tok is 0"},
    {"window_missing", R"({"sliding_window": null})", "sliding_window is missing"},
    {"window_zero", R"({"sliding_window": 0})", "sliding_window is 0"},
    {"window_negative", R"({"sliding_window": -128})", "sliding_window is -128"},
    {"product_too_large", R"({"hidden_size": 16777216, "intermediate_size": 16777216, "num_local_experts": 65536})",
     "parameters"},
    {"positions_zero", R"({"max_position_embeddings": 0})", "max_position_embeddings is 0"},
    {"context_text", R"({"initial_context_length": "4096"})", "initial_context_length is \"4096\""},
    {"epsilon_zero", R"({"rms_norm_eps": 0})", "rms_norm_eps is 0"},
    {"epsilon_negative", R"({"rms_norm_eps": -1e-5})", "rms_norm_eps is -1e-05"},
    {"epsilon_text", R"({"rms_norm_eps": "NaN"})", "rms_norm_eps is \"NaN\""},
    {"limit_negative", R"({"swiglu_limit": -7.0})", "swiglu_limit is -7"},
    {"limit_bool", R"({"swiglu_limit": true})", "swiglu_limit is true"},
    {"theta_missing", R"({"rope_theta": null})", "rope_theta is missing"},
    {"theta_one", R"({"rope_theta": 1})", "rope_theta is 1"},
    {"theta_huge", R"({"rope_theta": 1e300})", "rope_theta is 1e+300"},
    {"rope_missing", R"({"rope_scaling": null})", "rope_scaling is missing"},
    {"rope_text", R"({"rope_scaling": "yarn"})", "rope_scaling is \"yarn\""},
    {"rope_type_missing", R"({"rope_scaling": {"rope_type": null}})", "rope_scaling.rope_type is missing"},
    {"rope_type_other", R"({"rope_scaling": {"rope_type": "llama3"}})", "rope_scaling.rope_type is \"llama3\""},
    {"factor_missing", R"({"rope_scaling": {"factor": null}})", "rope_scaling.factor is missing"},
    {"factor_text", R"({"rope_scaling": {"factor": "32"}})", "rope_scaling.factor is \"32\""},
    {"factor_below_one", R"({"rope_scaling": {"factor": 0.5}})", "factor is 0.5"},
    {"beta_order", R"({"rope_scaling": {"beta_fast": 1.0, "beta_slow": 32.0}})", "beta_fast is 1"},
    {"beta_zero", R"({"rope_scaling": {"beta_slow": 0}})", "beta_slow is 0"},
    {"original_missing", R"({"rope_scaling": {"original_max_position_embeddings": null}})",
     "rope_scaling.original_max_position_embeddings is missing"},
    {"truncate_number", R"({"rope_scaling": {"truncate": 0}})", "rope_scaling.truncate is 0"},
    {"partial_rotary", R"({"rope_scaling": {"partial_rotary_factor": 0.5}})", "partial_rotary_factor is 0.5"},
    {"attention_factor", R"({"rope_scaling": {"attention_factor": 1.0}})", "attention_factor is 1.0"},
    {"mscale", R"({"rope_scaling": {"mscale": 1.0, "mscale_all_dim": 0.5}})", "mscale is 1.0"},
    {"rope_parameters_theta", R"({"rope_parameters": {"rope_type": "yarn", "rope_theta": "x"}})",
     "rope_parameters.rope_theta is \"x\""},
    {"layer_types_short", R"({"layer_types": ["full_attention"]})", "layer_types has 1 entries"},
    {"layer_types_text", R"({"layer_types": "full_attention"})", "layer_types is \"full_attention\""},
    {"layer_types_unknown",
     R"({"layer_types": ["sliding_attention", "full_attention", "chunked_attention", "full_attention"]})",
     "layer_types[2] is \"chunked_attention\""},
    {"layer_types_number", R"({"layer_types": ["sliding_attention", 0, "full_attention", "full_attention"]})",
     "layer_types[1] is 0"},
    {"other_model", R"({"model_type": "llama"})", "model_type is \"llama\""},
    {"model_type_number", R"({"model_type": 5})", "model_type is 5"},
    {"no_model", R"({"model_type": null})", "model_type"},
    {"other_activation", R"({"hidden_act": "gelu"})", "hidden_act is \"gelu\""},
    {"no_bias", R"({"attention_bias": false})", "attention_bias is false"},
    {"tied", R"({"tie_word_embeddings": true})", "tie_word_embeddings is true"},
    {"other_quantization", R"({"quantization_config": {"quant_method": "bitsandbytes"}})",
     "quantization_config.quant_method is \"bitsandbytes\""},
    {"quantization_text", R"({"quantization_config": "mxfp4"})", "quantization_config is \"mxfp4\""},
    {"eos_negative", R"({"eos_token_id": -2})", "eos_token_id is -2"},
    {"eos_text", R"({"eos_token_id": "<|return|>"})", "eos_token_id is"},
    {"eos_empty", R"({"eos_token_id": []})", "eos_token_id is []"},
    {"pad_fraction", R"({"pad_token_id": 0.5})", "pad_token_id is 0.5"},
};

const std::vector<Rule> kOpenAiRules = {
    {"vocab_missing", R"({"vocab_size": null})", "vocab_size is missing"},
    {"layers_missing", R"({"num_hidden_layers": null})", "num_hidden_layers is missing"},
    {"experts_zero", R"({"num_experts": 0})", "num_experts is 0"},
    {"experts_missing", R"({"num_experts": null})", "num_experts"},
    {"topk_missing", R"({"experts_per_token": null})", "experts_per_token is missing"},
    {"hidden_not_blocks", R"({"hidden_size": 65})", "hidden_size is 65"},
    {"window_text", R"({"sliding_window": "128"})", "sliding_window is \"128\""},
    {"context_missing", R"({"initial_context_length": null})", "initial_context_length is missing"},
    {"theta_missing", R"({"rope_theta": null})", "rope_theta is missing"},
    {"factor_missing", R"({"rope_scaling_factor": null})", "rope_scaling_factor is missing"},
    {"factor_zero", R"({"rope_scaling_factor": 0})", "rope_scaling_factor is 0"},
    {"factor_huge", R"({"rope_scaling_factor": 1e300})", "rope_scaling_factor is 1e+300"},
    {"alpha_missing", R"({"rope_ntk_alpha": null})", "rope_ntk_alpha is missing"},
    {"beta_missing", R"({"rope_ntk_beta": null})", "rope_ntk_beta is missing"},
    {"limit_list", R"({"swiglu_limit": [7]})", "swiglu_limit is [7]"},
};

std::string name_of(const testing::TestParamInfo<Rule>& info) {
  return info.param.name;
}
INSTANTIATE_TEST_SUITE_P(Rules, HostileConfig, testing::ValuesIn(kHfRules), name_of);
INSTANTIATE_TEST_SUITE_P(Rules, HostileOpenAiConfig, testing::ValuesIn(kOpenAiRules), name_of);

TEST(HostileConfigText, IsNotJson) {
  const Scratch scratch;
  for (const std::string text : {"", "{", "[]", "null", "nan", "{\"model_type\": NaN}", "{\"a\": 1,}", "{\"a\": 1} {}",
                                 "\x80", "{\"a\": \"\xff\"}", "{\"rope_theta\": 1e999}", "{'a': 1}", "\"\\ud800\""})
    EXPECT_FALSE(message_of(scratch, text).empty());
  EXPECT_NE(message_of(scratch, "[1]").find("it holds array"), std::string::npos);
}

TEST(HostileConfigText, RepeatsAKey) {
  const Scratch scratch;
  std::string text = good_hf().dump();
  text.insert(1, "\"hidden_size\": 128, ");
  EXPECT_NE(message_of(scratch, text).find("\"hidden_size\" stands in it twice"), std::string::npos);
  text = good_hf().dump();
  text.insert(text.find("\"factor\""), "\"factor\": 1.0, ");
  EXPECT_NE(message_of(scratch, text).find("\"factor\" stands in it twice"), std::string::npos);
}

TEST(HostileConfigText, NestsDeep) {
  const Scratch scratch;
  for (const std::string& bracket : {std::string("["), std::string("{\"a\":")}) {
    std::string text = "{\"a\":";
    for (int i = 0; i < 100'000; ++i) text += bracket;
    EXPECT_NE(message_of(scratch, text).find("nest deeper"), std::string::npos);
  }
}

TEST(HostileConfigText, TruncatedAnywhere) {
  const Scratch scratch;
  const std::string text = hf_config_json(*preset("tiny"), true);
  for (std::size_t length = 0; length + 2 < text.size(); length += 3) (void)message_of(scratch, text.substr(0, length));
}

TEST(HostileConfigText, MutatedAnywhereLoadsOrIsRefused) {
  const Scratch scratch;
  std::mt19937 random(7);
  const std::string good = hf_config_json(*preset("tiny"), true);
  int refused = 0;
  for (int i = 0; i < 2'000; ++i) {
    std::string text = good;
    for (unsigned j = 0; j <= random() % 3; ++j) text[random() % text.size()] = static_cast<char>(random());
    const std::filesystem::path file = scratch.write("config.json", text);
    try {
      validate(read_config(file), "read");
    } catch (const CheckpointError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 1'000);
}

TEST(HostileConfigFile, IsNoFile) {
  const Scratch scratch;
  EXPECT_THROW((void)read_config(scratch.path()), CheckpointError);
  EXPECT_THROW((void)read_config(scratch.path() / "absent.json"), CheckpointError);
  const std::filesystem::path pipe = scratch.path() / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THROW((void)read_config(pipe), CheckpointError);
  EXPECT_NE(message_of(scratch, std::string(2 << 20, ' ')).find("2097152 bytes"), std::string::npos);
}

TEST(HostileConfigValues, ThatJsonCannotHoldAreRefused) {
  ModelConfig config = *preset("tiny");
  config.rms_norm_eps = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(validate(config, "here"), CheckpointError);
  config = *preset("tiny");
  config.rope_scaling.factor = std::numeric_limits<double>::infinity();
  EXPECT_THROW(validate(config, "here"), CheckpointError);
  config = *preset("tiny");
  config.sliding_layers.pop_back();
  EXPECT_THROW(validate(config, "here"), CheckpointError);
}

}  // namespace
}  // namespace ossature
