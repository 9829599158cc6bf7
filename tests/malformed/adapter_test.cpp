// A good adapter broken in every way its two files can be: one CheckpointError that names the file and what is wrong.
#include "model/adapter/adapter.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "tests/malformed/scratch.h"
#include "tests/support/tensor_file.h"

namespace ossature {
namespace {

using nlohmann::json;
using testing::small;
using testing::Tensors;

const ModelConfig& model() {
  static const ModelConfig config = read_config(small("hf") / "config.json");
  return config;
}

/// The small golden's adapter (r 2, attention and both expert parameters), to be changed.
struct Adapter {
  json config = json::parse(read_bytes(small("adapter") / "adapter_config.json"));
  Tensors tensors = testing::read_tensors(small("adapter") / "adapter_model.safetensors");

  void write(const Scratch& scratch) const {
    scratch.write("adapter_config.json", config.dump());
    testing::write_tensors(scratch.path() / "adapter_model.safetensors", tensors);
  }
};

/// The message that reading the adapter in `scratch` gives: one line that begins with `file`.
std::string message_of(const Scratch& scratch, const std::string& file) {
  try {
    (void)read_adapter(scratch.path(), model());
    ADD_FAILURE() << "was read";
    return "";
  } catch (const CheckpointError& error) {
    const std::string what = error.what();
    EXPECT_TRUE(what.starts_with((scratch.path() / file).string() + ": ")) << what;
    EXPECT_NE(what.find("; expected "), std::string::npos) << what;
    EXPECT_EQ(what.find_first_of("\n\r\x1b"), std::string::npos) << what;
    EXPECT_LT(what.size(), 800U) << what;
    return what;
  }
}

const char* const kConfigFile = "adapter_config.json";
const char* const kTensorFile = "adapter_model.safetensors";
const std::string kQ = "base_model.model.model.layers.1.self_attn.q_proj";
const std::string kGateUp = "base_model.model.model.layers.2.mlp.experts.base_layer";
const std::string kDown = "base_model.model.model.layers.2.mlp.experts";

void expect_tensor_error(const Adapter& adapter, const std::vector<std::string>& mentions) {
  const Scratch scratch;
  adapter.write(scratch);
  const std::string message = message_of(scratch, kTensorFile);
  for (const std::string& text : mentions) EXPECT_NE(message.find(text), std::string::npos) << text << "\n" << message;
}

TEST(HostileAdapter, GoodOneIsRead) {  // or the tests below prove nothing
  const Scratch scratch;
  Adapter().write(scratch);
  EXPECT_EQ(read_adapter(scratch.path(), model()).targets().size(), 18U);
}

TEST(HostileAdapter, TensorIsMissing) {
  for (const std::string& key : {kQ + ".lora_A.weight", kGateUp + ".lora_B.weight", kDown + ".lora_A.weight"}) {
    Adapter adapter;
    ASSERT_EQ(adapter.tensors.erase(key), 1U);
    expect_tensor_error(adapter, {"tensor " + key + " is missing"});
  }
}

TEST(HostileAdapter, TensorIsUnknown) {
  for (const std::string& key :
       {kQ + ".lora_C.weight", kQ + ".lora_A.bias", kQ + ".lora_magnitude_vector", kQ + ".lora_A.default.weight",
        std::string("base_model.model.lm_head.weight"), std::string("base_model.model.model.layers.3.self_attn.q_proj"),
        std::string(), std::string("model.layers.1.self_attn.q_proj.lora_A.weight")}) {
    Adapter adapter;
    adapter.tensors[key] = at::zeros({2, 32});
    expect_tensor_error(adapter, {"tensor \"" + key + "\" belongs to no target"});
  }
}

TEST(HostileAdapter, NamesAreShownEscaped) {
  Adapter adapter;
  adapter.tensors["a\x1b[2J\n\"b\""] = at::zeros({1});
  expect_tensor_error(adapter, {R"("a\u001b[2J\n\"b\"")"});
  Adapter targets;
  targets.config["target_modules"] = {"q_proj", "x\n\x1b[31my"};
  const Scratch scratch;
  targets.write(scratch);
  EXPECT_NE(message_of(scratch, kConfigFile).find(R"("x\n\u001b[31my")"), std::string::npos);
}

TEST(HostileAdapter, ShapeIsWrong) {
  const std::vector<std::tuple<std::string, std::vector<std::int64_t>, std::string>> wrong = {
      {kQ + ".lora_A.weight", {3, 32}, "shape [3, 32]; expected [2, 32]"},
      {kQ + ".lora_A.weight", {32, 2}, "shape [32, 2]; expected [2, 32]"},
      {kQ + ".lora_A.weight", {64}, "shape [64]; expected [2, 32]"},
      {kQ + ".lora_A.weight", {}, "shape []; expected [2, 32]"},
      {kQ + ".lora_A.weight", {1, 2, 32}, "shape [1, 2, 32]; expected [2, 32]"},
      {kQ + ".lora_A.weight", {0, 32}, "shape [0, 32]; expected [2, 32]"},
      {kQ + ".lora_B.weight", {32, 2}, "shape [32, 2]; expected [64, 2]"},
      // Expert pairs of one expert, in three dimensions, and with in and out exchanged (peft 0.19.0 wrote those).
      {kGateUp + ".lora_A.weight", {2, 32}, "shape [2, 32]; expected [8, 32]"},
      {kGateUp + ".lora_A.weight", {4, 2, 32}, "shape [4, 2, 32]; expected [8, 32]"},
      {kGateUp + ".lora_A.weight", {8, 128}, "shape [8, 128]; expected [8, 32]"},
      {kGateUp + ".lora_B.weight", {32, 8}, "shape [32, 8]; expected [128, 8]"},
      {kDown + ".lora_B.weight", {64, 8}, "shape [64, 8]; expected [32, 8]"},
  };
  for (const auto& [key, shape, mention] : wrong) {
    Adapter adapter;
    ASSERT_EQ(adapter.tensors.count(key), 1U);
    adapter.tensors[key] = at::zeros(shape);
    expect_tensor_error(adapter, {key + ": " + mention});
  }
}

TEST(HostileAdapter, DtypeIsWrong) {
  for (const auto& [dtype, name] :
       {std::pair{at::kDouble, "F64"}, std::pair{at::kLong, "I64"}, std::pair{at::kByte, "U8"}}) {
    Adapter adapter;
    at::Tensor& tensor = adapter.tensors.at(kDown + ".lora_B.weight");
    tensor = tensor.to(dtype);
    expect_tensor_error(adapter, {kDown + ".lora_B.weight: dtype " + name + "; expected F32, BF16 or F16"});
  }
}

TEST(HostileAdapter, ValuesAreNotFinite) {
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const float value : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                              std::numeric_limits<float>::quiet_NaN()}) {
      Adapter adapter;
      at::Tensor& tensor = adapter.tensors.at(kGateUp + ".lora_B.weight");
      tensor = tensor.to(dtype);
      tensor[127][7] = value;
      expect_tensor_error(adapter, {kGateUp + ".lora_B.weight: holds a value that is not finite"});
    }
  }
}

TEST(HostileAdapter, OfAnotherModel) {
  const Scratch scratch;
  Adapter().write(scratch);
  ModelConfig other = model();
  other.hidden_size = 64;
  EXPECT_THROW((void)read_adapter(scratch.path(), other), CheckpointError);
  other = model();
  other.num_local_experts = 8;
  EXPECT_THROW((void)read_adapter(scratch.path(), other), CheckpointError);
  other = model();
  other.num_hidden_layers = 2;  // the third layer's tensors have no place
  EXPECT_THROW((void)read_adapter(scratch.path(), other), CheckpointError);
  other.num_hidden_layers = 4;  // the fourth layer's are missing
  EXPECT_THROW((void)read_adapter(scratch.path(), other), CheckpointError);
}

TEST(HostileAdapter, TheOtherExpertParameterIsClaimed) {
  // Without base_layer a lone pair may be either's: its shape must tell.
  for (const auto& [dir, wrong] :
       {std::pair{"adapter-gate-up", "mlp.experts.down_proj"}, std::pair{"adapter-down", "mlp.experts.gate_up_proj"}}) {
    Adapter adapter;
    adapter.config = json::parse(read_bytes(small(dir) / kConfigFile));
    adapter.config["target_parameters"] = {wrong};
    adapter.tensors = testing::read_tensors(small(dir) / kTensorFile);
    expect_tensor_error(adapter, {"shape", "; expected "});
  }
}

TEST(HostileAdapter, FilesAreMissing) {
  const Scratch scratch;
  EXPECT_NE(message_of(scratch, kConfigFile).find("it cannot be read"), std::string::npos);
  Adapter().write(scratch);
  std::filesystem::remove(scratch.path() / kTensorFile);
  (void)message_of(scratch, kTensorFile);
  std::filesystem::create_directory(scratch.path() / kTensorFile);
  (void)message_of(scratch, kTensorFile);
}

TEST(HostileAdapter, TruncatedTensorFile) {
  const Scratch scratch;
  Adapter().write(scratch);
  const std::string bytes = read_bytes(scratch.path() / kTensorFile);
  for (const std::size_t size : {std::size_t{0}, std::size_t{7}, std::size_t{8}, bytes.size() / 2, bytes.size() - 1}) {
    scratch.write(kTensorFile, bytes.substr(0, size));
    (void)message_of(scratch, kTensorFile);
  }
}

/// `patch` is merged into the good configuration (RFC 7396); its nulls remove keys.
struct Rule {
  std::string name;
  std::string patch;
  std::string mentions;
};
void PrintTo(const Rule& rule, std::ostream* out) {
  *out << rule.name;
}

class HostileAdapterConfig : public ::testing::TestWithParam<Rule> {};

TEST_P(HostileAdapterConfig, IsRefusedByName) {
  Adapter adapter;
  adapter.config.merge_patch(json::parse(GetParam().patch));
  const Scratch scratch;
  adapter.write(scratch);
  const std::string message = message_of(scratch, kConfigFile);
  EXPECT_NE(message.find(GetParam().mentions), std::string::npos) << message;
}

const std::vector<Rule> kRules = {
    {"type_missing", R"({"peft_type": null})", "peft_type is null; expected \"LORA\""},
    {"type_other", R"({"peft_type": "IA3"})", "peft_type is \"IA3\""},
    {"type_number", R"({"peft_type": 3})", "peft_type is 3"},
    {"task_other", R"({"task_type": "SEQ_CLS"})", "task_type is \"SEQ_CLS\""},
    {"r_text", R"({"r": "2"})", "r is \"2\"; expected a whole number from 1 to 65536"},
    {"r_zero", R"({"r": 0})", "r is 0"},
    {"r_negative", R"({"r": -2})", "r is -2"},
    {"r_fraction", R"({"r": 2.5})", "r is 2.5"},
    {"r_float", R"({"r": 2.0})", "r is 2.0"},
    {"r_bool", R"({"r": true})", "r is true"},
    {"r_huge", R"({"r": 65537})", "r is 65537"},
    {"r_past_int64", R"({"r": 18446744073709551615})", "r is 18446744073709551615"},
    {"r_list", R"({"r": [2]})", "r is [2]"},
    {"alpha_text", R"({"lora_alpha": "4"})", "lora_alpha is \"4\""},
    {"alpha_huge", R"({"lora_alpha": 1e300})", "lora_alpha is 1e+300"},
    {"dropout_one", R"({"lora_dropout": 1.0})", "lora_dropout is 1.0; expected a number from 0 to below 1"},
    {"dropout_negative", R"({"lora_dropout": -0.1})", "lora_dropout is -0.1"},
    {"dropout_bool", R"({"lora_dropout": true})", "lora_dropout is true"},
    {"rslora_text", R"({"use_rslora": "yes"})", "use_rslora is \"yes\"; expected true or false"},
    {"bias_all", R"({"bias": "all"})", "bias is \"all\"; expected \"none\""},
    {"bias_lora_only", R"({"bias": "lora_only"})", "bias is \"lora_only\""},
    {"bias_bool", R"({"bias": true})", "bias is true"},
    {"dora", R"({"use_dora": true})", "\"use_dora\" is true, a feature that Ossature does not compute"},
    {"lora_bias", R"({"lora_bias": true})", "\"lora_bias\" is true"},
    {"fan_in_fan_out", R"({"fan_in_fan_out": true})", "\"fan_in_fan_out\" is true"},
    {"qalora", R"({"use_qalora": true})", "\"use_qalora\" is true"},
    {"bdlora", R"({"use_bdlora": {"nblocks": 2}})", "\"use_bdlora\" is {"},
    {"modules_to_save", R"({"modules_to_save": ["lm_head"]})", "\"modules_to_save\" is [\"lm_head\"]"},
    {"exclude_modules_list", R"({"exclude_modules": ["o_proj"]})", "\"exclude_modules\" is"},
    {"exclude_modules_text", R"({"exclude_modules": ".*o_proj"})", "\"exclude_modules\" is"},
    {"layer_replication", R"({"layer_replication": [[0, 2], [1, 3]]})", "\"layer_replication\" is"},
    {"layers_pattern", R"({"layers_pattern": "layers"})", "\"layers_pattern\" is"},
    {"token_indices", R"({"trainable_token_indices": [1, 2]})", "\"trainable_token_indices\" is"},
    {"alora", R"({"alora_invocation_tokens": [5]})", "\"alora_invocation_tokens\" is"},
    {"arrow", R"({"arrow_config": {"top_k": 2}})", "\"arrow_config\" is"},
    {"kasa", R"({"kasa_config": {"beta": 0.1}})", "\"kasa_config\" is"},
    {"velora", R"({"velora_config": {"scale": 1.0}})", "\"velora_config\" is"},
    {"monteclora", R"({"monteclora_config": {"samples": 2}})", "\"monteclora_config\" is"},
    {"megatron", R"({"megatron_config": {"a": 1}})", "\"megatron_config\" is"},
    {"unheard_of", R"({"use_tomorrows_lora": true})", "\"use_tomorrows_lora\" is true"},
    {"init_pissa", R"({"init_lora_weights": "pissa"})", "init_lora_weights is \"pissa\""},
    {"init_pissa_niter", R"({"init_lora_weights": "pissa_niter_16"})", "init_lora_weights is \"pissa_niter_16\""},
    {"init_olora", R"({"init_lora_weights": "olora"})", "init_lora_weights is \"olora\""},
    {"init_corda", R"({"init_lora_weights": "corda"})", "init_lora_weights is \"corda\""},
    {"init_loftq", R"({"init_lora_weights": "loftq"})", "init_lora_weights is \"loftq\""},
    {"modules_number", R"({"target_modules": 7})", "target_modules is 7; expected a list of names"},
    {"modules_of_numbers", R"({"target_modules": ["q_proj", 1]})", "target_modules is [\"q_proj\",1]"},
    {"modules_unmatched", R"({"target_modules": ["q_proj", "qproj"]})", "\"qproj\" picks nothing of the model"},
    {"modules_part_of_a_name", R"({"target_modules": ["proj"]})", "\"proj\" picks nothing"},
    {"modules_empty_name", R"({"target_modules": [""]})", "\"\" picks nothing"},
    {"modules_head", R"({"target_modules": ["q_proj", "lm_head"]})", "\"lm_head\" picks nothing"},
    {"modules_embedding", R"({"target_modules": ["embed_tokens"]})", "\"embed_tokens\" picks nothing"},
    {"modules_layer_absent", R"({"target_modules": ["3.self_attn.q_proj"]})", "\"3.self_attn.q_proj\" picks nothing"},
    {"modules_regex_broken", R"({"target_modules": "(q_proj"})", "the pattern \"(q_proj\" cannot be read"},
    {"modules_regex_unmatched", R"({"target_modules": ".*\\.gate_proj"})", "target_modules is \".*\\\\.gate_proj\""},
    {"parameters_text", R"({"target_parameters": "mlp.experts.down_proj"})", "target_parameters is \"mlp.experts."},
    {"parameters_unmatched", R"({"target_parameters": ["mlp.experts.up_proj"]})", "\"mlp.experts.up_proj\" picks"},
    {"parameters_too_many", R"({"target_parameters": ["weight"]})", "\"weight\" matches model.layers.0."},
    {"parameters_bias", R"({"target_parameters": ["down_proj_bias"]})", "\"down_proj_bias\" matches model.layers.0."},
    {"nothing", R"({"target_modules": [], "target_parameters": null})", "no weight is targeted"},
    {"layers_text", R"({"layers_to_transform": "0"})", "layers_to_transform is \"0\"; expected a whole number from 0"},
    {"layers_negative", R"({"layers_to_transform": [-1]})", "layers_to_transform is -1"},
    {"layers_past_the_end", R"({"layers_to_transform": [0, 3]})", "layers_to_transform is 3"},
    {"layers_fraction", R"({"layers_to_transform": [0.5]})", "layers_to_transform is 0.5"},
    {"layers_leave_nothing", R"({"target_modules": ["0.self_attn.q_proj"], "layers_to_transform": [1]})",
     "\"0.self_attn.q_proj\" picks nothing"},
    {"rank_pattern_list", R"({"rank_pattern": [2]})", "rank_pattern is [2]; expected an object"},
    {"rank_pattern_zero", R"({"rank_pattern": {"q_proj": 0}})", "rank_pattern[\"q_proj\"] is 0"},
    {"rank_pattern_huge", R"({"rank_pattern": {"q_proj": 4611686018427387904}})", "rank_pattern[\"q_proj\"] is 461"},
    {"rank_pattern_fraction", R"({"rank_pattern": {"q_proj": 2.5}})", "rank_pattern[\"q_proj\"] is 2.5"},
    {"rank_pattern_broken", R"({"rank_pattern": {"q_proj[": 2}})", "rank_pattern: the pattern \"q_proj[\" cannot be"},
    {"alpha_pattern_text", R"({"alpha_pattern": {"q_proj": "4"}})", "alpha_pattern[\"q_proj\"] is \"4\""},
    {"alpha_pattern_broken", R"({"alpha_pattern": {"*": 4}})", "alpha_pattern: the pattern \"*\" cannot be read"},
};

INSTANTIATE_TEST_SUITE_P(Rules, HostileAdapterConfig, ::testing::ValuesIn(kRules),
                         [](const auto& rule) { return rule.param.name; });

TEST(HostileAdapterConfigText, IsNotTheJsonExpected) {
  const Scratch scratch;
  Adapter().write(scratch);
  const std::string good = Adapter().config.dump();
  for (const std::string& text :
       {std::string(), std::string("null"), std::string("[]"), std::string("{"), good.substr(0, good.size() - 1),
        good + good, std::string("{\"r\":NaN}"), std::string("{\"r\":1e999}"), std::string("{\"a\xff\":1}"),
        "{\"r\":8," + good.substr(1), std::string(2'000'000, ' '), "{\"a\":" + std::string(100'000, '[')}) {
    scratch.write(kConfigFile, text);
    (void)message_of(scratch, kConfigFile);
  }
}

/// PEFT takes the first pattern in the file; LoraConfig the first in the alphabet. Where those differ nothing is
/// guessed.
TEST(HostileAdapterConfigText, AmbiguousOrderOfPatternsIsRefused) {
  const Scratch scratch;
  Adapter().write(scratch);
  const auto with = [](const std::string& patterns) {
    std::string text = Adapter().config.dump();
    const std::string empty = "\"alpha_pattern\":{}";
    return text.replace(text.find(empty), empty.size(), "\"alpha_pattern\":{" + patterns + "}");
  };
  scratch.write(kConfigFile, with(R"("q_proj":8,"layers.0.self_attn.q_proj":2)"));
  EXPECT_NE(message_of(scratch, kConfigFile).find("two of them match model.layers.0.self_attn.q_proj"),
            std::string::npos);
  scratch.write(kConfigFile, with(R"("layers.0.self_attn.q_proj":2,"q_proj":8)"));
  const Lora lora = read_adapter(scratch.path(), model());
  EXPECT_EQ(lora.targets().front().scale, 1.0);  // 2 / r
  scratch.write(kConfigFile, with(R"("v_proj":8,"q_proj":2)"));
  EXPECT_NO_THROW((void)read_adapter(scratch.path(), model()));
}

TEST(HostileAdapterConfigText, CostlyPatternsAreAnsweredAtOnce) {
  Adapter adapter;
  const Scratch scratch;
  // Each of these takes a backtracking matcher longer than anyone waits, or a recursive parser deeper than its stack.
  for (const std::string& pattern :
       {std::string("(.*)*(.*)*(.*)*x"), std::string("(a|a|[a-z_.0-9])*!"), std::string(100'000, '('),
        std::string(250, '('), std::string("((((a{1,1000}){1,1000}){1,1000}){1,1000})"), std::string("(.)\\1"),
        std::string("(?=q)q_proj")}) {
    adapter.config["rank_pattern"] = {{pattern, 1}};
    adapter.write(scratch);
    try {
      (void)read_adapter(scratch.path(), model());
    } catch (const CheckpointError& error) {
      EXPECT_LT(std::string(error.what()).size(), 800U);
    }
  }
}

TEST(HostileAdapter, RandomDamageIsReadSoundlyOrRefused) {
  const Scratch scratch;
  Adapter().write(scratch);
  const std::string config = Adapter().config.dump(), tensors = read_bytes(scratch.path() / kTensorFile);
  std::mt19937 random(20261124);
  int refused = 0;
  for (int i = 0; i < 300; ++i) {
    std::string text = config, bytes = tensors;
    if (i % 2 == 0) {
      text[random() % text.size()] = static_cast<char>(random());
    } else {
      bytes[random() % 6000] = static_cast<char>(random());  // nearly all of it header
    }
    scratch.write(kConfigFile, text);
    scratch.write(kTensorFile, bytes);
    try {
      const Lora lora = read_adapter(scratch.path(), model());
      EXPECT_TRUE(lora.parameters().values().isfinite().all().item<bool>());
    } catch (const CheckpointError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 150);
}

}  // namespace
}  // namespace ossature
