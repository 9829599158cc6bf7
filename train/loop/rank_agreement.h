// Whether the ranks of a run are at the same work. Each machine has its own copy of program, recipe, base model and
// token files: a copy that differs would spoil the run without a word.
#pragma once

#include "model/checkpoint/checkpoint.h"
#include "train/ranks/ranks.h"
#include "train/recipe/recipe.h"
#include "train/run/training_files.h"

namespace ossature {

/// Compares with the first rank's: the program's version, the recipe (but for paths and what may differ from machine to
/// machine, as train.threads), the token files' fingerprints, and of the base model its shape and the first bytes of
/// every tensor. Collective. Throws RankFailure after the user was told what differs where.
void check_agreement(Ranks& ranks, const Recipe& recipe, const Checkpoint& base, const RunFiles& files);

}  // namespace ossature
