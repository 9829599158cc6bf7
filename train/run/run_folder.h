// The folder of a run, before the run begins or goes on.
#pragma once

#include <filesystem>

#include "train/recipe/recipe.h"

namespace ossature {

/// Checks that `recipe` may write into its output_dir: a new run needs a folder without one and without a result that
/// it would replace, and a resumed run the recipe that it began with, but for paths, device, length, learning rate,
/// optimizer, evaluations and checkpoints. Writes nothing. Throws RecipeError.
void check_run_folder(const Recipe& recipe, bool resume);

/// Keeps other processes from running in a folder, until it is destroyed or the process ends, however it ends. Leaves
/// nothing in the folder: the lock is on the directory itself (flock).
class RunLock {
 public:
  RunLock() = default;
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  /// Once held, again does nothing. Throws RecipeError if another process holds `dir`.
  void hold(const std::filesystem::path& dir);

 private:
  int descriptor_ = -1;
};

/// Creates the folder where it is absent and writes recipe.yaml, whole or not at all. Throws std::system_error when the
/// disk refuses.
void write_run_recipe(const Recipe& recipe);

}  // namespace ossature
