// Options that commands which run a model share.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "model/adapter/loaded_model.h"

namespace CLI {
class App;
}

namespace ossature {

struct ModelOptions {
  std::filesystem::path model;
  std::optional<std::filesystem::path> adapter;
  std::string dtype = "bfloat16";
  std::string device = "auto";
};

/// Adds --model, --adapter, --dtype and --device to `command`; `options` must live as long as it.
void add_model_options(CLI::App& command, ModelOptions& options);

/// Loads what they name.
[[nodiscard]] LoadedModel load_model(const ModelOptions& options);

}  // namespace ossature
