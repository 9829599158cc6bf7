#include "model/adapter/loaded_model.h"

#include "model/adapter/adapter.h"

namespace ossature {

LoadedModel load_model(const std::filesystem::path& model, const std::optional<std::filesystem::path>& adapter,
                       at::ScalarType dtype, at::Device device) {
  Checkpoint checkpoint(model);
  checkpoint.check_scales();
  Transformer transformer(checkpoint, dtype, device);
  std::optional<Lora> lora;
  if (adapter) {
    lora.emplace(read_adapter(*adapter, checkpoint.config(), device));
    lora->attach(transformer);
  }
  return {std::move(checkpoint), std::move(transformer), std::move(lora)};
}

}  // namespace ossature
