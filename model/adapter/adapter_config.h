// PEFT's adapter_config.json: what Ossature honours of it is read, and whatever else would change the adapter's values
// is refused.
#pragma once

#include <filesystem>
#include <string>

#include "model/adapter/lora.h"

namespace ossature {

/// Reads the configuration in `file` of an adapter for a model of shape `model`. Keys that say where an adapter comes
/// from or how it was trained are passed over; an unknown key with a value other than null, false, 0, or an empty list
/// is refused, for it may change what is computed. Throws CheckpointError naming the file and the key.
[[nodiscard]] LoraConfig read_adapter_config(const std::filesystem::path& file, const ModelConfig& model);

/// base_model_name_or_path; "" if there is none.
[[nodiscard]] std::string read_adapter_base_model(const std::filesystem::path& file);

/// The text of adapter_config.json. PEFT refuses a dropout on expert parameters even for inference, so lora_dropout is
/// 0 if there are any.
[[nodiscard]] std::string adapter_config_json(const Lora& lora, const std::string& base_model);

}  // namespace ossature
