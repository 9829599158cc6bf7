// Writes base + adapters as a checkpoint that inference engines load. Tensors that no adapter touches are copied byte
// for byte; the rest is merged in float32, one tensor (of experts: one expert) at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "model/adapter/merge.h"
#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/checkpoint_writer.h"

namespace ossature {

enum class ExportFormat { kHf, kOpenAi };

/// Tensors that are written instead of what base and adapters give, by transformers' names: what calibrated rounding
/// and recovery found. Views of mapped files will do.
struct Replacements {
  std::map<std::string, Mxfp4Tensor> experts;  // weights that are stored in MXFP4
  std::map<std::string, at::Tensor> upper;     // of those stored in bfloat16: uint8 [E, O, I / 8], neighbour_rounding.h
  std::map<std::string, at::Tensor> tensors;   // others, in shape and dtype as the base has them
};

struct ExportOptions {
  ExportFormat format = ExportFormat::kHf;
  /// kMxfp4: merged values rounded to nearest at the base's scales, where no replacement is given. kMixed: bfloat16 in
  /// the layers whose experts an adapter targets, or which a base of mixed storage has dense; MXFP4 in the others.
  ExpertStorage experts = ExpertStorage::kMxfp4;
  std::int64_t max_shard_bytes = kMaxShardBytes;
  const Replacements* replacements = nullptr;
  std::string model_card = {};  // README.md; "" for none
};

/// What is written instead of an expert weight, or of another tensor; nullptr where nothing is, or `replacements` is.
[[nodiscard]] const Mxfp4Tensor* replaced_experts(const Replacements* replacements, const std::string& name);
[[nodiscard]] const at::Tensor* replaced_tensor(const Replacements* replacements, const std::string& name);
/// Which values a weight takes whose experts are stored in bfloat16, [E, O, I / 8]; undefined where nothing says so.
[[nodiscard]] at::Tensor chosen_neighbours(const Replacements* replacements, const std::string& name);

/// The layers whose experts an export of that storage has in bfloat16, and the names of their expert weights.
[[nodiscard]] std::vector<std::int64_t> dense_layers(const Checkpoint& base, const Merger& merger,
                                                     ExpertStorage experts);
[[nodiscard]] std::set<std::string> dense_expert_weights(const std::vector<std::int64_t>& dense_layers);

/// Writes into the new directory `out`: it appears under its name only when complete. config.json is written for the
/// format; tokenizer and chat template files of the base travel along. An empty `merger` changes the layout alone.
/// Throws CheckpointError if `out` exists and is not empty, or for OpenAI's format with bfloat16 experts (which it has
/// not got), std::system_error if the disk has no room for it or refuses.
void export_checkpoint(const Checkpoint& base, const Merger& merger, const ExportOptions& options,
                       const std::filesystem::path& out,
                       const std::function<void(std::int64_t, std::int64_t)>& progress = {});

}  // namespace ossature
