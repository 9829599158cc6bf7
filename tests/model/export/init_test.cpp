// Random checkpoints: valid, distributed as announced, and the same bytes for the same seed.
#include "model/export/init.h"

#include <gtest/gtest.h>

#include <ATen/Parallel.h>

#include <nlohmann/json.hpp>

#include "model/checkpoint/checkpoint.h"
#include "tests/malformed/scratch.h"
#include "tests/support/tensor_file.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::same_bytes;
using testing::Tensors;

ModelConfig tiny() {
  return *preset("tiny");
}

Tensors made(const ModelConfig& config, std::uint64_t seed, ExpertStorage experts, const Scratch& scratch,
             std::int64_t max_shard_bytes = kMaxShardBytes) {
  init_checkpoint(config, seed, experts, std::nullopt, scratch.path() / "out", max_shard_bytes);
  return testing::read_all_tensors(scratch.path() / "out");
}

class InitStorage : public ::testing::TestWithParam<ExpertStorage> {};
INSTANTIATE_TEST_SUITE_P(Both, InitStorage, ::testing::Values(ExpertStorage::kMxfp4, ExpertStorage::kBf16));

TEST_P(InitStorage, OpensAsACheckpointOfItsConfiguration) {
  const Scratch scratch;
  (void)made(tiny(), 1, GetParam(), scratch);
  const Checkpoint checkpoint(scratch.path() / "out");
  checkpoint.check_scales();
  EXPECT_EQ(checkpoint.config(), tiny());
  EXPECT_EQ(checkpoint.layout(), Layout::kHf);
  EXPECT_EQ(checkpoint.experts(), GetParam());
}

TEST_P(InitStorage, WeightsAreNormalNormsOneAndBiasesZero) {
  const Scratch scratch;
  (void)made(tiny(), 1, GetParam(), scratch);
  const Checkpoint checkpoint(scratch.path() / "out");
  for (const TensorShape& tensor : tensor_shapes(tiny())) {
    at::Tensor values;
    if (tensor.is_expert_weight) {
      const ExpertWeight weight = checkpoint.expert_weight(tensor.name);
      values =
          weight.is_packed() ? mxfp4_decode(weight.packed, at::kFloat).to(at::kDouble) : weight.dense.to(at::kDouble);
    } else {
      values = checkpoint.tensor(tensor.name).to(at::kDouble);
    }
    if (tensor.name.ends_with("norm.weight")) {
      EXPECT_TRUE((values == 1.0).all().item<bool>()) << tensor.name;
    } else if (tensor.name.ends_with("bias") || tensor.name.ends_with("sinks")) {
      EXPECT_TRUE((values == 0.0).all().item<bool>()) << tensor.name;
    } else {
      // Five standard errors; rounding to MXFP4 adds about 1.2 % of the variance.
      const double count = static_cast<double>(values.numel()), deviation = 0.02;
      EXPECT_LT(std::abs(values.mean().item<double>()), 5.0 * deviation / std::sqrt(count)) << tensor.name;
      EXPECT_NEAR(values.std().item<double>() / deviation, 1.0, 5.0 / std::sqrt(2.0 * count) + 0.01) << tensor.name;
      const double kurtosis = (values / deviation).pow(4).mean().item<double>();
      EXPECT_NEAR(kurtosis, 3.0, 5.0 * std::sqrt(96.0 / count) + 0.1) << tensor.name;
    }
  }
}

TEST_P(InitStorage, SeedDecidesEveryByte) {
  const Scratch first, again, other;
  const Tensors a = made(tiny(), 7, GetParam(), first), b = made(tiny(), 7, GetParam(), again),
                c = made(tiny(), 8, GetParam(), other);
  EXPECT_EQ(read_bytes(first.path() / "out/model.safetensors"), read_bytes(again.path() / "out/model.safetensors"));
  for (const auto& [name, tensor] : a) {
    const bool is_constant = name.ends_with("norm.weight") || name.ends_with("bias") || name.ends_with("sinks");
    EXPECT_EQ(same_bytes(c.at(name), tensor), is_constant) << name;
  }
}

TEST_P(InitStorage, ThreadsChangeNoByte) {
  const Scratch one, three;
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  (void)made(tiny(), 7, GetParam(), one);
  at::set_num_threads(3);
  (void)made(tiny(), 7, GetParam(), three);
  at::set_num_threads(threads);
  EXPECT_EQ(read_bytes(one.path() / "out/model.safetensors"), read_bytes(three.path() / "out/model.safetensors"));
}

TEST_P(InitStorage, NoTwoTensorsAreAlike) {
  const Scratch scratch;
  const Tensors tensors = made(tiny(), 7, GetParam(), scratch);
  const auto same = [&](const std::string& a, const std::string& b) {
    return same_bytes(tensors.at(a), tensors.at(b));
  };
  const std::string experts = GetParam() == ExpertStorage::kMxfp4 ? "gate_up_proj_blocks" : "gate_up_proj";
  EXPECT_FALSE(same("model.embed_tokens.weight", "lm_head.weight"));
  EXPECT_FALSE(same("model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight"));
  EXPECT_FALSE(same("model.layers.0.self_attn.k_proj.weight", "model.layers.1.self_attn.k_proj.weight"));
  EXPECT_FALSE(same("model.layers.0.mlp.experts." + experts, "model.layers.1.mlp.experts." + experts));
  const at::Tensor all = tensors.at("model.layers.0.mlp.experts." + experts);
  EXPECT_FALSE(same_bytes(all[0], all[1]));
}

TEST_P(InitStorage, CutToFewerLayersTheFirstAreTheSame) {
  ModelConfig cut = tiny();
  cut.num_hidden_layers = 2;
  cut.sliding_layers.resize(2);
  const Scratch whole, part;
  const Tensors all = made(tiny(), 7, GetParam(), whole), some = made(cut, 7, GetParam(), part);
  EXPECT_LT(some.size(), all.size());
  for (const auto& [name, tensor] : some) EXPECT_TRUE(same_bytes(all.at(name), tensor)) << name;
}

TEST_P(InitStorage, ShardsHoldTheSameTensors) {
  const Scratch whole, shards;
  const Tensors expected = made(tiny(), 7, GetParam(), whole);
  const Tensors found = made(tiny(), 7, GetParam(), shards, 100'000);
  const json index = json::parse(read_bytes(shards.path() / "out/model.safetensors.index.json"));
  ASSERT_EQ(found.size(), expected.size());
  EXPECT_EQ(index.at("weight_map").size(), expected.size());
  std::int64_t bytes = 0;
  for (const auto& [name, tensor] : expected) {
    EXPECT_TRUE(same_bytes(found.at(name), tensor)) << name;
    bytes += static_cast<std::int64_t>(tensor.nbytes());
    const auto file = index.at("weight_map").at(name).get<std::string>();
    EXPECT_NE(SafetensorsFile::open(shards.path() / "out" / file)->find(name), nullptr) << name;
  }
  EXPECT_EQ(index.at("metadata").at("total_size"), bytes);
  EXPECT_NO_THROW(Checkpoint(shards.path() / "out"));
}

TEST(Init, TokenizerIsCopied) {
  const Scratch scratch;
  scratch.write("tokenizer/tokenizer.json", "{\"a\": 1}");
  scratch.write("tokenizer/chat_template.jinja", "{{ x }}");
  scratch.write("tokenizer/config.json", "not the model's");
  init_checkpoint(tiny(), 1, ExpertStorage::kMxfp4, scratch.path() / "tokenizer", scratch.path() / "out");
  EXPECT_EQ(read_bytes(scratch.path() / "out/tokenizer.json"), "{\"a\": 1}");
  EXPECT_EQ(read_bytes(scratch.path() / "out/chat_template.jinja"), "{{ x }}");
  EXPECT_EQ(read_config(scratch.path() / "out/config.json"), tiny());
}

TEST(Init, GenerationSettingsNameTheEnds) {
  const Scratch scratch;
  (void)made(tiny(), 1, ExpertStorage::kMxfp4, scratch);
  const json settings = json::parse(read_bytes(scratch.path() / "out/generation_config.json"));
  EXPECT_EQ(settings.at("eos_token_id"), 1023);
  EXPECT_EQ(settings.at("pad_token_id"), 1022);
  ModelConfig real = tiny();
  real.vocab_size = 201088;
  real.eos_token_id = 200002;
  real.pad_token_id = 199999;
  const Scratch other;
  (void)made(real, 1, ExpertStorage::kMxfp4, other);
  // Of the published file: 177 bytes.
  EXPECT_EQ(read_bytes(other.path() / "out/generation_config.json").size(), 177U);
}

std::size_t entries(const fs::path& dir) {
  std::size_t count = 0;
  for (const auto& entry : fs::directory_iterator(dir)) count += entry.exists() ? 1 : 0;
  return count;
}

TEST(InitRefuses, WhatItCannotMakeAndLeavesNothing) {
  const Scratch scratch;
  const fs::path out = scratch.path() / "a/out";
  ModelConfig broken = tiny();
  broken.hidden_size = 33;
  EXPECT_THROW(init_checkpoint(broken, 1, ExpertStorage::kMxfp4, std::nullopt, out), CheckpointError);
  EXPECT_THROW(init_checkpoint(tiny(), 1, ExpertStorage::kMxfp4, scratch.path() / "absent", out), CheckpointError);
  EXPECT_THROW(init_checkpoint(tiny(), 1, ExpertStorage::kMxfp4, scratch.path(), out), CheckpointError);
  const auto stop = [](std::int64_t written, std::int64_t total) {
    if (2 * written > total) throw std::runtime_error("interrupted");
  };
  EXPECT_THROW(init_checkpoint(tiny(), 1, ExpertStorage::kMxfp4, std::nullopt, out, kMaxShardBytes, stop),
               std::runtime_error);
  EXPECT_EQ(entries(scratch.path()), 0U);
}

TEST(InitRefuses, DirectoryThatHoldsAnything) {
  const Scratch scratch;
  scratch.write("out/precious", "x");
  EXPECT_THROW(init_checkpoint(tiny(), 1, ExpertStorage::kMxfp4, std::nullopt, scratch.path() / "out"),
               CheckpointError);
  EXPECT_EQ(entries(scratch.path()), 1U);
  EXPECT_EQ(read_bytes(scratch.path() / "out/precious"), "x");
}

}  // namespace
}  // namespace ossature
