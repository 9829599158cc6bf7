#include "train/run/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string_view>

#include "model/checkpoint/checkpoint_writer.h"
#include "train/recipe/recipe_keys.h"
#include "train/run/run_state.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRecipeFile = "recipe.yaml";

/// Keys without which the state of a run means something else: what is trained, and which rows a step learns from.
bool is_fixed(const RecipeKey& key) {
  constexpr std::array<std::string_view, 9> kFixed = {
      "data.sequence_length", "data.packing",           "data.shuffle",
      "train.mode",           "train.micro_batch_size", "train.gradient_accumulation_steps",
      "train.seed",           "train.optimizer_state",  "dtype"};
  for (const std::string_view path : kFixed) {
    if (key.path == path) return true;
  }
  return key.section() == "lora" && key.path != "lora.init_from";
}

}  // namespace

void check_run_folder(const Recipe& recipe, bool resume) {
  const fs::path& dir = recipe.output_dir;
  if (!resume) {
    if (fs::exists(dir / "metrics.jsonl") || has_run_state(dir)) {
      throw RecipeError("output_dir: " + dir.string() +
                        " already holds a run; add --resume to go on with it, or give another output_dir");
    }
  }
  if (!has_run_state(dir)) {  // then the run begins anew, by whatever recipe
    const char* result = recipe.train.mode == TrainMode::kLora ? "adapter" : "model";
    if (fs::exists(dir / result)) {
      throw RecipeError("output_dir: " + dir.string() + " already holds " + result +
                        ", which the run would replace, and no checkpoint to resume from; move it away, or give "
                        "another output_dir");
    }
    return;
  }
  const Recipe begun = read_recipe(dir / kRecipeFile);
  std::string changes;
  for (const RecipeKey& key : recipe_keys()) {
    if (key.section() == "lora" && begun.train.mode == TrainMode::kFull) continue;  // a full run reads none of them
    if (!is_fixed(key) || key.get(recipe) == key.get(begun)) continue;
    changes += (changes.empty() ? "" : "\n") + key.path + " is " + key.get(recipe) + "; the run in " + dir.string() +
               " began with " + key.get(begun) + " and can only go on with that";
  }
  if (!changes.empty()) throw RecipeError(changes);
}

RunLock::~RunLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void RunLock::hold(const fs::path& dir) {
  if (descriptor_ >= 0) return;
  descriptor_ = ::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor_ < 0 || ::flock(descriptor_, LOCK_EX | LOCK_NB) == 0) return;  // some file systems have no locks
  if (errno != EWOULDBLOCK) return;
  ::close(descriptor_);
  descriptor_ = -1;
  throw RecipeError("output_dir: another process is running in " + dir.string() +
                    "; wait for it, stop it, or give another output_dir");
}

void write_run_recipe(const Recipe& recipe) {
  fs::create_directories(recipe.output_dir);
  replace_text_file(recipe.output_dir / kRecipeFile, to_yaml(recipe));
}

}  // namespace ossature
