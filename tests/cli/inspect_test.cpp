// `ossature inspect` on each kind of path, on a folder of gpt-oss-20b's size, and on what it must refuse.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "tests/cli/workspace.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kSource(OSSATURE_SOURCE_DIR);
const fs::path kSmall = kSource / "tests/golden/small";

json inspect(const fs::path& path) {
  const ProgramResult result = run_program({"inspect", path.string(), "--json"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  return json::parse(result.out, nullptr, false);
}

void expect_refused(const fs::path& path, const std::string& mentions) {
  const ProgramResult result = run_program({"inspect", path.string()});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_EQ(result.out, "");
  EXPECT_NE(result.err.find(mentions), std::string::npos) << result.err;
}

std::int64_t sum(const json& rows, const char* column) {
  std::int64_t total = 0;
  for (const json& row : rows) total += row[column].get<std::int64_t>();
  return total;
}

struct Tensor {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
};

/// A safetensors file whose header is right and whose data is a hole in the file. Returns its bytes.
std::int64_t write_sparse(const fs::path& path, const std::vector<Tensor>& tensors) {
  json header = json::object();
  std::int64_t position = 0;
  for (const Tensor& tensor : tensors) {
    std::int64_t bytes = tensor.dtype == "U8" ? 1 : 2;
    for (const std::int64_t size : tensor.shape) bytes *= size;
    header[tensor.name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {position, position + bytes}}};
    position += bytes;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const std::uint64_t length = text.size();
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  std::ofstream(path, std::ios::binary) << bytes << text;
  const std::int64_t size = static_cast<std::int64_t>(8 + length) + position;
  EXPECT_EQ(::truncate(path.c_str(), size), 0);
  return position;
}

constexpr std::int64_t kLayers = 24, kExperts = 32, kHidden = 2880, kVocab = 201088;

json config_20b() {
  json types = json::array();
  for (int i = 0; i < kLayers; ++i) types.push_back(i % 2 == 0 ? "sliding_attention" : "full_attention");
  return {{"model_type", "gpt_oss"},
          {"vocab_size", kVocab},
          {"hidden_size", kHidden},
          {"intermediate_size", 2880},
          {"num_hidden_layers", kLayers},
          {"num_attention_heads", 64},
          {"num_key_value_heads", 8},
          {"head_dim", 64},
          {"num_local_experts", kExperts},
          {"num_experts_per_tok", 4},
          {"sliding_window", 128},
          {"layer_types", types},
          {"rope_theta", 150000},
          {"rope_scaling",
           {{"rope_type", "yarn"}, {"factor", 32.0}, {"original_max_position_embeddings", 4096}, {"truncate", false}}},
          {"eos_token_id", 200002},
          {"pad_token_id", 199999}};
}

/// The tensors of a layer of gpt-oss-20b as the hub's files have them.
std::vector<Tensor> layer_20b(std::int64_t n) {
  const std::string p = "model.layers." + std::to_string(n) + ".";
  std::vector<Tensor> tensors = {{p + "input_layernorm.weight", "BF16", {kHidden}},
                                 {p + "post_attention_layernorm.weight", "BF16", {kHidden}},
                                 {p + "self_attn.sinks", "BF16", {64}},
                                 {p + "mlp.router.weight", "BF16", {kExperts, kHidden}},
                                 {p + "mlp.router.bias", "BF16", {kExperts}},
                                 {p + "mlp.experts.gate_up_proj_bias", "BF16", {kExperts, 5760}},
                                 {p + "mlp.experts.down_proj_bias", "BF16", {kExperts, kHidden}},
                                 {p + "mlp.experts.gate_up_proj_blocks", "U8", {kExperts, 5760, 90, 16}},
                                 {p + "mlp.experts.gate_up_proj_scales", "U8", {kExperts, 5760, 90}},
                                 {p + "mlp.experts.down_proj_blocks", "U8", {kExperts, kHidden, 90, 16}},
                                 {p + "mlp.experts.down_proj_scales", "U8", {kExperts, kHidden, 90}}};
  for (const auto& [name, rows] : std::vector<std::pair<std::string, std::int64_t>>{
           {"q_proj", 4096}, {"k_proj", 512}, {"v_proj", 512}, {"o_proj", kHidden}}) {
    tensors.push_back({p + "self_attn." + name + ".weight", "BF16", {rows, name == "o_proj" ? 4096 : kHidden}});
    tensors.push_back({p + "self_attn." + name + ".bias", "BF16", {rows}});
  }
  return tensors;
}

/// What the programs that this process started have used; unlike the time on the clock, not of those beside them.
double processor_seconds() {
  rusage used{};
  ::getrusage(RUSAGE_CHILDREN, &used);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

TEST(Inspect, TwentyBillionParametersInUnderASecond) {
  const Scratch scratch;
  scratch.write("config.json", config_20b().dump());
  json map = json::object();
  std::int64_t bytes = 0;
  for (int shard = 0; shard < 3; ++shard) {
    std::vector<Tensor> tensors;
    for (std::int64_t n = shard * 8; n < shard * 8 + 8; ++n)
      for (const Tensor& tensor : layer_20b(n)) tensors.push_back(tensor);
    if (shard == 2) {
      tensors.push_back({"model.embed_tokens.weight", "BF16", {kVocab, kHidden}});
      tensors.push_back({"model.norm.weight", "BF16", {kHidden}});
      tensors.push_back({"lm_head.weight", "BF16", {kVocab, kHidden}});
    }
    const std::string name = "model-0000" + std::to_string(shard) + "-of-00002.safetensors";
    for (const Tensor& tensor : tensors) map[tensor.name] = name;
    bytes += write_sparse(scratch.path() / name, tensors);
  }
  scratch.write("model.safetensors.index.json", json{{"weight_map", map}}.dump());
  ASSERT_EQ(bytes, 13'761'264'768) << "total_size of the published index";

  const double before = processor_seconds();
  const json report = inspect(scratch.path());
  EXPECT_LT(processor_seconds() - before, 1.0);
  EXPECT_EQ(report["kind"], "checkpoint");
  EXPECT_EQ(report["layout"], "transformers");
  EXPECT_EQ(report["experts"], "mxfp4");
  EXPECT_EQ(report["stored_bytes"], bytes);
  EXPECT_EQ(report["parameters"], 20'914'757'184);
  EXPECT_EQ(sum(report["groups"], "parameters"), 20'914'757'184);
  EXPECT_EQ(sum(report["groups"], "bytes"), bytes);
  EXPECT_EQ(sum(report["files"], "tensors"), 459);
}

TEST(Inspect, LayoutsOfOneModelAgree) {
  const json hf = inspect(kSmall / "hf");
  EXPECT_EQ(hf["layout"], "transformers");
  EXPECT_EQ(inspect(kSmall / "openai")["layout"], "openai");
  EXPECT_EQ(inspect(kSmall / "hf-bf16")["experts"], "dense");
  EXPECT_EQ(inspect(kSmall / "hf-sharded")["files"].size(), 3U);
  for (const char* layout : {"hf-bf16", "hf-sharded", "openai"}) {
    const json other = inspect(kSmall / layout);
    EXPECT_EQ(other["parameters"], hf["parameters"]) << layout;
    ASSERT_EQ(other["groups"].size(), hf["groups"].size());
    for (std::size_t i = 0; i < hf["groups"].size(); ++i)
      EXPECT_EQ(other["groups"][i]["parameters"], hf["groups"][i]["parameters"]) << layout << i;
  }
}

TEST(Inspect, AdapterByGroup) {
  const json report = inspect(kSmall / "adapter");
  EXPECT_EQ(report["kind"], "adapter");
  EXPECT_EQ(report["r"], 2);
  EXPECT_EQ(report["lora_alpha"], 4.0);
  EXPECT_EQ(report["use_rslora"], false);
  EXPECT_EQ(report["target_modules"], (json{"k_proj", "o_proj", "q_proj", "v_proj"}));
  // Three layers, four experts, hidden 32, intermediate 64, r 2: A and B of gate_up are [r E, 32] and [128, r E].
  for (const json& group : report["groups"]) {
    if (group["group"] == "mlp.experts.gate_up_proj") {
      EXPECT_EQ(group["parameters"], 3 * 8 * (32 + 128));
    } else if (group["group"] == "mlp.experts.down_proj") {
      EXPECT_EQ(group["parameters"], 3 * 8 * (64 + 32));
    }
  }
  EXPECT_EQ(sum(report["groups"], "parameters"), report["parameters"]);
  EXPECT_EQ(inspect(kSmall / "adapter-gate-up")["groups"][0]["group"], "mlp.experts.gate_up_proj");
  EXPECT_EQ(inspect(kSmall / "adapter-down")["groups"][0]["group"], "mlp.experts.down_proj");
}

TEST(Inspect, AdapterForLlamaCpp) {
  const Workspace workspace;
  const std::string file = workspace.path("adapter.gguf");
  output_of({"export", "--model", kSmall / "hf", "--adapter", kSmall / "adapter-down", "--format", "gguf-adapter",
             "--out", file});
  const json report = inspect(file);
  EXPECT_EQ(report["kind"], "adapter");
  EXPECT_EQ(report["layout"], "gguf");
  EXPECT_EQ(report["parameters"], inspect(kSmall / "adapter-down")["parameters"]);
  EXPECT_EQ(report["tensors"].size(), 6U) << "A and B of three layers";
}

TEST(Inspect, RunFolder) {
  const Scratch scratch;
  scratch.write("recipe.yaml", "base_model: base\noutput_dir: run\ndata: {train: train.h5}\n");
  EXPECT_EQ(inspect(scratch.path())["steps"], 0) << "a run that has just begun";
  scratch.write("metrics.jsonl", R"({"step": 0, "validation_loss": 4.0, "seconds": 0.5})"
                                 "\n"
                                 R"({"step": 1, "loss": 3.5, "tokens": 100, "seconds": 1.0, "learning_rate": 0.1})"
                                 "\n"
                                 R"({"step": 2, "loss": 2.5, "tokens": 60, "seconds": 1.0, "peak_rss_bytes": 5000})"
                                 "\n"
                                 R"({"step": 2, "validation_loss": 2.75, "seconds": 0.5})"
                                 "\n"
                                 R"({"step": 3, "lo)");
  fs::create_directories(scratch.path() / "checkpoints/step-10");
  fs::create_directories(scratch.path() / "checkpoints/step-2");
  fs::create_directories(scratch.path() / "checkpoints/step-3.partial");
  const json report = inspect(scratch.path());
  EXPECT_EQ(report["kind"], "run");
  EXPECT_EQ(report["base_model"], "base");
  EXPECT_EQ(report["steps"], 2);
  EXPECT_EQ(report["first_loss"], 3.5);
  EXPECT_EQ(report["last_loss"], 2.5);
  EXPECT_EQ(report["best_validation_loss"], 2.75);
  EXPECT_EQ(report["best_step"], 2);
  EXPECT_EQ(report["tokens"], 160);
  EXPECT_EQ(report["seconds"], 3.0);
  EXPECT_EQ(report["checkpoints"], (json{"step-2", "step-10"}));
  EXPECT_EQ(report["validations"].size(), 2U);
}

TEST(Inspect, TextIsATableOnStandardOutput) {
  const ProgramResult result = run_program({"inspect", (kSmall / "hf").string()});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.err, "");
  EXPECT_NE(result.out.find("parameters                103,384\n"), std::string::npos) << result.out;
  EXPECT_NE(result.out.find("stored                    98.48 kB\n"), std::string::npos) << result.out;
  EXPECT_NE(result.out.find("\n  experts     BF16+MXFP4        18       75,648   43.01 kB\n"), std::string::npos)
      << result.out;
}

TEST(Inspect, OneSafetensorsFile) {
  const json report = inspect(kSmall / "adapter/adapter_model.safetensors");
  EXPECT_EQ(report["num_tensors"], report["tensors"].size());
  EXPECT_EQ(report["tensors"].size(), 36U);
}

TEST(Inspect, TokenFileCountsAgainAsPrepareDid) {
  const Workspace workspace;
  const auto prepared = json_of({"prepare", workspace.conversations(9), "--tokenizer", kEmbedded, "--date", "none",
                                 "--out", workspace.path("tokens.h5")})["train"];
  const std::string file = workspace.path("tokens.h5");
  const json report = json_of({"inspect", file, "--tokenizer", kEmbedded});
  for (const char* count : {"samples", "tokens", "learned_tokens", "longest_sample", "samples_without_learned_tokens"})
    EXPECT_EQ(report[count], prepared[count]) << count;
  EXPECT_EQ(sum(report["channels"], "tokens"), prepared["tokens"]);
  EXPECT_EQ(sum(report["lengths"], "samples"), 9);
  EXPECT_EQ(report["channels"][0]["channel"], "final");
  EXPECT_EQ(report["channels"][0]["learned_tokens"], prepared["learned_tokens"]);
  const std::string text = output_of({"inspect", file, "--tokenizer", kEmbedded});
  EXPECT_TRUE(text.starts_with("token file " + file + "\n  samples            9\n")) << text;
  EXPECT_NE(text.find("\n  final  "), std::string::npos) << text;
  const json guessed = json_of({"inspect", file});
  EXPECT_TRUE(guessed["channels"].empty());
  EXPECT_NE(guessed["channels_by"].get<std::string>().find("--tokenizer"), std::string::npos);
  const ProgramResult other = run_program({"inspect", file, "--tokenizer", (kSource / "tests/data/fixtures").string()});
  EXPECT_EQ(other.exit_code, 3);
  EXPECT_NE(other.err.find("was made with a tokenizer of"), std::string::npos) << other.err;
}

TEST(InspectRefuses, WhatItDoesNotKnow) {
  const Scratch scratch;
  expect_refused(scratch.path(), "holds no config.json");
  expect_refused(scratch.path() / "absent", "there is nothing of this name");
  expect_refused(scratch.write("notes.txt", "text"), "a kind that inspect does not know");
}

TEST(InspectRefuses, BrokenFolders) {
  const Scratch scratch;
  fs::copy(kSmall / "hf", scratch.path() / "hf");
  fs::resize_file(scratch.path() / "hf/model.safetensors", 50'000);
  expect_refused(scratch.path() / "hf", "model.safetensors");
  scratch.write("hf/config.json", "{}");
  expect_refused(scratch.path() / "hf", "config.json: it has neither model_type nor num_experts");
  fs::copy(kSmall / "adapter", scratch.path() / "adapter");
  for (const std::string text : {"", "[]", "{}", R"({"r": "8", "lora_alpha": 1})", R"({"r": 8, "lora_alpha": []})",
                                 R"({"r": 8, "lora_alpha": 1, "target_modules": {"a": 1}})",
                                 R"({"r": 8, "lora_alpha": 1, "use_rslora": "no"})"}) {
    scratch.write("adapter/adapter_config.json", text);
    expect_refused(scratch.path() / "adapter", "adapter_config.json: ");
  }
  fs::copy_file(kSmall / "adapter/adapter_config.json", scratch.path() / "adapter/adapter_config.json",
                fs::copy_options::overwrite_existing);
  fs::remove(scratch.path() / "adapter/adapter_model.safetensors");
  expect_refused(scratch.path() / "adapter", "adapter_model.safetensors");
}

}  // namespace
}  // namespace ossature
