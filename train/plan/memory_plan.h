// What a run needs in memory, and how it keeps within what it may use: layers whose activations are kept run once, the
// others run again in the backward pass; weights that do not fit are read layer by layer as they are used.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

#include "model/checkpoint/checkpoint.h"
#include "model/network/stage.h"
#include "model/network/transformer.h"
#include "train/recipe/recipe.h"

namespace ossature {

/// Bytes. Sizes of a micro-batch are those of data.sequence_length * train.micro_batch_size tokens, all learned.
struct MemoryNeeds {
  std::int64_t program = 0;        // the program, its libraries and the loader
  std::int64_t weights = 0;        // mapped, all that a run reads
  std::int64_t layer_weights = 0;  // of these, one layer's
  std::int64_t trained = 0;        // parameters, gradients and the optimizer's moments
  std::int64_t input = 0;          // the input of one layer, kept of every layer
  std::int64_t kept = 0;           // what a layer keeps besides, if it does not run again
  std::int64_t working = 0;        // what a layer needs besides both while it is worked on
  std::int64_t head = 0;           // what the head needs
  std::int64_t replies = 0;        // what one of evaluation.sample_prompts needs for its reply, between steps
  std::int64_t num_layers = 0;
};

/// `num_trained`: trained parameters. `stage`: of a run that has no more than those layers.
[[nodiscard]] MemoryNeeds memory_needs(const Recipe& recipe, const Checkpoint& checkpoint, std::int64_t num_trained,
                                       const Stage* stage = nullptr);

struct MemoryPlan {
  MemoryNeeds needs;
  std::int64_t limit = 0;
  std::int64_t kept_layers = 0;             // see BackpropagationOptions
  bool pages = false;                       // whether weights are read as they are used
  std::int64_t micro_batches_together = 1;  // through each layer, so that its weights are read once for all

  /// Of the layer, or the head, that is worked on.
  [[nodiscard]] std::int64_t at_work() const;
  /// Of all layers, and at_work(); or of a sample reply, if that is more.
  [[nodiscard]] std::int64_t activations() const;
  /// Of a sample reply, what is more than a step's.
  [[nodiscard]] std::int64_t replies_beyond_step() const;
  /// All weights, or the layers of them that are in use.
  [[nodiscard]] std::int64_t resident_weights() const;
  /// The most that is resident.
  [[nodiscard]] std::int64_t resident() const;
  /// "17.2 GB of 18.0 GB: ..." for a person.
  [[nodiscard]] std::string describe() const;

 private:
  [[nodiscard]] std::int64_t of_a_step() const;
};

/// Where not even the weights fit, as many of a step's micro-batches go together as there is room for. train.recompute
/// auto keeps as many layers' activations as `limit` allows beside that.
///
/// `pipelined`: in a stage of a pipeline, the micro-batches of a step, else 0. As many as fit are under way at once,
/// since stages wait for each other at the beginning and at the end of each such group; activations have what is left.
/// `most_together`: no more than that.
[[nodiscard]] MemoryPlan plan_memory(const Recipe& recipe, const MemoryNeeds& needs, std::int64_t limit,
                                     std::int64_t pipelined = 0,
                                     std::int64_t most_together = std::numeric_limits<std::int64_t>::max());

/// Bytes that the machine (or its control group) has free; mapped files count as free.
[[nodiscard]] std::int64_t free_memory();

/// Of a plan that pages: of how many layers the weights may stay in the page cache from one pass to the next, where
/// `free` bytes are free for `local_ranks` runs like this one. A tenth is left to others.
[[nodiscard]] std::int64_t cached_layers(const MemoryPlan& plan, std::int64_t free, std::int64_t local_ranks = 1);

/// For passes without gradients where `free` bytes are free: weights that do not fit are read as they are used.
void fit_into_memory(Transformer& transformer, const Checkpoint& checkpoint, std::int64_t free);

/// What train.memory_limit says, else nine tenths of free_memory().
[[nodiscard]] std::int64_t memory_limit(const Recipe& recipe);

}  // namespace ossature
