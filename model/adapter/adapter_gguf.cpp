#include "model/adapter/adapter_gguf.h"

#include <optional>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "model/checkpoint/checkpoint_writer.h"
#include "model/checkpoint/gguf_config.h"
#include "model/checkpoint/gguf_names.h"
#include "model/files/gguf_writer.h"
#include "model/files/made_folders.h"

namespace ossature {
namespace {

double alpha_of(const LowRank& pair) {
  return pair.scale * static_cast<double>(pair.a.size(-2));
}

/// The number that all pairs agree on, if they do.
std::optional<float> common_alpha(const Merger& merger) {
  const auto first = static_cast<float>(alpha_of(merger.pairs().begin()->second));
  for (const auto& [name, pair] : merger.pairs())
    if (static_cast<float>(alpha_of(pair)) != first) return std::nullopt;
  return first;
}

}  // namespace

void write_gguf_adapter(const Merger& merger, const std::filesystem::path& out) {
  if (std::filesystem::exists(out))
    throw CheckpointError(out.string() + ": already exists; remove it or give another file");
  if (merger.pairs().empty())
    throw CheckpointError(out.string() + ": there is no adapter to write; expected one with a pair");
  at::NoGradGuard no_grad;
  const std::optional<float> alpha = common_alpha(merger);
  std::vector<GgufTensor> infos;
  std::vector<at::Tensor> tensors;
  const auto add = [&](const std::string& name, const at::Tensor& tensor) {
    infos.push_back({name, GgmlType::kF32, tensor.sizes().vec()});
    tensors.push_back(tensor);
  };
  for (const auto& [name, pair] : merger.pairs()) {
    const at::Tensor a = pair.a.detach().cpu(), b = pair.b.detach().cpu();
    const at::Tensor scaled = alpha ? b : b * alpha_of(pair);
    const std::vector<std::string> names = gguf_names(name);
    const auto count = std::ssize(names);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::string& weight = names[static_cast<std::size_t>(i)];
      add(weight + ".lora_a", a);
      add(weight + ".lora_b", count == 1 ? scaled : scaled.slice(1, i, std::nullopt, count));
    }
  }
  GgufKeyValues values;
  values.emplace_back("general.architecture", std::string(kGgufArchitecture));
  values.emplace_back("general.type", std::string("adapter"));
  values.emplace_back("adapter.type", std::string("lora"));
  values.emplace_back("adapter.lora.alpha", alpha.value_or(1.0F));
  const MadeFolders above(out.parent_path());
  GgufWriter writer(out, values, infos);
  for (const at::Tensor& tensor : tensors)
    write_tensor(tensor, [&](std::span<const std::byte> bytes) { writer.write(bytes); });
  writer.finish();
}

}  // namespace ossature
