// Layers rounded for calibration data: what is replaced, and that a run which stopped goes on to the same bytes.
#include "model/export/calibrated_rounding.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include <ATen/core/grad_mode.h>

#include "model/adapter/loaded_model.h"
#include "model/export/export.h"
#include "model/export/export_gguf.h"
#include "tests/malformed/scratch.h"
#include "tests/support/golden.h"
#include "tests/support/tensor_file.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using testing::Golden;
using testing::same_bytes;
using testing::small;

struct Case {
  Golden golden{small("")};
  LoadedModel model;
  Scratch scratch;
  std::vector<TokenRows> rows = {golden.row(0), golden.row(1)};
  CalibratedRounding options{RoundedTo::kMxfp4, scratch.path() / "work", "key", {}};

  explicit Case(const std::string& adapter = "adapter-trained", RoundedTo grid = RoundedTo::kMxfp4)
      : model(load_model(small("hf"), small(adapter), at::kBFloat16)) {
    options.grid = grid;
  }
  [[nodiscard]] RoundedLayers rounded(const std::function<void(std::int64_t, std::int64_t)>& progress = {}) const {
    return round_calibrated(model.checkpoint, model.transformer, rows, options, progress);
  }
  [[nodiscard]] std::map<std::string, std::string> files() const {
    std::map<std::string, std::string> found;
    for (const auto& entry : fs::directory_iterator(options.work)) {
      found[entry.path().filename()] = read_bytes(entry.path());
    }
    return found;
  }
};

TEST(CalibratedRounding, ReplacesTheAdaptedExpertsAndTheirBiases) {
  const Case run;
  const RoundedLayers found = run.rounded();
  const auto layers = run.model.checkpoint.config().num_hidden_layers;
  EXPECT_EQ(found.replacements.experts.size(), static_cast<std::size_t>(2 * layers));
  EXPECT_EQ(found.replacements.tensors.size(), static_cast<std::size_t>(2 * layers));
  EXPECT_EQ(found.layers_taken, 0);
  for (const auto& [name, weight] : found.replacements.experts) {
    const ExpertWeight base = run.model.checkpoint.expert_weight(name);
    EXPECT_TRUE(same_bytes(weight.scales, base.packed.scales)) << name;
    EXPECT_EQ(weight.blocks.sizes(), base.packed.blocks.sizes()) << name;
    EXPECT_FALSE(same_bytes(weight.blocks, base.packed.blocks)) << name;
    const at::Tensor bias = found.replacements.tensors.at(name + "_bias"),
                     old = run.model.checkpoint.tensor(name + "_bias");
    EXPECT_EQ(bias.sizes(), old.sizes());
    EXPECT_EQ(bias.scalar_type(), old.scalar_type());
    EXPECT_FALSE(same_bytes(bias, old)) << name;
  }
  EXPECT_NEAR(found.gate_up.realised / found.gate_up.wanted, 1.0, 0.2);
  EXPECT_NEAR(found.down.realised / found.down.wanted, 1.0, 0.2);
}

/// The codes that were found, and all else as it is merged, whichever layout is written.
TEST(CalibratedRounding, EveryLayoutGetsTheSameCodes) {
  const Case run;
  const RoundedLayers rounded = run.rounded();
  const Merger merger(*run.model.adapter);
  const fs::path hf = run.scratch.path() / "hf", openai = run.scratch.path() / "openai",
                 gguf = run.scratch.path() / "model.gguf";
  ExportOptions how;
  how.replacements = &rounded.replacements;
  export_checkpoint(run.model.checkpoint, merger, how, hf);
  export_gguf(run.model.checkpoint, merger, how, gguf);
  how.format = ExportFormat::kOpenAi;
  export_checkpoint(run.model.checkpoint, merger, how, openai);
  const Checkpoint expected(hf);
  for (const fs::path& path : {openai, gguf}) {
    const Checkpoint found(path);
    for (const TensorShape& tensor : tensor_shapes(expected.config())) {
      if (!tensor.is_expert_weight) {
        EXPECT_TRUE(at::equal(found.tensor(tensor.name).to(at::kFloat), expected.tensor(tensor.name).to(at::kFloat)))
            << path << " " << tensor.name;
        continue;
      }
      const Mxfp4Tensor codes = found.expert_weight(tensor.name).packed;
      const Mxfp4Tensor& wanted = rounded.replacements.experts.at(tensor.name);
      EXPECT_TRUE(same_bytes(codes.blocks, wanted.blocks)) << path << " " << tensor.name;
      EXPECT_TRUE(same_bytes(codes.scales, wanted.scales)) << path << " " << tensor.name;
    }
  }
}

/// In bfloat16 the data choose between two values, and no bias changes.
TEST(CalibratedRounding, InBFloat16ChoosesAmongNeighboursInEveryLayout) {
  const Case run("adapter-trained", RoundedTo::kBFloat16);
  const RoundedLayers rounded = run.rounded();
  const auto layers = run.model.checkpoint.config().num_hidden_layers;
  EXPECT_EQ(rounded.replacements.upper.size(), static_cast<std::size_t>(2 * layers));
  EXPECT_TRUE(rounded.replacements.experts.empty());
  EXPECT_TRUE(rounded.replacements.tensors.empty());
  EXPECT_NEAR(rounded.gate_up.realised / rounded.gate_up.wanted, 1.0, 0.01);
  EXPECT_NEAR(rounded.down.realised / rounded.down.wanted, 1.0, 0.01);
  const Merger merger(*run.model.adapter);
  ExportOptions how;
  how.experts = ExpertStorage::kMixed;
  const fs::path plain = run.scratch.path() / "plain", hf = run.scratch.path() / "hf",
                 gguf = run.scratch.path() / "model.gguf";
  export_checkpoint(run.model.checkpoint, merger, how, plain);
  how.replacements = &rounded.replacements;
  export_checkpoint(run.model.checkpoint, merger, how, hf);
  export_gguf(run.model.checkpoint, merger, how, gguf);
  const Checkpoint without(plain), expected(hf), other(gguf);
  for (const TensorShape& tensor : tensor_shapes(expected.config())) {
    if (!tensor.is_expert_weight) {
      EXPECT_TRUE(same_bytes(without.tensor(tensor.name), expected.tensor(tensor.name))) << tensor.name;
      continue;
    }
    const at::Tensor values = expected.expert_weight(tensor.name).dense;
    EXPECT_TRUE(at::equal(other.expert_weight(tensor.name).dense, values)) << tensor.name;
    const at::Tensor balanced = without.expert_weight(tensor.name).dense;
    EXPECT_FALSE(at::equal(balanced, values)) << tensor.name;
    EXPECT_TRUE(at::allclose(balanced.to(at::kFloat), values.to(at::kFloat), 1.0 / 64, 1e-6)) << tensor.name;
  }
}

TEST(CalibratedRounding, LeavesWeightsWithoutAPairAlone) {
  for (const auto& [name, weight] : Case("adapter-down").rounded().replacements.experts)
    EXPECT_TRUE(name.ends_with("down_proj")) << name;
  for (const auto& [name, upper] : Case("adapter-down", RoundedTo::kBFloat16).rounded().replacements.upper)
    EXPECT_TRUE(name.ends_with("down_proj")) << name;
}

class CalibratedRoundingTo : public ::testing::TestWithParam<RoundedTo> {};
INSTANTIATE_TEST_SUITE_P(Grids, CalibratedRoundingTo, ::testing::Values(RoundedTo::kMxfp4, RoundedTo::kBFloat16));

TEST_P(CalibratedRoundingTo, GoesOnAfterAnInterruptionToTheSameBytes) {
  const Case whole("adapter-trained", GetParam()), stopped("adapter-trained", GetParam());
  (void)whole.rounded();
  int calls = 0, total = 0;
  (void)Case("adapter-trained", GetParam()).rounded([&](std::int64_t, std::int64_t) { ++total; });
  for (const int limit : {1, total / 2}) {
    calls = 0;
    EXPECT_THROW((void)stopped.rounded([&](std::int64_t done, std::int64_t all) {
      EXPECT_LE(done, all);
      if (++calls == limit) throw std::runtime_error("stop");
    }),
                 std::runtime_error)
        << limit;
    for (const auto& entry : fs::directory_iterator(stopped.options.work)) {
      EXPECT_EQ(entry.path().extension(), ".safetensors") << "half a file was left behind";
    }
  }
  const RoundedLayers rest = stopped.rounded();
  EXPECT_GT(rest.layers_taken, 0);
  EXPECT_TRUE(stopped.files() == whole.files());
}

TEST(CalibratedRounding, TakesFinishedLayersAndNoOthers) {
  Case run;
  const RoundedLayers first = run.rounded();
  const auto before = run.files();
  const auto layers = run.model.checkpoint.config().num_hidden_layers;
  EXPECT_EQ(run.rounded([](std::int64_t, std::int64_t) { FAIL() << "nothing is to be done"; }).layers_taken, layers);
  // A file that was cut short, and one that is missing.
  fs::resize_file(run.options.work / "layer-0.safetensors", 100);
  EXPECT_EQ(run.rounded().layers_taken, layers - 1);
  fs::remove(run.options.work / ("layer-" + std::to_string(layers - 1) + ".safetensors"));
  EXPECT_EQ(run.rounded().layers_taken, layers - 1);
  EXPECT_TRUE(run.files() == before);
  run.options.key = "other data";
  EXPECT_EQ(run.rounded().layers_taken, 0);
  run.options.settings.kappa = 4.0;
  EXPECT_EQ(run.rounded().layers_taken, 0);
  run.options.grid = RoundedTo::kBFloat16;
  EXPECT_EQ(run.rounded().layers_taken, 0);
}

TEST(CalibratedRounding, RefusesAnAdapterThatIsNotFinite) {
  Case run;
  at::NoGradGuard no_grad;
  run.model.transformer.layers()[0].experts.down_low_rank.b.flatten()[3] = INFINITY;
  try {
    (void)run.rounded();
    FAIL();
  } catch (const CheckpointError& error) {
    EXPECT_NE(std::string(error.what()).find("model.layers.0.mlp.experts.down_proj"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace ossature
