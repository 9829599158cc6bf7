// What a run will need, told from the recipe and from headers before anything is loaded: memory and disk by part,
// arithmetic, and time by a short measurement of this machine's matrix product.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "train/plan/memory_plan.h"
#include "train/plan/step_time.h"
#include "train/recipe/recipe.h"
#include "train/reports/inspection.h"

namespace ossature {

/// A change of the recipe that makes it need less.
struct WayOut {
  std::string change;         // "train.optimizer_state=8bit"
  std::int64_t resident = 0;  // the bytes that the run would need with it
};

struct Estimate {
  MemoryPlan memory;
  std::int64_t trained_parameters = 0;
  std::int64_t checkpoint_bytes = 0;  // all that are kept, and the one that is being written
  std::int64_t result_bytes = 0;      // the adapter or the model
  std::int64_t free_disk_bytes = 0;   // where output_dir lies
  std::int64_t tokens_per_step = 0;   // at most; rows are rarely full to the last token
  double gflop_per_token = 0.0;       // forward and gradient of the input, and what is computed again
  std::optional<std::int64_t> steps;  // unknown without the token files
  double gflop_per_second = 0.0;      // of the machine's matrix products; 0 if not measured
  double bytes_per_second = 0.0;      // of the disk, if weights are read as they are used; 0 if not measured
  double step_seconds = 0.0;          // of one machine; 0 if not measured
  std::vector<WayOut> ways_out;       // the cheapest three that fit, if the recipe does not

  // Several machines like this one: how many ranks, one each, and what a step takes, if that was asked for.
  std::int64_t ranks = 1;
  std::optional<StepTime> step;

  [[nodiscard]] bool fits() const { return memory.resident() <= memory.limit; }
  [[nodiscard]] std::optional<double> seconds() const;
  [[nodiscard]] Inspection report() const;
};

/// Share of the matrix product's rate that training reaches: 80 to 85 % measured from 2 layers of gpt-oss-20b to all 24
/// (README.md, scripts/bench train).
inline constexpr double kShareOfRoofline = 0.8;

/// Opens the base's headers and, where they are there, those of the training files. Throws RecipeError or
/// CheckpointError if the recipe does not fit the base. `probe`: measure the matrix product (half a second).
[[nodiscard]] Estimate estimate(const Recipe& recipe, bool probe);

/// Adds what a step takes on `ranks` machines like this one, joined by `network`: by the probe, or by what one of them
/// was seen to take for a micro-batch. Memory is that of the rank that needs most. Throws RecipeError if the ranks do
/// not suit the recipe.
void add_ranks(Estimate& estimate, const Recipe& recipe, std::int64_t ranks, const Network& network,
               std::optional<double> micro_batch_seconds = std::nullopt);

/// Of a forward pass, the gradient of the input and what is computed again; attention's own products are not counted.
[[nodiscard]] double gflop_per_token(const Recipe& recipe, const ModelConfig& model, const MemoryPlan& plan);

/// The machine's rate at a matrix product like a layer's, in half a second.
[[nodiscard]] double probe_gflop_per_second(ComputeDtype dtype);

/// The changes that make `recipe` fit into `limit`, those that cost the run least first, at most three.
[[nodiscard]] std::vector<WayOut> ways_out(const Recipe& recipe, const Checkpoint& base, std::int64_t limit);

/// What of a run one rank among several has, for its memory plan.
struct RankPart {
  std::int64_t local_ranks = 1;    // that share the machine's memory; the weights, which all map, count once
  const Stage* stage = nullptr;    // of a pipeline
  std::int64_t micro_batches = 0;  // of the stage in a step
};

/// The memory plan of a run, or of a part of it, that may use `limit` bytes. Throws RecipeError if the recipe's lora
/// section picks nothing.
[[nodiscard]] MemoryPlan plan_run(const Recipe& recipe, const Checkpoint& base, std::int64_t limit,
                                  const RankPart& part = {});

/// Throws OutOfMemoryError, with the numbers and the ways out, if the plan of a run does not fit.
void check_fits(const Recipe& recipe, const Checkpoint& base, const MemoryPlan& plan);

}  // namespace ossature
