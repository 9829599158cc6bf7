// Exports: what no adapter touches keeps its bytes in every layout, and what one touches is base + scale B A.
#include "model/export/export.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "model/adapter/adapter.h"
#include "tests/malformed/scratch.h"
#include "tests/support/tensor_file.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::read_all_tensors;
using testing::same_bytes;
using testing::small;
using testing::Tensors;

constexpr ExportOptions kHfMxfp4{}, kHfBf16{ExportFormat::kHf, ExpertStorage::kBf16},
    kOpenAi{ExportFormat::kOpenAi, ExpertStorage::kMxfp4};

void expect_same_tensors(const Tensors& found, const Tensors& expected) {
  EXPECT_EQ(found.size(), expected.size());
  for (const auto& [name, tensor] : expected) {
    ASSERT_EQ(found.count(name), 1U) << name;
    EXPECT_TRUE(same_bytes(found.at(name), tensor)) << name;
  }
}

/// Exports `from` and returns the tensors of `scratch`/out.
Tensors exported(const fs::path& from, const Merger& merger, const ExportOptions& options, const Scratch& scratch) {
  export_checkpoint(Checkpoint(from), merger, options, scratch.path() / "out");
  return read_all_tensors(scratch.path() / "out");
}

// The goldens' layouts were written by the peers, so each of these is also a check of names and shapes.

TEST(Export, EveryLayoutBecomesThePeersOther) {
  for (const char* from : {"hf", "hf-sharded", "openai"}) {
    for (const auto& [options, to] :
         {std::pair{kHfMxfp4, "hf"}, std::pair{kHfBf16, "hf-bf16"}, std::pair{kOpenAi, "openai"}}) {
      const Scratch scratch;
      SCOPED_TRACE(std::string(from) + " to " + to);
      expect_same_tensors(exported(small(from), {}, options, scratch), read_all_tensors(small(to)));
    }
  }
  const Scratch scratch;
  expect_same_tensors(exported(small("hf-bf16"), {}, kHfBf16, scratch), read_all_tensors(small("hf-bf16")));
}

TEST(Export, ThereAndBackIsTheSameModel) {
  const Scratch first, second;
  (void)exported(small("hf"), {}, kOpenAi, first);
  expect_same_tensors(exported(first.path() / "out", {}, kHfMxfp4, second), read_all_tensors(small("hf")));
  ModelConfig config = read_config(small("hf") / "config.json");
  config.eos_token_id = config.pad_token_id = -1;  // OpenAI's config.json has none, and the vocabulary is not o200k's
  EXPECT_EQ(read_config(second.path() / "out/config.json"), config);
}

/// Blocks and scales may be told otherwise (the small golden has scales that no encoder would choose); values may not.
TEST(Export, Bfloat16OnTheGridBecomesMxfp4OfTheSameValues) {
  for (const ExportOptions& options : {kHfMxfp4, kOpenAi}) {
    const Scratch scratch;
    (void)exported(small("hf-bf16"), {}, options, scratch);
    const Checkpoint packed(scratch.path() / "out"), dense(small("hf-bf16"));
    ASSERT_EQ(packed.experts(), ExpertStorage::kMxfp4);
    for (const TensorShape& tensor : tensor_shapes(dense.config())) {
      if (!tensor.is_expert_weight) {
        EXPECT_TRUE(same_bytes(packed.tensor(tensor.name), dense.tensor(tensor.name))) << tensor.name;
        continue;
      }
      const at::Tensor found = mxfp4_decode(packed.expert_weight(tensor.name).packed, at::kFloat);
      EXPECT_TRUE(at::equal(found, dense.expert_weight(tensor.name).dense.to(at::kFloat))) << tensor.name;
    }
  }
}

TEST(Export, Float32StaysFloat32) {
  // All but one of q and k: OpenAI's layout joins the two, and must not cut the one to the other's bfloat16.
  const std::string q = "model.layers.0.self_attn.q_proj.weight", k = "model.layers.0.self_attn.k_proj.weight";
  for (const std::string& narrow : {q, k}) {
    const Scratch in, out, joint;
    fs::copy(small("hf-bf16"), in.path() / "base");
    Tensors tensors = testing::read_tensors(in.path() / "base/model.safetensors");
    for (auto& [name, tensor] : tensors) {
      if (name != narrow) tensor = tensor.to(at::kFloat) * 1.0001f;
    }
    testing::write_tensors(in.path() / "base/model.safetensors", tensors);
    expect_same_tensors(exported(in.path() / "base", {}, kHfBf16, out), tensors);
    const at::Tensor qkv = exported(in.path() / "base", {}, kOpenAi, joint).at("block.0.attn.qkv.weight");
    EXPECT_TRUE(same_bytes(qkv.narrow(0, 0, 64), tensors.at(q).to(at::kFloat)));
    EXPECT_TRUE(same_bytes(qkv.narrow(0, 64, 32), tensors.at(k).to(at::kFloat)));
  }
}

TEST(Export, ShardsHoldTheSameTensors) {
  for (const std::int64_t limit : {1, 5'000, 40'000, 1 << 20}) {
    const Scratch scratch;
    ExportOptions options = kHfMxfp4;
    options.max_shard_bytes = limit;
    expect_same_tensors(exported(small("hf"), {}, options, scratch), read_all_tensors(small("hf")));
    EXPECT_EQ(fs::exists(scratch.path() / "out/model.safetensors.index.json"), limit < (1 << 20));
    EXPECT_EQ(Checkpoint(scratch.path() / "out").num_parameters(), Checkpoint(small("hf")).num_parameters());
  }
}

/// scale * B A of a target [O, I] (of expert e, if it is one), in float64 from the tensors of PEFT's file: rows e r + i
/// of A and columns i E + e of B.
at::Tensor delta(const Tensors& adapter, const std::string& key, double scale, std::int64_t e, std::int64_t experts) {
  const at::Tensor a = adapter.at("base_model.model." + key + ".lora_A.weight").to(at::kDouble);
  const at::Tensor b = adapter.at("base_model.model." + key + ".lora_B.weight").to(at::kDouble);
  const auto r = a.size(0) / experts;
  at::Tensor sum = at::zeros({b.size(0), a.size(1)}, at::kDouble);
  for (std::int64_t i = 0; i < r; ++i) sum += at::outer(b.select(1, i * experts + e), a[e * r + i]) * scale;
  return sum;
}

/// Every value of `found`, in bfloat16, is one of the two next to the float64 value, but for the rounding of the merge
/// itself, which is float32's. balanced_rounding_test says which of them.
void expect_rounded(const at::Tensor& found, const at::Tensor& exact, const std::string& name) {
  const at::Tensor unit = at::exp2(exact.abs().clamp_min(1e-30).log2().floor() - 7.0);
  const at::Tensor bound = unit + 1e-6 * exact.abs().max();
  EXPECT_TRUE(((found.to(at::kDouble) - exact).abs() <= bound).all().item<bool>()) << name;
}

struct Merged {
  Checkpoint base{small("hf")};
  Lora lora = read_adapter(small("adapter-trained"), base.config());  // r 2, alpha 4, attention and both parameters
  Tensors adapter = testing::read_tensors(small("adapter-trained") / "adapter_model.safetensors");
  static constexpr double kScale = 2.0;

  /// The exact merged weight of an expert.
  [[nodiscard]] at::Tensor expert(const std::string& name, std::int64_t e) const {
    const bool is_gate_up = name.ends_with("gate_up_proj");
    const std::string module = name.substr(0, name.rfind('.')) + (is_gate_up ? ".base_layer" : "");
    return mxfp4_decode(base.expert_weight(name).packed, at::kFloat)[e].to(at::kDouble) +
           delta(adapter, module, kScale, e, 4);
  }
  [[nodiscard]] at::Tensor dense(const std::string& module) const {
    return base.tensor(module + ".weight").to(at::kDouble) + delta(adapter, module, kScale, 0, 1);
  }
};

bool is_attention_weight(const std::string& name) {
  return name.find("self_attn.") != std::string::npos && name.ends_with("_proj.weight");
}

TEST(Export, AdapterIsMergedIntoWhatItTargetsAndNothingElse) {
  const Merged m;
  const Scratch scratch;
  const Tensors found = exported(small("hf"), Merger(m.lora), kHfBf16, scratch),
                base = read_all_tensors(small("hf-bf16"));
  ASSERT_EQ(found.size(), base.size());
  for (const auto& [name, tensor] : base) {
    if (is_attention_weight(name)) {
      expect_rounded(found.at(name), m.dense(name.substr(0, name.rfind('.'))), name);
      EXPECT_FALSE(same_bytes(found.at(name), tensor)) << name;
    } else if (name.ends_with("gate_up_proj") || name.ends_with("down_proj")) {
      for (std::int64_t e = 0; e < 4; ++e) expect_rounded(found.at(name)[e].t(), m.expert(name, e), name);
      EXPECT_FALSE(same_bytes(found.at(name), tensor)) << name;
    } else {
      EXPECT_TRUE(same_bytes(found.at(name), tensor)) << name;
    }
  }
}

/// The nearest values of the grid at `scales` [O, G], by a search over its magnitudes.
at::Tensor nearest_at(const at::Tensor& exact, const at::Tensor& scales) {
  const at::Tensor magnitudes = at::tensor({0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0}, at::kDouble);
  const at::Tensor scale = at::exp2(scales.to(at::kDouble) - 127).repeat_interleave(32, 1);
  const at::Tensor nearest = ((exact.abs() / scale).unsqueeze(-1) - magnitudes).abs().argmin(-1);
  return magnitudes.index({nearest}) * scale * exact.sign();
}

TEST(Export, MergedExpertsAreTheNearestAtTheBasesScales) {
  const Merged m;
  for (const ExportOptions& options : {kHfMxfp4, kOpenAi}) {
    const Scratch scratch;
    export_checkpoint(m.base, Merger(m.lora), options, scratch.path() / "out");
    const Checkpoint out(scratch.path() / "out");
    for (const TensorShape& tensor : tensor_shapes(m.base.config())) {
      if (is_attention_weight(tensor.name)) {
        expect_rounded(out.tensor(tensor.name), m.dense(tensor.name.substr(0, tensor.name.rfind('.'))), tensor.name);
      } else if (!tensor.is_expert_weight) {
        EXPECT_TRUE(same_bytes(out.tensor(tensor.name), m.base.tensor(tensor.name))) << tensor.name;
      } else {
        for (std::int64_t e = 0; e < 4; ++e) {
          const at::Tensor exact = m.expert(tensor.name, e);
          const at::Tensor found = mxfp4_decode_expert(out.expert_weight(tensor.name).packed, e, at::kFloat);
          const at::Tensor scales = m.base.expert_weight(tensor.name).packed.scales[e];
          EXPECT_TRUE(at::equal(out.expert_weight(tensor.name).packed.scales[e], scales)) << tensor.name;
          // A value within float32's rounding of the middle between two may go either way.
          const at::Tensor differs = found != nearest_at(exact, scales);
          EXPECT_LE(differs.sum().item<std::int64_t>(), 4) << tensor.name;
        }
      }
    }
  }
}

/// An adapter of one expert parameter in MXFP4: all other experts keep blocks and scales to the byte.
TEST(Export, UntouchedExpertsKeepTheirBlocks) {
  for (const auto& [adapter, touched] :
       {std::pair{"adapter-gate-up", "gate_up_proj_"}, std::pair{"adapter-down", "down_proj_"},
        std::pair{"adapter-patterns", "nothing"}}) {
    const Scratch scratch;
    const Lora lora = read_adapter(small(adapter), read_config(small("hf") / "config.json"));
    const Tensors found = exported(small("hf"), Merger(lora), kHfMxfp4, scratch), base = read_all_tensors(small("hf"));
    ASSERT_EQ(found.size(), base.size());
    std::size_t changed = 0;
    for (const auto& [name, tensor] : base) {
      if (same_bytes(found.at(name), tensor)) continue;
      ++changed;
      const bool is_patterns_target =
          std::string(adapter) == "adapter-patterns" && is_attention_weight(name) &&
          name.find("layers.1.") == std::string::npos &&
          (name.find("q_proj") != std::string::npos || name.find("v_proj") != std::string::npos);
      EXPECT_TRUE(is_patterns_target || (name.find(touched) != std::string::npos && !name.ends_with("bias"))) << name;
    }
    EXPECT_GT(changed, 0U) << adapter;
  }
}

/// Trained on layer 1's down_proj alone.
Lora one_expert_weight(const ModelConfig& config) {
  LoraConfig lora;
  lora.r = 2;
  lora.lora_alpha = 3.0;
  lora.target_parameters = {"1.mlp.experts.down_proj"};
  Lora adapter(lora, config, 4);
  adapter.parameters().values().uniform_(-0.5, 0.5);
  return adapter;
}

constexpr ExportOptions kMixed{ExportFormat::kHf, ExpertStorage::kMixed};

TEST(Export, MixedHasBfloat16WhereExpertsChangedAndIsReadAgain) {
  const Lora lora = one_expert_weight(read_config(small("hf") / "config.json"));
  const Scratch mixed, dense, again;
  const Tensors found = exported(small("hf"), Merger(lora), kMixed, mixed), packed = read_all_tensors(small("hf")),
                merged = exported(small("hf"), Merger(lora), kHfBf16, dense);
  for (const auto& [name, tensor] : found) {
    const bool is_dense = name.find("layers.1.mlp.experts.") != std::string::npos;
    EXPECT_TRUE(same_bytes(tensor, is_dense ? merged.at(name) : packed.at(name))) << name;
  }
  EXPECT_EQ(found.size(), packed.size() - 2);
  const json config = json::parse(read_bytes(mixed.path() / "out/config.json"));
  const json& excepted = config.at("quantization_config").at("modules_to_not_convert");
  EXPECT_EQ(excepted.size(), 5U);
  EXPECT_EQ(excepted.back(), "model.layers.1.mlp.experts");

  const Checkpoint read(mixed.path() / "out");
  EXPECT_EQ(read.experts(), ExpertStorage::kMixed);
  EXPECT_TRUE(read.expert_weight("model.layers.0.mlp.experts.gate_up_proj").is_packed());
  EXPECT_FALSE(read.expert_weight("model.layers.1.mlp.experts.gate_up_proj").is_packed());
  EXPECT_EQ(read.num_parameters(), Checkpoint(small("hf")).num_parameters());
  expect_same_tensors(exported(mixed.path() / "out", {}, kMixed, again), found);
}

TEST(Export, MixedWithoutChangedExpertsIsMxfp4) {
  const Scratch scratch;
  expect_same_tensors(exported(small("hf"), {}, kMixed, scratch), read_all_tensors(small("hf")));
  const json config = json::parse(read_bytes(scratch.path() / "out/config.json"));
  EXPECT_EQ(config.at("quantization_config").at("modules_to_not_convert").size(), 4U);
}

TEST(Export, SeveralAdaptersAddUpByWeight) {
  const Merged m;
  const Lora other = one_expert_weight(m.base.config());
  Merger merger(m.lora, 0.5);
  merger.add(other, -2.0);
  const Scratch scratch;
  const Tensors found = exported(small("hf"), merger, kHfBf16, scratch);
  const std::string name = "model.layers.1.mlp.experts.down_proj", q = "model.layers.0.self_attn.q_proj";
  const at::Tensor base = mxfp4_decode(m.base.expert_weight(name).packed, at::kFloat).to(at::kDouble);
  const LoraTarget& target = other.targets().front();
  for (std::int64_t e = 0; e < 4; ++e) {
    const at::Tensor product =
        other.b(target)[e].detach().to(at::kDouble).matmul(other.a(target)[e].detach().to(at::kDouble));
    const at::Tensor exact = base[e] + 0.5 * (m.expert(name, e) - base[e]) - 2.0 * 1.5 * product;
    expect_rounded(found.at(name)[e].t(), exact, name);
  }
  const at::Tensor stored = m.base.tensor(q + ".weight").to(at::kDouble);
  expect_rounded(found.at(q + ".weight"), stored + 0.5 * (m.dense(q) - stored), q);
}

TEST(Export, ReplacementsAreWrittenInsteadOfWhatIsMerged) {
  const Merged m;
  const std::string weight = "model.layers.0.mlp.experts.down_proj", bias = weight + "_bias";
  Replacements replacements;
  const Mxfp4Tensor other = m.base.expert_weight("model.layers.1.mlp.experts.down_proj").packed;
  replacements.experts[weight] = other;
  replacements.tensors[bias] = m.base.tensor("model.layers.1.mlp.experts.down_proj_bias");
  for (ExportOptions options : {kHfMxfp4, kOpenAi}) {
    const Scratch plain, replaced;
    const Tensors before = exported(small("hf"), Merger(m.lora), options, plain);
    options.replacements = &replacements;
    (void)exported(small("hf"), Merger(m.lora), options, replaced);
    const Checkpoint found(replaced.path() / "out"), merged(plain.path() / "out");
    EXPECT_TRUE(same_bytes(found.expert_weight(weight).packed.blocks, other.blocks));
    EXPECT_TRUE(same_bytes(found.expert_weight(weight).packed.scales, other.scales));
    EXPECT_TRUE(same_bytes(found.tensor(bias), replacements.tensors.at(bias)));
    const std::string rest = "model.layers.0.mlp.experts.gate_up_proj";
    EXPECT_TRUE(same_bytes(found.expert_weight(rest).packed.blocks, merged.expert_weight(rest).packed.blocks));
  }
}

TEST(Export, RouterIsMerged) {
  LoraConfig config;
  config.r = 2;
  config.lora_alpha = 3.0;
  config.target_parameters = {"1.mlp.router.weight"};
  const Checkpoint base(small("hf"));
  Lora lora(config, base.config(), 4);
  lora.parameters().values().uniform_(-0.5, 0.5);
  const Scratch scratch;
  const Tensors found = exported(small("hf"), Merger(lora), kHfMxfp4, scratch), before = read_all_tensors(small("hf"));
  const LoraTarget& target = lora.targets().front();
  const at::Tensor product = lora.b(target).detach().to(at::kDouble).matmul(lora.a(target).detach().to(at::kDouble));
  for (const auto& [name, tensor] : before) {
    if (name == "model.layers.1.mlp.router.weight") {
      expect_rounded(found.at(name), tensor.to(at::kDouble) + 1.5 * product, name);
      EXPECT_FALSE(same_bytes(found.at(name), tensor));
    } else {
      EXPECT_TRUE(same_bytes(found.at(name), tensor)) << name;
    }
  }
}

const std::vector<std::string> kCompanions = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                              "chat_template.jinja", "generation_config.json"};

TEST(Export, CompanionFilesTravelAlong) {
  for (const std::string below : {"", "original"}) {  // OpenAI's layout may lie one directory below its tokenizer
    const Scratch scratch;
    const fs::path base = scratch.path() / "base";
    fs::create_directories(base / below);
    fs::copy(small("openai"), base / below, fs::copy_options::recursive);
    for (const std::string& name : kCompanions) scratch.write("base/" + name, "bytes of " + name + "\n\xff");
    scratch.write("base/README.md", "not one of them");
    export_checkpoint(Checkpoint(base), {}, kHfMxfp4, scratch.path() / "out");
    for (const std::string& name : kCompanions)
      EXPECT_EQ(read_bytes(scratch.path() / "out" / name), "bytes of " + name + "\n\xff");
    EXPECT_FALSE(fs::exists(scratch.path() / "out/README.md"));
  }
}

TEST(Export, ConfigurationBelongsToTheLayout) {
  const Scratch mxfp4, bf16, openai;
  (void)exported(small("hf"), {}, kHfMxfp4, mxfp4);
  (void)exported(small("hf"), {}, kHfBf16, bf16);
  (void)exported(small("hf"), {}, kOpenAi, openai);
  EXPECT_EQ(json::parse(read_bytes(mxfp4.path() / "out/config.json")).at("quantization_config").at("quant_method"),
            "mxfp4");
  EXPECT_FALSE(json::parse(read_bytes(bf16.path() / "out/config.json")).contains("quantization_config"));
  EXPECT_EQ(json::parse(read_bytes(openai.path() / "out/config.json")),
            json::parse(read_bytes(small("openai") / "config.json")));
  for (const Scratch* scratch : {&mxfp4, &bf16})
    EXPECT_EQ(read_config(scratch->path() / "out/config.json"), read_config(small("hf") / "config.json"));
  const json kinds = json::parse(read_bytes(openai.path() / "out/dtypes.json"));
  const Tensors tensors = read_all_tensors(openai.path() / "out");
  EXPECT_EQ(kinds.size(), tensors.size());
  for (const auto& [name, tensor] : tensors)
    EXPECT_EQ(kinds.at(name), tensor.scalar_type() == at::kBFloat16 ? "BF16"
                              : tensor.dim() == 4                   ? "FP4"
                                                                    : "UE8")
        << name;
}

TEST(Export, ProgressReachesTheWhole) {
  const Scratch scratch;
  std::int64_t last = 0, whole = 0;
  export_checkpoint(Checkpoint(small("hf")), {}, {}, scratch.path() / "out",
                    [&](std::int64_t written, std::int64_t total) {
                      EXPECT_GE(written, last);
                      last = written;
                      whole = total;
                    });
  EXPECT_EQ(last, whole);
  EXPECT_EQ(whole, Checkpoint(small("hf")).stored_bytes());
}

std::size_t entries(const fs::path& dir) {
  std::size_t count = 0;
  for (const auto& entry : fs::directory_iterator(dir)) count += entry.exists() ? 1 : 0;
  return count;
}

TEST(ExportRefuses, MixedInOpenAisLayout) {
  const Scratch scratch;
  EXPECT_THROW(export_checkpoint(Checkpoint(small("hf")), {}, {ExportFormat::kOpenAi, ExpertStorage::kMixed},
                                 scratch.path() / "out"),
               CheckpointError);
}

TEST(ExportRefuses, DirectoryThatHoldsAnything) {
  const Scratch scratch;
  scratch.write("full/precious", "x");
  const fs::path file = scratch.write("file", "x");
  const Checkpoint base(small("hf"));
  for (const fs::path& out : {scratch.path() / "full", file, scratch.path() / "full/"})
    EXPECT_THROW(export_checkpoint(base, {}, {}, out), CheckpointError) << out;
  EXPECT_EQ(read_bytes(scratch.path() / "full/precious"), "x");
  EXPECT_EQ(entries(scratch.path()), 2U);
  fs::create_directory(scratch.path() / "empty");
  EXPECT_NO_THROW(export_checkpoint(base, {}, {}, scratch.path() / "empty"));
  EXPECT_NO_THROW(export_checkpoint(base, {}, {}, scratch.path() / "slash/"));
  EXPECT_NO_THROW(Checkpoint(scratch.path() / "slash"));
}

TEST(ExportRefuses, OpenAiLayoutWithBfloat16Experts) {
  const Scratch scratch;
  EXPECT_THROW(export_checkpoint(Checkpoint(small("hf")), {}, {ExportFormat::kOpenAi, ExpertStorage::kBf16},
                                 scratch.path() / "out"),
               CheckpointError);
  EXPECT_EQ(entries(scratch.path()), 0U);
}

TEST(ExportRefuses, AdapterWhoseMergeIsNotFinite) {
  const Checkpoint base(small("hf"));
  for (const char* parameter : {"2.mlp.experts.down_proj", "2.mlp.router.weight"}) {
    for (const ExportOptions& options : {kHfMxfp4, kHfBf16, kOpenAi}) {
      const Scratch scratch;
      LoraConfig config;
      config.target_parameters = {parameter};
      Lora lora(config, base.config(), 0);
      lora.parameters().values().fill_(1e30f);
      EXPECT_THROW(export_checkpoint(base, Merger(lora), options, scratch.path() / "a/b/out"), CheckpointError);
      EXPECT_EQ(entries(scratch.path()), 0U);  // nor the directories made on the way
    }
  }
}

TEST(ExportFails, InTheMiddleAndLeavesNothing) {
  const Scratch scratch;
  fs::create_directory(scratch.path() / "out");
  const auto stop = [](std::int64_t written, std::int64_t total) {
    if (2 * written > total) throw std::runtime_error("interrupted");
  };
  EXPECT_THROW(export_checkpoint(Checkpoint(small("hf")), {}, {}, scratch.path() / "out", stop), std::runtime_error);
  EXPECT_EQ(entries(scratch.path()), 1U);
  EXPECT_EQ(entries(scratch.path() / "out"), 0U);
}

}  // namespace
}  // namespace ossature
