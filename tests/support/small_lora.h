// Adapters for the shape of the small golden.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "model/adapter/lora.h"
#include "tests/support/tensor_file.h"

namespace ossature::testing {

/// hidden 32, intermediate 64, 3 layers, 4 experts, 4 and 2 heads of 16
inline const ModelConfig& small_config() {
  static const ModelConfig config = read_config(small("hf") / "config.json");
  return config;
}

/// r 3, alpha 4.5.
inline LoraConfig small_lora(std::vector<std::string> modules, std::vector<std::string> parameters) {
  LoraConfig config;
  config.r = 3;
  config.lora_alpha = 4.5;
  config.target_modules = std::move(modules);
  config.target_parameters = std::move(parameters);
  return config;
}

}  // namespace ossature::testing
