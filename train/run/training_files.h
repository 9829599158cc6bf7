// The token files of a run: opened, checked against the model and each other, and told apart from others.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/batches/loader.h"
#include "data/batches/sampler.h"
#include "data/token_file/token_file.h"
#include "model/checkpoint/checkpoint.h"
#include "train/recipe/recipe.h"

namespace ossature {

struct RunFiles {
  std::vector<WeightedFile> training;
  std::shared_ptr<const TokenFileReader> validation;  // nullptr without one
};

/// Opens the files of `recipe` and reads them whole, so that damage shows before the run and not hours into it. Throws
/// DataError if one is broken, is not of the vocabulary of `base`, or of another tokenizer than the others.
[[nodiscard]] RunFiles open_run_files(const Recipe& recipe, const Checkpoint& base);

/// How a run of `recipe` on one rank reads its training files.
[[nodiscard]] LoaderOptions loader_options(const Recipe& recipe);

/// Says on stderr if `file` was made with another tokenizer.json than the one beside the checkpoint in `model`. Ids may
/// then mean other tokens than the model has learned; or the same, where the file was only written anew.
void warn_of_other_tokenizer(const TokenFileReader& file, const std::filesystem::path& model);

/// Tells a training file, wherever it lies, from one that holds anything else.
struct TrainingFileIdentity {
  std::string fingerprint;  // of samples, tokens and weights: TokenFileReader::fingerprint()
  std::int64_t samples = 0;
  std::int64_t tokens = 0;
  double weight = 1.0;

  bool operator==(const TrainingFileIdentity&) const = default;
};

[[nodiscard]] std::vector<TrainingFileIdentity> identify(const std::vector<WeightedFile>& files);

/// What differs between the files that a run began with and `files`, as one sentence; "" if nothing does.
[[nodiscard]] std::string difference(const std::vector<TrainingFileIdentity>& begun,
                                     const std::vector<WeightedFile>& files);

/// "a.h5, b.h5 (weight 0.5)".
[[nodiscard]] std::string names_of(const std::vector<TrainingFile>& files);

}  // namespace ossature
