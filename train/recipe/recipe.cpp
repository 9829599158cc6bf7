#include "train/recipe/recipe.h"

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iterator>
#include <set>
#include <system_error>
#include <utility>

#include "train/recipe/recipe_keys.h"
#include "train/recipe/recipe_yaml.h"

namespace ossature {
namespace {

constexpr std::uintmax_t kMaxRecipeBytes = 1 << 20;

std::string describe(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::kNull:
      return "null";
    case YamlNode::Kind::kList:
      return node.items.empty() ? "an empty list" : "a list";
    case YamlNode::Kind::kMap:
      return "a map";
    case YamlNode::Kind::kScalar:
      break;
  }
  constexpr std::size_t kLongest = 60;
  std::string text = node.quoted ? "the text \"" : "\"";
  text += node.text.substr(0, kLongest);
  text += node.text.size() > kLongest ? "...\"" : "\"";
  return text;
}

/// The sections of a recipe, in the order of the table.
std::vector<std::string> section_names() {
  std::vector<std::string> names;
  for (const RecipeKey& key : recipe_keys()) {
    if (!key.section().empty() && (names.empty() || names.back() != key.section())) names.emplace_back(key.section());
  }
  return names;
}

/// "r, lora_alpha, ...": the keys of a section, or for "" the top-level keys and sections.
std::string key_names(std::string_view section) {
  std::string text;
  for (const RecipeKey& key : recipe_keys()) {
    if (key.section() == section) text += (text.empty() ? "" : ", ") + std::string(key.name());
  }
  if (section.empty()) {
    for (const std::string& name : section_names()) text += ", " + name;
  }
  return text;
}

/// Fills a recipe from a file and arguments and collects everything that is wrong with them.
class Reader {
 public:
  explicit Reader(std::string file) : file_(std::move(file)) {}

  void read_file(const std::string& text) {
    YamlNode root;
    try {
      root = parse_yaml(text);
    } catch (const YamlSyntaxError& error) {
      broken_ = true;
      report(position(error.line, error.column), "not YAML here: " + error.what);
      return;
    }
    if (root.kind == YamlNode::Kind::kNull) return;
    if (root.kind != YamlNode::Kind::kMap) {
      broken_ = true;
      report(position(root), "the recipe is " + describe(root) + "; expected a map with the keys " + key_names(""));
      return;
    }
    read_map(root, "");
  }

  void read_override(const std::string& argument) {
    const std::string where = "argument \"" + argument + "\"";
    const std::size_t equals = argument.find('=');
    if (equals == std::string::npos || equals == 0) {
      report(where, "no value; expected key=value, for example train.max_steps=100");
      return;
    }
    const std::string path = argument.substr(0, equals);
    const RecipeKey* key = find_recipe_key(path);
    if (key == nullptr) {
      report_unknown(where, path);
      return;
    }
    try {
      read_value(*key, parse_yaml(argument.substr(equals + 1)), where);
    } catch (const YamlSyntaxError& error) {
      report(where, "the value is not YAML: " + error.what);
    }
  }

  /// The recipe, if nothing was wrong.
  Recipe finish() {
    for (const RecipeKey& key : recipe_keys()) {
      if (key.required && !broken_ && !positions_.contains(key.path))
        report(file_, "missing key " + key.path + "; expected " + key.expected);
    }
    if (recipe_.train.mode == TrainMode::kFull) {
      for (const auto& [path, where] : positions_) {
        if (path.starts_with("lora.")) report(where, path + " has no effect with train.mode: full; remove one of them");
      }
    }
    for (const RecipeProblem& problem : validate(recipe_)) {
      bool was_read = !broken_;
      for (const std::string& path : problem.keys) was_read = was_read && !bad_.contains(path);
      if (!was_read) continue;  // the values that disagree are not the user's
      const auto found = positions_.find(problem.keys.front());
      report(found == positions_.end() ? file_ : found->second, problem.what);
    }
    if (!errors_.empty()) throw RecipeError(errors_);
    return std::move(recipe_);
  }

 private:
  void read_map(const YamlNode& map, const std::string& section) {
    std::map<std::string, int> lines;
    for (const auto& [key, value] : map.entries) {
      if (key.kind != YamlNode::Kind::kScalar) {
        report(position(key), "a key is " + describe(key) + "; expected one of " + key_names(section));
        continue;
      }
      const std::string path = section.empty() ? key.text : section + "." + key.text;
      if (const auto [first, is_new] = lines.emplace(key.text, key.line); !is_new) {
        report(position(key), path + " is given twice, first in line " + std::to_string(first->second) + "; keep one");
        continue;
      }
      read_entry(path, section.empty(), key, value);
    }
  }

  void read_entry(const std::string& path, bool is_top_level, const YamlNode& key, const YamlNode& value) {
    const std::vector<std::string> sections = section_names();
    if (is_top_level && std::find(sections.begin(), sections.end(), path) != sections.end()) {
      if (value.kind == YamlNode::Kind::kMap) {
        read_map(value, path);
      } else if (value.kind != YamlNode::Kind::kNull) {
        report(position(value), path + " is " + describe(value) + "; expected a map with the keys " + key_names(path));
      }
    } else if (const RecipeKey* known =
                   is_top_level && path.find('.') != std::string::npos ? nullptr : find_recipe_key(path)) {
      read_value(*known, value, {});
    } else {
      report_unknown(position(key), path);
    }
  }

  /// `argument`: what the value is of, "" for the file, whose values have a position.
  void read_value(const RecipeKey& key, const YamlNode& value, const std::string& argument) {
    positions_[key.path] = argument.empty() ? position(value) : argument;
    bad_.erase(key.path);
    if (key.set(value, recipe_)) return;
    const YamlNode& culprit = *key.culprit(value);
    const std::string where = argument.empty() ? position(culprit) : argument;
    bad_[key.path] = where;
    report(where,
           key.path + (&culprit == &value ? " is " : " holds ") + describe(culprit) + "; expected " + key.expected);
  }

  void report_unknown(const std::string& where, const std::string& path) {
    const std::string shown = "unknown key \"" + path.substr(0, 100) + "\"; ";
    const std::string section = path.substr(0, path.find('.'));
    if (path == "<<" || path.ends_with(".<<")) {
      report(where, "a YAML merge key; recipes do not merge: write the keys out");
    } else if (const RecipeKey* key = find_recipe_key(path)) {
      report(where, shown + "expected the key " + std::string(key->name()) + " inside the section " +
                        std::string(key->section()));
    } else if (const std::string nearest = nearest_recipe_key(path); !nearest.empty()) {
      report(where, shown + "did you mean " + nearest + "?");
    } else {
      const bool in_section = section != path && !key_names(section).empty();
      report(where, shown + "expected one of " + key_names(in_section ? section : ""));
    }
  }

  void report(const std::string& where, const std::string& what) {
    errors_ += (errors_.empty() ? "" : "\n") + where + ": " + what;
  }

  [[nodiscard]] std::string position(int line, int column) const {
    return file_ + ":" + std::to_string(line) + ":" + std::to_string(column);
  }
  [[nodiscard]] std::string position(const YamlNode& node) const { return position(node.line, node.column); }

  std::string file_;
  Recipe recipe_;
  std::map<std::string, std::string> positions_;  // key -> where it was given last
  std::map<std::string, std::string> bad_;        // keys whose value could not be used
  std::string errors_;
  bool broken_ = false;  // the file as a whole could not be read, so what is missing is not known
};

}  // namespace

std::vector<RecipeProblem> validate(const Recipe& recipe) {
  std::vector<RecipeProblem> problems;
  const auto expect = [&](bool holds, std::vector<std::string> keys, const std::string& otherwise) {
    if (!holds) problems.push_back({std::move(keys), otherwise});
  };
  const Recipe::Train& train = recipe.train;
  const Recipe::Evaluation& evaluation = recipe.evaluation;
  const LoraOptions& lora = recipe.lora;

  std::set<std::filesystem::path> names;
  for (const TrainingFile& file : recipe.data.train) {
    expect(names.insert(file.path).second, {"data.train"},
           "data.train names " + file.path.string() + " twice; expected it once, with a weight");
  }
  expect(recipe.output_dir != recipe.base_model || recipe.base_model.empty(), {"output_dir", "base_model"},
         "output_dir is base_model; expected a folder of its own");
  expect(train.mode == TrainMode::kFull || !lora.target_modules.empty() || !lora.target_parameters.empty(),
         {"lora.target_modules", "lora.target_parameters"},
         "lora.target_modules and lora.target_parameters are both empty; expected something to train");
  expect(train.mxfp4_finish_steps == 0 || train.mode == TrainMode::kFull, {"train.mxfp4_finish_steps", "train.mode"},
         "train.mxfp4_finish_steps is set; expected 0 unless train.mode is full (an adapter leaves the base as it is)");
  expect(train.pipeline_stages == 1 || train.mode == TrainMode::kLora, {"train.pipeline_stages", "train.mode"},
         "train.pipeline_stages is set; expected 1 unless train.mode is lora (every rank holds what is trained)");
  if (train.max_steps) {
    const std::string limit = "; expected no more than train.max_steps, which is " + std::to_string(*train.max_steps);
    expect(train.warmup_steps <= *train.max_steps, {"train.warmup_steps", "train.max_steps"},
           "train.warmup_steps is " + std::to_string(train.warmup_steps) + limit);
    expect(train.mxfp4_finish_steps <= *train.max_steps, {"train.mxfp4_finish_steps", "train.max_steps"},
           "train.mxfp4_finish_steps is " + std::to_string(train.mxfp4_finish_steps) + limit);
  }
  if (evaluation.early_stopping_patience) {
    expect(recipe.data.validation.has_value(), {"evaluation.early_stopping_patience", "data.validation"},
           "evaluation.early_stopping_patience is set; expected data.validation to judge by");
    expect(evaluation.every_steps.has_value(), {"evaluation.early_stopping_patience", "evaluation.every_steps"},
           "evaluation.early_stopping_patience is set; expected evaluation.every_steps to be a number too");
  }
  expect(!evaluation.keep_best || recipe.data.validation.has_value(), {"evaluation.keep_best", "data.validation"},
         "evaluation.keep_best is true; expected data.validation to judge by");
  return problems;
}

Recipe parse_recipe(const std::string& text, const std::string& name, std::span<const std::string> overrides) {
  Reader reader(name);
  reader.read_file(text);
  for (const std::string& argument : overrides) reader.read_override(argument);
  return reader.finish();
}

Recipe read_recipe(const std::filesystem::path& file, std::span<const std::string> overrides) {
  std::error_code error;
  if (std::filesystem::is_directory(file, error))
    throw RecipeError(file.string() + ": a directory; expected a recipe, which is a YAML file");
  std::ifstream in(file, std::ios::binary);
  if (!in)
    throw RecipeError(file.string() + ": cannot be read (" + std::generic_category().message(errno) +
                      "); expected a recipe, as `ossature recipes ls` lists them");
  if (std::filesystem::file_size(file, error) > kMaxRecipeBytes && !error)
    throw RecipeError(file.string() + ": over 1 MiB; expected a recipe, which is a short YAML file");
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  return parse_recipe(text, file.string(), overrides);
}

std::string to_yaml(const Recipe& recipe) {
  std::string text;
  std::string_view section;
  for (const RecipeKey& key : recipe_keys()) {
    if (key.section() == "lora" && recipe.train.mode == TrainMode::kFull) continue;
    if (key.section() != section) text += std::string(key.section()) + ":\n";
    section = key.section();
    text += (section.empty() ? "" : "  ") + std::string(key.name()) + ": " + key.get(recipe) + "\n";
  }
  return text;
}

}  // namespace ossature
