// Values and gradients against transformers 5.18 and peft 0.21, in every layout of a checkpoint.
#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "model/adapter/loaded_model.h"
#include "model/export/export.h"
#include "model/network/head.h"
#include "tests/support/golden.h"

namespace ossature {
namespace {

using testing::Golden;

at::Tensor all_log_probs(const Transformer& transformer, const TokenRows& rows) {
  return at::log_softmax(head_logits(transformer, forward(transformer, rows)), -1);
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

/// |log p of the next token| differences, averaged over all positions that have a next token.
double mean_next_token_distance(const Golden& golden, const at::Tensor& found, const at::Tensor& expected) {
  const std::vector<float> ones(golden.rows().tokens.size(), 1.0f);
  const Targets next = targets_of(golden.rows().tokens, ones, golden.rows().sample_offsets);
  const auto pick = [&](const at::Tensor& all) {
    return all.index_select(0, next.rows).gather(1, next.targets.unsqueeze(1));
  };
  return (pick(found) - pick(expected)).abs().mean().item<double>();
}

class GoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  Golden golden_{GetParam()};

  [[nodiscard]] LoadedModel load(const std::string& layout, const std::string& adapter = "",
                                 at::ScalarType dtype = at::kFloat) const {
    std::optional<std::filesystem::path> adapter_dir;
    if (!adapter.empty()) adapter_dir = golden_.dir() / adapter;
    return load_model(golden_.dir() / layout, adapter_dir, dtype);
  }
};

TEST_P(GoldenTest, LogProbabilitiesInEveryLayout) {
  for (const std::string layout : {"hf", "hf-sharded", "hf-bf16", "openai"}) {
    EXPECT_LT(largest_difference(all_log_probs(load(layout).transformer, golden_.rows()), golden_.log_probs("logits")),
              1e-4)
        << layout;
    EXPECT_LT(largest_difference(all_log_probs(load(layout, "adapter").transformer, golden_.rows()),
                                 golden_.log_probs("adapter.logits")),
              1e-4)
        << layout << " with adapter";
  }
}

TEST_P(GoldenTest, HiddenStatesOfEveryLayer) {
  const LoadedModel model = load("hf");
  const at::Tensor expected = golden_.tensor("hidden_states");
  const SequenceLayout layout(golden_.rows().sample_offsets, model.transformer.config().sliding_window);
  const RopeTable rope = rope_table(model.transformer.config(), layout.positions());
  at::NoGradGuard no_grad;
  at::Tensor x = model.transformer.embed(golden_.tensor("input_ids").flatten());
  for (std::int64_t n = 0; n < model.transformer.config().num_hidden_layers; ++n) {
    const at::Tensor wanted = expected[n].flatten(0, 1);
    EXPECT_LT(largest_difference(x, wanted), 1e-4 * wanted.abs().max().item<double>()) << "input of layer " << n;
    x = model.transformer.run_layer(n, x, {layout, rope});
  }
}

TEST_P(GoldenTest, BFloat16IsNoFurtherFromTheTruthThanTransformers) {
  // Transformers' own mean distance, measured by scripts/make_goldens.py (and stated for the shared goldens).
  const std::string name = golden_.dir().filename().string();
  const double theirs = golden_.has("bf16.mean_distance") ? golden_.tensor("bf16.mean_distance").item<float>()
                        : name == "tiny-a"                ? 0.077
                                                          : 0.072;
  const LoadedModel model = load("hf", "", at::kBFloat16);
  const double ours =
      mean_next_token_distance(golden_, all_log_probs(model.transformer, golden_.rows()), golden_.log_probs("logits"));
  RecordProperty("mean_distance", std::to_string(ours));
  std::cout << name << ": mean distance in bfloat16 " << ours << ", transformers " << theirs << "\n";
  EXPECT_LE(ours, theirs);
}

TEST_P(GoldenTest, EveryAdapterGradient) {
  for (const std::string layout : {"hf", "hf-bf16"}) {
    LoadedModel model = load(layout, "adapter");
    const LossSum sum = backpropagate(model.transformer, golden_.rows(), {});
    EXPECT_NEAR(sum.loss / sum.weight, golden_.tensor("adapter.loss").item<float>(), 1e-5);
    for (const LoraTarget& target : model.adapter->targets()) {
      const at::Tensor a = model.adapter->a(target).grad() / sum.weight,
                       b = model.adapter->b(target).grad() / sum.weight;
      EXPECT_LT(testing::relative_error(a, testing::golden_a(golden_, "grad.", target, true)), 1e-3)
          << target.name << " A";
      EXPECT_LT(testing::relative_error(b, testing::golden_b(golden_, "grad.", target, true)), 1e-3)
          << target.name << " B";
    }
  }
}

TEST_P(GoldenTest, RecomputationChangesNoBit) {
  LoadedModel with = load("hf", "adapter"), without = load("hf", "adapter");
  BackpropagationOptions off;
  off.kept_layers = kAllLayers;
  const LossSum a = backpropagate(with.transformer, golden_.rows(), {});
  const LossSum b = backpropagate(without.transformer, golden_.rows(), off);
  EXPECT_EQ(a.loss, b.loss);
  EXPECT_TRUE(at::equal(with.adapter->parameters().gradients(), without.adapter->parameters().gradients()));
  EXPECT_GT(with.adapter->parameters().gradient_norm(), 0.0);
}

TEST_P(GoldenTest, RecomputationChangesNoBitWithDropout) {
  LoadedModel with = load("hf", "adapter"), without = load("hf", "adapter"), plain = load("hf", "adapter");
  for (LoadedModel* model : {&with, &without}) {
    for (const LoraTarget& target : model->adapter->targets()) {
      low_rank(model->transformer.layers()[static_cast<std::size_t>(target.layer)], target.slot).dropout = 0.3;
    }
  }
  BackpropagationOptions off;
  off.kept_layers = kAllLayers;
  TokenRows rows = golden_.rows();
  rows.dropout_seed = 7;
  const LossSum a = backpropagate(with.transformer, rows, {});
  const LossSum b = backpropagate(without.transformer, rows, off);
  EXPECT_EQ(a.loss, b.loss);
  EXPECT_TRUE(at::equal(with.adapter->parameters().gradients(), without.adapter->parameters().gradients()));
  EXPECT_NE(a.loss, backpropagate(plain.transformer, golden_.rows(), {}).loss);
}

TEST_P(GoldenTest, PackedEqualsUnpacked) {
  LoadedModel packed = load("hf", "adapter"), unpacked = load("hf", "adapter");
  const LossSum together = backpropagate(packed.transformer, golden_.rows(), {});
  LossSum apart;
  for (std::int64_t n = 0; n < golden_.num_rows(); ++n) {
    const LossSum part = backpropagate(unpacked.transformer, golden_.row(n), {});
    apart.loss += part.loss;
    apart.weight += part.weight;
  }
  EXPECT_EQ(together.weight, apart.weight);
  EXPECT_NEAR(together.loss, apart.loss, 1e-5 * together.loss);
  for (const LoraTarget& target : packed.adapter->targets()) {
    EXPECT_LT(testing::relative_error(packed.adapter->a(target).grad(), unpacked.adapter->a(target).grad()), 1e-4)
        << target.name;
    EXPECT_LT(testing::relative_error(packed.adapter->b(target).grad(), unpacked.adapter->b(target).grad()), 1e-4)
        << target.name;
  }
}

TEST_P(GoldenTest, LogProbsBesideTokens) {
  const LoadedModel model = load("hf");
  const at::Tensor found = log_probs(model.transformer, golden_.rows());
  const at::Tensor expected = golden_.log_probs("logits");
  for (std::size_t t = 0; t < golden_.rows().tokens.size(); ++t) {
    const auto i = static_cast<std::int64_t>(t);
    const bool is_first = golden_.rows().sample_offsets[0] == i || golden_.rows().sample_offsets[1] == i;
    if (is_first) {
      EXPECT_TRUE(std::isnan(found[i].item<float>()));
    } else {
      EXPECT_NEAR(found[i].item<float>(), expected[i - 1][golden_.rows().tokens[t]].item<float>(), 1e-4);
    }
  }
}

TEST_P(GoldenTest, MergedModelInBFloat16KeepsTheAdapter) {
  if (!golden_.has("merged.logits")) return;
  const auto out = std::filesystem::temp_directory_path() /
                   ("ossature-merged-" + std::to_string(getpid()) + golden_.dir().filename().string());
  std::filesystem::remove_all(out);
  const LoadedModel model = load("hf", "adapter-trained");
  export_checkpoint(model.checkpoint, Merger(*model.adapter), {ExportFormat::kHf, ExpertStorage::kBf16}, out);
  const LoadedModel merged = load_model(out, std::nullopt, at::kFloat);
  // Merged weights are rounded to bfloat16, so this is an average, of a size that a lost delta exceeds tenfold.
  const at::Tensor found = all_log_probs(merged.transformer, golden_.rows());
  const double kept = mean_next_token_distance(golden_, found, golden_.log_probs("merged.logits"));
  const double lost =
      mean_next_token_distance(golden_, golden_.log_probs("logits"), golden_.log_probs("merged.logits"));
  EXPECT_LT(kept, 0.1 * lost);
  std::filesystem::remove_all(out);
}

INSTANTIATE_TEST_SUITE_P(Peers, GoldenTest, ::testing::ValuesIn(testing::golden_dirs()), testing::golden_test_name);

/// Adapters of other shapes, made with peft for our own golden.
class AdapterVariantTest : public ::testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(AdapterVariantTest, LogProbabilities) {
  const Golden golden(std::filesystem::path(OSSATURE_SOURCE_DIR) / "tests/golden/small");
  const auto [adapter, logits] = GetParam();
  const LoadedModel model = load_model(golden.dir() / "hf", golden.dir() / adapter, at::kFloat);
  EXPECT_LT(largest_difference(all_log_probs(model.transformer, golden.rows()), golden.log_probs(logits)), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Peft, AdapterVariantTest,
                         ::testing::Values(std::pair{"adapter-gate-up", "gate_up.logits"},
                                           std::pair{"adapter-down", "down.logits"},
                                           std::pair{"adapter-patterns", "patterns.logits"}));

}  // namespace
}  // namespace ossature
