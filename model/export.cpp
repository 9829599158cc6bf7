#include "model/export.h"

#include <map>
#include <memory>
#include <string>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include "model/companions.h"
#include "model/merge.h"
#include "model/staging_directory.h"

namespace ossature {
namespace {

DType stored_dtype(at::ScalarType dtype) {
  return dtype == at::kFloat ? DType::kF32 : DType::kBF16;
}

/// A merged weight in the dtype that is stored. An adapter of finite values may still be too large for it.
at::Tensor stored_as(const at::Tensor& merged, at::ScalarType dtype, const std::string& name) {
  at::Tensor result = merged.to(dtype);
  if (!result.isfinite().all().item<bool>()) {
    throw CheckpointError("export: " + name + " merged with the adapter has a value that is not finite; expected " +
                          "finite numbers; the adapter is damaged or diverged");
  }
  return result;
}

/// Plans the tensors of one export. The pairs and the checkpoint must outlive the plan.
class Plan {
 public:
  Plan(const Checkpoint& base, const Lora* adapter) : base_(base) {
    if (adapter == nullptr) return;
    for (const LoraTarget& target : adapter->targets()) {
      std::string name = target.name;
      const bool is_parameter = target.slot == LoraSlot::kRouter || target.slot == LoraSlot::kGateUpProj ||
                                target.slot == LoraSlot::kDownProj;
      if (!is_parameter) name += ".weight";
      pairs_[name] = {adapter->a(target), adapter->b(target), target.scale};
    }
  }

  /// Rows of the stored tensors `names`, one after the other, as one tensor.
  void add_dense(const std::string& name, std::vector<std::string> names) {
    std::vector<std::int64_t> shape = base_.tensor(names.front()).sizes().vec();
    auto dtype = base_.tensor(names.front()).scalar_type();
    for (std::size_t i = 1; i < names.size(); ++i) {
      const at::Tensor part = base_.tensor(names[i]);
      shape[0] += part.size(0);
      if (part.scalar_type() == at::kFloat) dtype = at::kFloat;
    }
    tensors_.push_back({name, stored_dtype(dtype), shape, [this, names, dtype](const ByteSink& sink) {
                          for (const std::string& part : names) {
                            const at::Tensor stored = base_.tensor(part);
                            const auto pair = pairs_.find(part);
                            write_tensor(pair == pairs_.end() ? stored.to(dtype)
                                                              : stored_as(merge(stored, pair->second), dtype, part),
                                         sink);
                          }
                        }});
  }

  void add_experts_bf16(const std::string& name, const std::string& source) {
    const ExpertWeight weight = base_.expert_weight(source);
    const auto dtype = weight.is_packed() ? at::kBFloat16 : weight.dense.scalar_type();
    tensors_.push_back({name,
                        stored_dtype(dtype),
                        {weight.num_experts(), weight.in_features(), weight.out_features()},
                        [weight, dtype, source, pair = pair_of(source)](const ByteSink& sink) {
                          if (!weight.is_packed() && !pair.defined())
                            return write_tensor(weight.dense.transpose(1, 2), sink);
                          for (std::int64_t e = 0; e < weight.num_experts(); ++e) {
                            write_tensor(stored_as(merge_expert(weight, pair, e), dtype, source).t(), sink);
                          }
                        }});
  }

  void add_experts_mxfp4(const std::string& blocks_name, const std::string& scales_name, const std::string& source) {
    const ExpertWeight weight = base_.expert_weight(source);
    const LowRank pair = pair_of(source);
    const auto experts = weight.num_experts(), out = weight.out_features(),
               groups = weight.in_features() / kMxfp4BlockSize;
    // Blocks are made, and written, before scales, so the scales wait here: 1/17 of the tensor.
    auto scales = std::make_shared<std::vector<at::Tensor>>();
    tensors_.push_back({blocks_name,
                        DType::kU8,
                        {experts, out, groups, kMxfp4BlockBytes},
                        [weight, pair, scales](const ByteSink& sink) {
                          if (weight.is_packed() && !pair.defined()) {
                            write_tensor(weight.packed.blocks, sink);
                            scales->push_back(weight.packed.scales);
                            return;
                          }
                          for (std::int64_t e = 0; e < weight.num_experts(); ++e) {
                            const Mxfp4Tensor encoded = mxfp4_encode(merge_expert(weight, pair, e));
                            write_tensor(encoded.blocks, sink);
                            scales->push_back(encoded.scales);
                          }
                        }});
    tensors_.push_back({scales_name, DType::kU8, {experts, out, groups}, [scales](const ByteSink& sink) {
                          for (const at::Tensor& part : *scales) write_tensor(part, sink);
                          scales->clear();
                        }});
  }

  [[nodiscard]] std::vector<PlannedTensor>& tensors() { return tensors_; }

 private:
  [[nodiscard]] LowRank pair_of(const std::string& name) const {
    const auto found = pairs_.find(name);
    return found == pairs_.end() ? LowRank{} : found->second;
  }

  const Checkpoint& base_;
  std::map<std::string, LowRank> pairs_;  // by the name of the tensor they change
  std::vector<PlannedTensor> tensors_;
};

void plan_hf(Plan& plan, const ModelConfig& config, ExpertStorage experts) {
  for (const TensorShape& tensor : tensor_shapes(config)) {
    if (!tensor.is_expert_weight) {
      plan.add_dense(tensor.name, {tensor.name});
    } else if (experts == ExpertStorage::kMxfp4) {
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

void export_checkpoint(const Checkpoint& base, const Lora* adapter, const ExportOptions& options,
                       const std::filesystem::path& out,
                       const std::function<void(std::int64_t, std::int64_t)>& progress) {
  const bool is_openai = options.format == ExportFormat::kOpenAi;
  if (is_openai && options.experts != ExpertStorage::kMxfp4) {
    throw CheckpointError("export: OpenAI's layout has experts in MXFP4 only; use --experts mxfp4, or --format hf");
  }
  const ModelConfig& config = base.config();
  Plan plan(base, adapter);
  if (is_openai) {
    plan_openai(plan, config);
  } else {
    plan_hf(plan, config, options.experts);
  }
  StagingDirectory staging(out);
  // OpenAI's loader knows no index: one file.
  write_checkpoint_files(staging.path(), plan.tensors(),
                         is_openai ? std::numeric_limits<std::int64_t>::max() : options.max_shard_bytes, progress);
  write_text_file(
      staging.path() / "config.json",
      is_openai ? openai_config_json(config) : hf_config_json(config, options.experts == ExpertStorage::kMxfp4));
  if (is_openai) write_text_file(staging.path() / "dtypes.json", openai_dtypes_json(plan.tensors()));
  copy_companion_files(base.dir(), staging.path());
  staging.commit();
}

}  // namespace ossature
