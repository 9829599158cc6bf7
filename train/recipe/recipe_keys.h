// The one table of recipe keys. Reader, `key=value` arguments, writer and `ossature recipes keys` are driven by it, so
// a key that is added here (and to train/recipe/recipe.h) exists everywhere. Defaults are those of a default-built
// Recipe.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "train/recipe/recipe.h"
#include "train/recipe/recipe_yaml.h"

namespace ossature {

struct RecipeKey {
  std::string path;      // "train.learning_rate"
  std::string expected;  // "a number > 0", "constant | linear | cosine", "a path or null"
  std::string doc;       // one line, no full stop
  bool required = false;
  /// Puts the value into the recipe; false, and the recipe unchanged, if it is not what `expected` says.
  std::function<bool(const YamlNode&, Recipe&)> set;
  /// The part of a value that `set` refused; the value itself where that is not known.
  std::function<const YamlNode*(const YamlNode&)> culprit;
  /// The value as YAML on one line.
  std::function<std::string(const Recipe&)> get;

  /// "train" of "train.learning_rate", "" of "dtype".
  [[nodiscard]] std::string_view section() const;
  /// "learning_rate" of "train.learning_rate".
  [[nodiscard]] std::string_view name() const;
};

/// All keys, grouped by section, in the order in which a recipe is written.
[[nodiscard]] const std::vector<RecipeKey>& recipe_keys();

/// nullptr if there is no such key.
[[nodiscard]] const RecipeKey* find_recipe_key(std::string_view path);

/// The key that a user who wrote the unknown `path` most likely meant: one of the same name in another section, or the
/// one with the fewest letters changed. "" if none is near.
[[nodiscard]] std::string nearest_recipe_key(std::string_view path);

}  // namespace ossature
