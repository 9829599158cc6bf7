#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "train/commands/arguments.h"
#include "train/commands/command.h"
#include "train/recipe/recipe_keys.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

/// The folder of the recipes that came with this program: beside a program built in its source tree, or as installed.
fs::path recipes_dir() {
  const fs::path program_dir = fs::read_symlink("/proc/self/exe").parent_path();
  for (const fs::path& candidate :
       {program_dir / "../share/ossature/recipes", fs::path(OSSATURE_SOURCE_DIR) / "recipes"}) {
    if (fs::is_directory(candidate)) return fs::weakly_canonical(candidate);
  }
  throw CLI::ValidationError("recipes", "the recipes are neither in " + (program_dir / "../share/ossature").string() +
                                            " nor in " OSSATURE_SOURCE_DIR "; was the program moved?");
}

std::vector<fs::path> recipe_files() {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(recipes_dir())) {
    if (entry.path().extension() == ".yaml") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

/// The first line of a recipe says in a comment what it is.
std::string title(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  const std::size_t start = line.find_first_not_of("# ");
  return line.starts_with('#') && start != std::string::npos ? line.substr(start) : "";
}

void list_recipes() {
  const std::vector<fs::path> files = recipe_files();
  std::size_t width = 0;
  for (const fs::path& file : files) width = std::max(width, file.stem().string().size());
  for (const fs::path& file : files)
    std::cout << std::left << std::setw(static_cast<int>(width)) << file.stem().string() << "  " << title(file) << '\n';
}

void copy_recipe(const std::string& name, const fs::path& to) {
  std::string known;
  for (const fs::path& file : recipe_files()) {
    if (file.stem() == name || file.filename() == name) {
      if (fs::exists(to)) throw CLI::ValidationError("FILE", to.string() + " exists; choose another name or remove it");
      const OutputFile out(to, OutputFile::Replaces::kNothing);
      fs::copy_file(file, to);
      std::cerr << "wrote " << to.string() << '\n';
      return;
    }
    known += (known.empty() ? "" : ", ") + file.stem().string();
  }
  throw CLI::ValidationError("NAME", "no recipe \"" + name + "\"; expected one of " + known);
}

void list_keys() {
  const Recipe defaults;
  std::string_view section;
  for (const RecipeKey& key : recipe_keys()) {
    if (key.section() != section) std::cout << '\n';
    section = key.section();
    std::cout << key.path << ": " << (key.required ? "(required)" : key.get(defaults)) << "\n    " << key.doc << " ("
              << key.expected << ").\n";
  }
}

}  // namespace

void register_recipes(CLI::App& app) {
  CLI::App* recipes =
      app.add_subcommand("recipes", "The recipes that come with the program, and every key of a recipe");
  recipes->require_subcommand(1);
  recipes->add_subcommand("ls", "List the recipes")->callback(list_recipes);
  recipes->add_subcommand("keys", "List the keys of a recipe with defaults and allowed values")->callback(list_keys);
  CLI::App* copy = recipes->add_subcommand("cp", "Copy a recipe to a file of your own");
  struct Arguments {
    std::string name;
    std::string file;
  };
  const auto arguments = std::make_shared<Arguments>();
  copy->add_option("NAME", arguments->name, "Recipe, as `ossature recipes ls` lists it")->required();
  copy->add_option("FILE", arguments->file, "File to write")->required();
  copy->callback([arguments] { copy_recipe(arguments->name, arguments->file); });
}

}  // namespace ossature
