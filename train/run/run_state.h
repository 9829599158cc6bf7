// What a run needs to go on after a kill: run_dir/checkpoints/step-N with the trained values, the optimizer's moments
// and the position in the data. Dropout and sampling are functions of seed and position, so there is no generator to
// save.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "data/batches/loader.h"
#include "model/network/parameters.h"
#include "train/optimizer/optimizer.h"
#include "train/ranks/ranks.h"
#include "train/run/training_files.h"

namespace ossature {

struct RunPosition {
  std::int64_t step = 0;           // steps done
  std::int64_t skipped_steps = 0;  // of those, steps that updated nothing as their loss or gradient was not finite
  LoaderPosition data;
  std::int64_t batches_in_epoch = 0;  // of the epoch of `data`: tells other rows from those that the run began with
  std::vector<TrainingFileIdentity> files;  // that the run began with
  double best_validation_loss = 0.0;
  std::int64_t evaluations_without_gain = 0;
  at::Tensor best;             // values at the lowest validation loss, as ParameterSet::values(); undefined if not kept
  std::int64_t best_step = 0;  // when those were
  bool evaluation_due = false;  // after `step`: it was interrupted, and counts in nothing here
};

/// Writes run_dir/checkpoints/step-N (under a temporary name until it is whole), then removes all but the `keep`
/// newest. Throws std::system_error when the disk refuses; then the states that were there still are.
void save_run_state(const std::filesystem::path& run_dir, const RunPosition& position, const ParameterSet& parameters,
                    const AdamW& optimizer, std::int64_t keep);

/// Whether run_dir has a complete state.
[[nodiscard]] bool has_run_state(const std::filesystem::path& run_dir);

/// Restores the newest whole state of run_dir into `parameters` and `optimizer`; nullopt if there is none. Removes what
/// a killed program left unfinished beside them. A state with other bytes than were written is passed over, and
/// `on_damage` hears which and why. Throws CheckpointError, having restored nothing, if all are damaged or the newest
/// whole one is of other parameters.
[[nodiscard]] std::optional<RunPosition> restore_run_state(
    const std::filesystem::path& run_dir, ParameterSet& parameters, AdamW& optimizer,
    const std::function<void(const std::string&)>& on_damage = {});

/// Gives every rank the state of the first, which may have been restored: position, values and moments. Collective.
void share_run_state(Ranks& ranks, RunPosition& position, ParameterSet& parameters, AdamW& optimizer);

/// Reads the trained values of the newest whole state of run_dir into `parameters` and returns its step; nullopt if no
/// state is whole. Changes nothing in the folder, in which a run may be at work. Throws CheckpointError if the state is
/// of other parameters.
[[nodiscard]] std::optional<std::int64_t> read_saved_values(const std::filesystem::path& run_dir,
                                                            const ParameterSet& parameters);

}  // namespace ossature
