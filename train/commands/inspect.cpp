#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <string>

#include "train/commands/command.h"
#include "train/inspection.h"

namespace ossature {

void register_inspect(CLI::App& app) {
  CLI::App* command = app.add_subcommand("inspect", "What a checkpoint, adapter, run folder or token file holds");
  struct Arguments {
    std::string path;
    bool json = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("PATH", arguments->path, "Folder or file to look at")->required();
  command->add_flag("--json", arguments->json, "Print one JSON object");
  command->callback([arguments] {
    const Inspection inspection = inspect(arguments->path);
    std::cout << (arguments->json ? to_json(inspection) + "\n" : to_text(inspection));
  });
}

}  // namespace ossature
