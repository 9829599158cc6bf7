// A GGUF file and back: the same tensors to the byte, and the configuration and the tokenizer that it can tell.
#include "model/export/export_gguf.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "model/adapter/adapter.h"
#include "model/adapter/adapter_gguf.h"
#include "model/checkpoint/gguf_config.h"
#include "model/checkpoint/gguf_names.h"
#include "tests/malformed/scratch.h"
#include "tests/support/tensor_file.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using testing::read_all_tensors;
using testing::same_bytes;
using testing::small;

ExpertStorage storage_of(const std::string& layout) {
  return layout == "hf-bf16" ? ExpertStorage::kBf16 : ExpertStorage::kMxfp4;
}

/// The checkpoint `from` in another format, in `to`.
fs::path exported(const fs::path& from, const fs::path& to, ExportFormat format, ExpertStorage experts) {
  ExportOptions options;
  options.format = format;
  options.experts = experts;
  export_checkpoint(Checkpoint(from), Merger(), options, to);
  return to;
}

fs::path exported_gguf(const fs::path& from, const fs::path& to, ExpertStorage experts, const Merger& merger = {}) {
  ExportOptions options;
  options.experts = experts;
  export_gguf(Checkpoint(from), merger, options, to);
  return to;
}

void expect_same_tensors(const fs::path& left, const fs::path& right) {
  const auto expected = read_all_tensors(left), found = read_all_tensors(right);
  ASSERT_EQ(expected.size(), found.size());
  for (const auto& [name, tensor] : expected) {
    ASSERT_EQ(found.count(name), 1U) << name;
    EXPECT_TRUE(same_bytes(found.at(name), tensor)) << name;
  }
}

class GgufRoundTrip : public ::testing::TestWithParam<std::string> {};

TEST_P(GgufRoundTrip, GivesTheSameBytes) {
  const Scratch scratch;
  const std::string layout = GetParam();
  const fs::path gguf = exported_gguf(small(layout), scratch.path() / "a.gguf", storage_of(layout));
  const Checkpoint opened(gguf);
  EXPECT_EQ(opened.layout(), Layout::kGguf);
  EXPECT_EQ(opened.experts(), storage_of(layout));
  EXPECT_NO_THROW(opened.check_scales());
  EXPECT_EQ(opened.num_parameters(), Checkpoint(small(layout)).num_parameters());
  EXPECT_EQ(opened.config(), Checkpoint(small(layout)).config());
  const bool is_openai = layout == "openai";
  const fs::path back = exported(gguf, scratch.path() / "back", is_openai ? ExportFormat::kOpenAi : ExportFormat::kHf,
                                 storage_of(layout));
  expect_same_tensors(small(layout), back);
  const fs::path again = exported_gguf(back, scratch.path() / "again.gguf", storage_of(layout));
  const fs::path directly = exported_gguf(gguf, scratch.path() / "directly.gguf", storage_of(layout));
  // The name of the model is its folder's.
  for (const fs::path& other : {again, directly}) {
    const auto expected = GgufFile::open(gguf), found = GgufFile::open(other);
    ASSERT_EQ(expected->tensors().size(), found->tensors().size());
    for (const GgufTensor& tensor : expected->tensors()) {
      const GgufTensor* same = found->find(tensor.name);
      ASSERT_NE(same, nullptr) << tensor.name;
      EXPECT_EQ(same->type, tensor.type);
      const auto left = expected->bytes(tensor), right = found->bytes(*same);
      EXPECT_TRUE(std::equal(left.begin(), left.end(), right.begin(), right.end())) << tensor.name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, GgufRoundTrip, ::testing::Values("hf", "hf-sharded", "hf-bf16", "openai"),
                         [](const auto& param_info) {
                           std::string name = param_info.param;
                           std::erase(name, '-');
                           return name;
                         });

TEST(ExportGguf, MergesAsTheOtherFormatsDo) {
  const Scratch scratch;
  const Checkpoint base(small("hf"));
  const Lora adapter = read_adapter(small("adapter-trained"), base.config());
  const Merger merger(adapter);
  for (const ExpertStorage experts : {ExpertStorage::kMxfp4, ExpertStorage::kBf16, ExpertStorage::kMixed}) {
    const std::string name = std::to_string(static_cast<int>(experts));
    ExportOptions options;
    options.experts = experts;
    export_checkpoint(base, merger, options, scratch.path() / name);
    const fs::path gguf = exported_gguf(small("hf"), scratch.path() / (name + ".gguf"), experts, merger);
    const Checkpoint expected(scratch.path() / name), found(gguf);
    for (const TensorShape& tensor : tensor_shapes(base.config())) {
      if (!tensor.is_expert_weight) {
        EXPECT_TRUE(at::equal(expected.tensor(tensor.name).to(at::kFloat),
                              found.tensor(tensor.name).to(at::kBFloat16).to(at::kFloat)))
            << tensor.name;
        continue;
      }
      const ExpertWeight left = expected.expert_weight(tensor.name), right = found.expert_weight(tensor.name);
      ASSERT_EQ(left.is_packed(), right.is_packed());
      for (std::int64_t e = 0; e < left.num_experts(); ++e)
        EXPECT_TRUE(at::equal(merge_expert(left, {}, e), merge_expert(right, {}, e))) << tensor.name << " " << e;
    }
  }
}

TEST(ExportGguf, WritesReplacements) {
  const Scratch scratch;
  const Checkpoint base(small("hf"));
  Replacements replacements;
  const std::string name = expert_weight_names(1).front();
  const Mxfp4Tensor packed = base.expert_weight(name).packed;
  replacements.experts[name] = {packed.blocks.bitwise_xor(0x11), packed.scales.clone()};
  replacements.tensors["model.norm.weight"] = base.tensor("model.norm.weight") * 2;
  ExportOptions options;
  options.replacements = &replacements;
  export_gguf(base, {}, options, scratch.path() / "a.gguf");
  const Checkpoint found(scratch.path() / "a.gguf");
  EXPECT_TRUE(same_bytes(found.expert_weight(name).packed.blocks, replacements.experts[name].blocks));
  EXPECT_TRUE(same_bytes(found.tensor("model.norm.weight"), replacements.tensors["model.norm.weight"]));
}

TEST(ExportGguf, TakenPathsAndWhatItCannotTellAreRefused) {
  const Scratch scratch;
  const fs::path taken = scratch.write("a.gguf", "x");
  EXPECT_THROW(exported_gguf(small("hf"), taken, ExpertStorage::kMxfp4), CheckpointError);
  EXPECT_EQ(read_bytes(taken), "x");
  ModelConfig config = Checkpoint(small("hf")).config();
  config.swiglu_limit = 8;
  EXPECT_THROW((void)gguf_config(config), CheckpointError);
  config.swiglu_limit = 7;
  config.sliding_layers[0] = !config.sliding_layers[0];
  EXPECT_THROW((void)gguf_config(config), CheckpointError);
}

TEST(ExportGguf, TruncateIsKept) {
  const Scratch scratch;
  fs::copy(small("hf"), scratch.path() / "model");
  ModelConfig config = Checkpoint(small("hf")).config();
  config.rope_scaling.truncate = true;
  scratch.write("model/config.json", hf_config_json(config, true));
  const fs::path gguf = exported_gguf(scratch.path() / "model", scratch.path() / "a", ExpertStorage::kMxfp4);
  EXPECT_EQ(Checkpoint(gguf).config(), config);  // a directory that holds model.gguf
}

TEST(ExportGguf, TokenizerComesBack) {
  const Scratch scratch;
  const fs::path model = fs::path(OSSATURE_SOURCE_DIR) / "recipes/embedded/model";
  const fs::path gguf = exported_gguf(model, scratch.path() / "a.gguf", ExpertStorage::kMxfp4);
  const fs::path back = exported(gguf, scratch.path() / "back", ExportFormat::kHf, ExpertStorage::kMxfp4);
  const auto parse = [](const fs::path& file) { return nlohmann::json::parse(read_bytes(file)); };
  EXPECT_EQ(parse(back / "tokenizer.json"), parse(model / "tokenizer.json"));
  EXPECT_EQ(parse(back / "tokenizer_config.json")["eos_token"], "<|return|>");
  EXPECT_EQ(read_bytes(back / "config.json"), read_bytes(model / "config.json"));
  const auto again = GgufFile::open(exported_gguf(gguf, scratch.path() / "b.gguf", ExpertStorage::kMxfp4));
  const auto first = GgufFile::open(gguf);
  const GgufValue* tokens = first->find_value("tokenizer.ggml.tokens");
  ASSERT_NE(tokens, nullptr);
  EXPECT_EQ(*again->find_value("tokenizer.ggml.tokens"), *tokens);
}

TEST(GgufAdapter, SplitsGateAndUpAndKeepsTheScale) {
  const Scratch scratch;
  const Checkpoint base(small("hf"));
  const Lora adapter = read_adapter(small("adapter-trained"), base.config());
  const Merger merger(adapter);
  write_gguf_adapter(merger, scratch.path() / "a.gguf");
  const auto file = GgufFile::open(scratch.path() / "a.gguf");
  const float alpha = std::get<float>(*file->find_value("adapter.lora.alpha"));
  const auto read = [&](const std::string& name) {
    const GgufTensor* info = file->find(name);
    if (info == nullptr) throw std::logic_error(name + " is missing");
    return at::from_blob(const_cast<std::byte*>(file->bytes(*info).data()), info->shape, at::kFloat);
  };
  for (const auto& [name, pair] : merger.pairs()) {
    const at::Tensor wanted = at::matmul(pair.b.detach(), pair.a.detach()) * pair.scale;
    const std::vector<std::string> names = gguf_names(name);
    for (std::size_t i = 0; i < names.size(); ++i) {
      const at::Tensor a = read(names[i] + ".lora_a"), b = read(names[i] + ".lora_b");
      const at::Tensor found = at::matmul(b, a) * (alpha / static_cast<float>(b.size(-1)));
      const at::Tensor part =
          names.size() == 1 ? wanted : wanted.slice(1, static_cast<std::int64_t>(i), std::nullopt, 2);
      EXPECT_TRUE(at::allclose(found, part, 1e-5, 1e-7)) << names[i];
    }
  }
  EXPECT_THROW(write_gguf_adapter(merger, scratch.path() / "a.gguf"), CheckpointError);
  EXPECT_THROW(write_gguf_adapter(Merger(), scratch.path() / "b.gguf"), CheckpointError);
}

}  // namespace
}  // namespace ossature
