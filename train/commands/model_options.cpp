#include "train/commands/model_options.h"

#include <CLI/CLI.hpp>

#include "train/run/trained_model.h"

namespace ossature {

void add_model_options(CLI::App& command, ModelOptions& options) {
  command
      .add_option("--model", options.model, "Checkpoint directory in transformers' or OpenAI's layout, or a GGUF file")
      ->required()
      ->type_name("DIR");
  command.add_option("--adapter", options.adapter, "Adapter directory (PEFT files)")->type_name("DIR");
  command.add_option("--dtype", options.dtype, "Compute dtype")
      ->check(CLI::IsMember({"bfloat16", "float32"}))
      ->capture_default_str();
  command.add_option("--device", options.device, "Where to compute")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
}

LoadedModel load_model(const ModelOptions& options) {
  const Device device = options.device == "cpu"    ? Device::kCpu
                        : options.device == "cuda" ? Device::kCuda
                                                   : Device::kAuto;
  const ComputeDtype dtype = options.dtype == "float32" ? ComputeDtype::kFloat32 : ComputeDtype::kBFloat16;
  return load_model(options.model, options.adapter, scalar_type_of(dtype), device_of(device));
}

}  // namespace ossature
