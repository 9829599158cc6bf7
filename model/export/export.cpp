#include "model/export/export.h"

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include "model/export/merged_experts.h"
#include "model/export/write_behind.h"
#include "model/files/free_space.h"
#include "model/files/mapped_pages.h"
#include "model/files/staging_directory.h"

namespace ossature {
namespace {

DType stored_dtype(at::ScalarType dtype) {
  return dtype == at::kFloat ? DType::kF32 : DType::kBF16;
}

/// What is copied at a time of a tensor that nothing changes.
constexpr std::int64_t kPieceElements = 32 << 20;

/// Plans the tensors of one export. Base, merger and replacements must outlive the plan.
class Plan {
 public:
  Plan(const Checkpoint& base, const Merger& merger, const Replacements* replacements)
      : base_(base), merger_(merger), replacements_(replacements) {
    for (const TensorShape& tensor : tensor_shapes(base.config())) shapes_[tensor.name] = tensor.shape;
  }

  /// Rows of the stored tensors `names`, one after the other, as one tensor.
  void add_dense(const std::string& name, std::vector<std::string> names) {
    merged_ += std::ranges::count_if(names, [&](const std::string& part) { return merger_.pair(part).defined(); });
    std::vector<std::int64_t> shape = base_.tensor(names.front()).sizes().vec();
    auto dtype = base_.tensor(names.front()).scalar_type();
    for (std::size_t i = 1; i < names.size(); ++i) {
      const at::Tensor part = base_.tensor(names[i]);
      shape[0] += part.size(0);
      if (part.scalar_type() == at::kFloat) dtype = at::kFloat;
    }
    tensors_.push_back({name, stored_dtype(dtype), shape, [this, names, dtype](const ByteSink& sink) {
                          for (const std::string& part : names) write_dense(part, dtype, sink);
                        }});
  }

  void add_experts_bf16(const std::string& name, const std::string& source) {
    const std::vector<std::int64_t>& shape = shapes_.at(source);
    const auto dtype = base_.expert_dtype(source) == at::kFloat ? at::kFloat : at::kBFloat16;
    tensors_.push_back({name,
                        stored_dtype(dtype),
                        {shape[0], shape[2], shape[1]},
                        [this, dtype, source, pair = planned_pair(source)](const ByteSink& sink) {
                          const ExpertWeight weight = base_.expert_weight(source);
                          if (!weight.is_packed() && !pair.defined()) {
                            write_tensor(weight.dense.transpose(1, 2), sink);
                          } else {
                            const at::Tensor upper = chosen_neighbours(replacements_, source);
                            write_experts(weight, sink, [&](std::int64_t e) {
                              if (dtype == at::kFloat) return merged_float(weight, pair, e, source).t().contiguous();
                              return merged_transposed(weight, pair, e, source, upper);
                            });
                          }
                          base_.release(source);
                        }});
  }

  void add_experts_mxfp4(const std::string& blocks_name, const std::string& scales_name, const std::string& source) {
    const LowRank pair = planned_pair(source);
    const auto experts = shapes_.at(source)[0], out = shapes_.at(source)[1],
               groups = shapes_.at(source)[2] / kMxfp4BlockSize;
    // Blocks are made, and written, before scales, so the scales wait here: 1/17 of the tensor.
    auto scales = std::make_shared<std::vector<at::Tensor>>();
    tensors_.push_back(
        {blocks_name,
         DType::kU8,
         {experts, out, groups, kMxfp4BlockBytes},
         [this, pair, scales, source](const ByteSink& sink) {
           if (const Mxfp4Tensor* replaced = replaced_experts(replacements_, source)) {
             write_tensor(replaced->blocks, sink);
             scales->push_back(replaced->scales);
             return;
           }
           const ExpertWeight weight = base_.expert_weight(source);
           if (weight.is_packed() && !pair.defined()) {
             write_tensor(weight.packed.blocks, sink);
           } else if (weight.is_packed()) {
             write_experts(weight, sink, [&](std::int64_t e) { return merged_blocks(weight.packed, pair, e, source); });
           } else {
             write_experts(weight, sink, [&](std::int64_t e) {
               const Mxfp4Tensor encoded = mxfp4_encode(merge_expert(weight, pair, e));
               scales->push_back(encoded.scales);
               return encoded.blocks;
             });
           }
           if (weight.is_packed()) scales->push_back(weight.packed.scales);
           base_.release(source);
         }});
    tensors_.push_back({scales_name, DType::kU8, {experts, out, groups}, [this, scales, source](const ByteSink& sink) {
                          for (const at::Tensor& part : *scales) write_tensor(part, sink);
                          scales->clear();
                          base_.release(source);
                        }});
  }

  [[nodiscard]] std::vector<PlannedTensor>& tensors() { return tensors_; }

  /// Throws std::logic_error if a pair of the merger is not part of the plan: an adapter is merged whole or not at all.
  void check_complete() const {
    if (merged_ != std::ssize(merger_.pairs())) throw std::logic_error("export: a pair of the adapter was not merged");
  }

 private:
  /// Writes what make(e) returns for each expert, while the next ones are made, and reads ahead.
  template <typename Make>
  static void write_experts(const ExpertWeight& weight, const ByteSink& sink, const Make& make) {
    WriteBehind behind(sink);
    for (std::int64_t e = 0; e < weight.num_experts(); ++e) {
      if (weight.is_packed() && e + 1 < weight.num_experts()) {
        const at::Tensor next = weight.packed.blocks[e + 1];
        will_need({static_cast<const std::byte*>(next.const_data_ptr()), next.nbytes()});
      }
      behind.put(make(e));
    }
    behind.finish();
  }

  [[nodiscard]] LowRank planned_pair(const std::string& name) {
    const LowRank pair = merger_.pair(name);
    if (pair.defined()) ++merged_;
    return pair;
  }

  void write_dense(const std::string& name, at::ScalarType dtype, const ByteSink& sink) const {
    const at::Tensor stored = base_.tensor(name);
    const LowRank pair = merger_.pair(name);
    if (const at::Tensor* replaced = replaced_tensor(replacements_, name)) {
      write_tensor(replaced->to(dtype), sink);
    } else if (pair.defined()) {
      write_tensor(merged_as(stored, pair, dtype, name), sink);
    } else {
      // The vocabulary's tensors have a gigabyte each: no more than a piece of it stays resident.
      const std::int64_t rows =
          std::max<std::int64_t>(1, kPieceElements / std::max<std::int64_t>(1, stored[0].numel()));
      for (std::int64_t first = 0; first < stored.size(0); first += rows) {
        write_tensor(stored.narrow(0, first, std::min(rows, stored.size(0) - first)).to(dtype), sink);
        base_.release(name);
      }
    }
    base_.release(name);
  }

  const Checkpoint& base_;
  const Merger& merger_;
  const Replacements* replacements_;
  std::map<std::string, std::vector<std::int64_t>> shapes_;
  std::int64_t merged_ = 0;  // pairs that the plan has
  std::vector<PlannedTensor> tensors_;
};

/// `dense`: names of the expert weights that are not stored in MXFP4.
void plan_hf(Plan& plan, const ModelConfig& config, const std::set<std::string>& dense) {
  for (const TensorShape& tensor : tensor_shapes(config)) {
    if (!tensor.is_expert_weight) {
      plan.add_dense(tensor.name, {tensor.name});
    } else if (dense.count(tensor.name) == 0) {
      plan.add_experts_mxfp4(tensor.name + "_blocks", tensor.name + "_scales", tensor.name);
    } else {
      plan.add_experts_bf16(tensor.name, tensor.name);
    }
  }
}

void plan_openai(Plan& plan, const ModelConfig& config) {
  plan.add_dense("embedding.weight", {"model.embed_tokens.weight"});
  for (std::int64_t n = 0; n < config.num_hidden_layers; ++n) {
    const std::string block = "block." + std::to_string(n) + ".", layer = "model.layers." + std::to_string(n) + ".";
    const std::string attention = layer + "self_attn.", experts = layer + "mlp.experts.";
    plan.add_dense(block + "attn.norm.scale", {layer + "input_layernorm.weight"});
    for (const std::string kind : {"weight", "bias"}) {
      plan.add_dense(block + "attn.qkv." + kind,
                     {attention + "q_proj." + kind, attention + "k_proj." + kind, attention + "v_proj." + kind});
    }
    plan.add_dense(block + "attn.sinks", {attention + "sinks"});
    plan.add_dense(block + "attn.out.weight", {attention + "o_proj.weight"});
    plan.add_dense(block + "attn.out.bias", {attention + "o_proj.bias"});
    plan.add_dense(block + "mlp.norm.scale", {layer + "post_attention_layernorm.weight"});
    plan.add_dense(block + "mlp.gate.weight", {layer + "mlp.router.weight"});
    plan.add_dense(block + "mlp.gate.bias", {layer + "mlp.router.bias"});
    plan.add_experts_mxfp4(block + "mlp.mlp1_weight.blocks", block + "mlp.mlp1_weight.scales",
                           experts + "gate_up_proj");
    plan.add_dense(block + "mlp.mlp1_bias", {experts + "gate_up_proj_bias"});
    plan.add_experts_mxfp4(block + "mlp.mlp2_weight.blocks", block + "mlp.mlp2_weight.scales", experts + "down_proj");
    plan.add_dense(block + "mlp.mlp2_bias", {experts + "down_proj_bias"});
  }
  plan.add_dense("norm.scale", {"model.norm.weight"});
  plan.add_dense("unembedding.weight", {"lm_head.weight"});
}

template <typename Value>
const Value* find(const std::map<std::string, Value>& values, const std::string& name) {
  const auto found = values.find(name);
  return found == values.end() ? nullptr : &found->second;
}

/// The list of storage kinds that OpenAI's original directory carries.
std::string openai_dtypes_json(const std::vector<PlannedTensor>& tensors) {
  nlohmann::json kinds = nlohmann::json::object();
  for (const PlannedTensor& tensor : tensors) {
    kinds[tensor.name] = tensor.name.ends_with(".blocks")   ? "FP4"
                         : tensor.name.ends_with(".scales") ? "UE8"
                                                            : dtype_name(tensor.dtype);
  }
  return kinds.dump(1);
}

}  // namespace

const Mxfp4Tensor* replaced_experts(const Replacements* replacements, const std::string& name) {
  return replacements == nullptr ? nullptr : find(replacements->experts, name);
}

const at::Tensor* replaced_tensor(const Replacements* replacements, const std::string& name) {
  return replacements == nullptr ? nullptr : find(replacements->tensors, name);
}

at::Tensor chosen_neighbours(const Replacements* replacements, const std::string& name) {
  const at::Tensor* found = replacements == nullptr ? nullptr : find(replacements->upper, name);
  return found == nullptr ? at::Tensor() : *found;
}

std::vector<std::int64_t> dense_layers(const Checkpoint& base, const Merger& merger, ExpertStorage experts) {
  std::vector<std::int64_t> layers;
  for (std::int64_t n = 0; n < base.config().num_hidden_layers && experts != ExpertStorage::kMxfp4; ++n) {
    const bool is_dense =
        base.experts() == ExpertStorage::kMixed && base.expert_dtype(expert_weight_names(n).front()) != at::kByte;
    if (experts == ExpertStorage::kBf16 || is_dense || merger.changes_experts(n)) layers.push_back(n);
  }
  return layers;
}

std::set<std::string> dense_expert_weights(const std::vector<std::int64_t>& dense_layers) {
  std::set<std::string> names;
  for (const std::int64_t n : dense_layers)
    for (const std::string& name : expert_weight_names(n)) names.insert(name);
  return names;
}

void export_checkpoint(const Checkpoint& base, const Merger& merger, const ExportOptions& options,
                       const std::filesystem::path& out,
                       const std::function<void(std::int64_t, std::int64_t)>& progress) {
  const bool is_openai = options.format == ExportFormat::kOpenAi;
  if (is_openai && options.experts != ExpertStorage::kMxfp4) {
    throw CheckpointError("export: OpenAI's layout has experts in MXFP4 only; use --experts mxfp4, or --format hf");
  }
  const ModelConfig& config = base.config();
  const std::vector<std::int64_t> dense = dense_layers(base, merger, options.experts);
  const bool has_mxfp4 = std::ssize(dense) < config.num_hidden_layers;
  Plan plan(base, merger, options.replacements);
  if (is_openai) {
    plan_openai(plan, config);
  } else {
    plan_hf(plan, config, dense_expert_weights(dense));
  }
  plan.check_complete();
  std::uint64_t bytes = 0;
  for (const PlannedTensor& tensor : plan.tensors()) bytes += static_cast<std::uint64_t>(tensor.num_bytes());
  StagingDirectory staging(out);
  check_free_space(out, bytes);
  // OpenAI's loader knows no index: one file.
  write_checkpoint_files(staging.path(), plan.tensors(),
                         is_openai ? std::numeric_limits<std::int64_t>::max() : options.max_shard_bytes, progress);
  write_text_file(staging.path() / "config.json",
                  is_openai ? openai_config_json(config) : hf_config_json(config, has_mxfp4, dense));
  if (is_openai) write_text_file(staging.path() / "dtypes.json", openai_dtypes_json(plan.tensors()));
  base.write_companions(staging.path());
  if (!options.model_card.empty()) write_text_file(staging.path() / "README.md", options.model_card);
  staging.commit();
}

}  // namespace ossature
