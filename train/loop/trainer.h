// The training loop.
#pragma once

#include "train/ranks/ranks.h"
#include "train/recipe/recipe.h"

namespace ossature {

/// Runs `recipe` from its beginning, or with `resume` from the newest checkpoint of its run folder. Progress goes to
/// stderr; the run folder is as design says (recipe.yaml, metrics.jsonl, sessions.jsonl, tensorboard/, checkpoints/,
/// and adapter/ or model/ at the end). Throws RecipeError, DataError or CheckpointError before anything is trained if
/// an input is wrong; NonFiniteError, with the parameters of the last good step kept in a checkpoint, if the loss or
/// the gradient stops being a number; InterruptedError after a signal, with a checkpoint of the step just done.
///
/// Several ranks share the micro-batches of each optimizer step and learn what one rank would, but for the order in
/// which float32 sums are taken. The first alone reads and writes the run folder. Collective; where there are several,
/// everything above is told to the user by the first rank and thrown as RankFailure.
void train(const Recipe& recipe, bool resume, Ranks& ranks);
/// With a single rank.
void train(const Recipe& recipe, bool resume);

}  // namespace ossature
