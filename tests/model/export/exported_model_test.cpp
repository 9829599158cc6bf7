// What an export computes is in memory what it is when it is written and opened again.
#include "model/export/exported_model.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include "model/adapter/loaded_model.h"
#include "model/export/calibrated_rounding.h"
#include "model/network/transformer_tensors.h"
#include "tests/malformed/scratch.h"
#include "tests/support/golden.h"
#include "tests/support/tensor_file.h"

namespace ossature {
namespace {

using testing::Golden;
using testing::same_bytes;
using testing::small;

void expect_written(const Checkpoint& base, const Merger& merger, const Replacements& replacements) {
  const Scratch scratch;
  ExportOptions options;
  options.replacements = &replacements;
  export_checkpoint(base, merger, options, scratch.path() / "out");
  const Checkpoint written(scratch.path() / "out");
  Transformer found = exported_transformer(base, merger, replacements, at::kFloat);
  for (const TensorShape& tensor : tensor_shapes(base.config())) {
    if (!tensor.is_expert_weight) {
      EXPECT_TRUE(same_bytes(tensor_of(found, tensor.name), written.tensor(tensor.name))) << tensor.name;
    }
  }
  for (std::size_t n = 0; n < found.layers().size(); ++n) {
    const auto names = expert_weight_names(static_cast<std::int64_t>(n));
    const Experts& experts = found.layers()[n].experts;
    for (const auto& [name, weight] : {std::pair(names[0], &experts.gate_up), std::pair(names[1], &experts.down)}) {
      const Mxfp4Tensor expected = written.expert_weight(name).packed;
      EXPECT_TRUE(same_bytes(weight->packed.blocks, expected.blocks)) << name;
      EXPECT_TRUE(same_bytes(weight->packed.scales, expected.scales)) << name;
      EXPECT_FALSE(weight->dense.defined());
    }
  }
}

TEST(ExportedTransformer, HasTheTensorsThatAreWritten) {
  const Golden golden(small(""));
  const LoadedModel model = load_model(small("hf"), small("adapter-trained"), at::kBFloat16);
  const Merger merger(*model.adapter);
  expect_written(model.checkpoint, merger, {});  // nearest
  expect_written(model.checkpoint, {}, {});
  expect_written(Checkpoint(small("openai")), merger, {});
  expect_written(Checkpoint(small("hf-bf16")), merger, {});

  const Scratch scratch;
  const std::vector<TokenRows> rows{golden.row(0), golden.row(1)};
  RoundedLayers rounded = round_calibrated(model.checkpoint, model.transformer, rows,
                                           {RoundedTo::kMxfp4, scratch.path() / "work", "key", {}});
  for (const std::string name : {"model.layers.1.self_attn.q_proj.weight", "model.layers.0.mlp.router.bias"})
    rounded.replacements.tensors[name] = model.checkpoint.tensor(name) + 1.0;
  expect_written(model.checkpoint, merger, rounded.replacements);
}

}  // namespace
}  // namespace ossature
