#include "train/plan/paging_plan.h"

#include <algorithm>
#include <chrono>

#include "model/network/paged_layer.h"
#include "train/plan/estimate.h"

namespace ossature {
namespace {

/// Below this a plan that reads more is not worth it.
constexpr double kWorthwhile = 0.97;

}  // namespace

double probe_bytes_per_second(const Checkpoint& base) {
  const std::int64_t num_layers = base.config().num_hidden_layers;
  const PagedLayer first(Layer{}, base.layer_parts(num_layers - 1)), second(Layer{}, base.layer_parts(num_layers / 2));
  const PageMemory memory(std::max(first.size(), second.size()));
  const auto never = [] { return false; };
  (void)first.read(memory.bytes(), ReadWay::kDirect, never);  // the first touch of memory costs as much as the disk
  const auto start = std::chrono::steady_clock::now();
  (void)second.read(memory.bytes(), ReadWay::kDirect, never);
  return static_cast<double>(second.size()) /
         std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double step_seconds(const Recipe& recipe, const ModelConfig& model, const MemoryPlan& plan, const MachineRates& rates) {
  const std::int64_t micro_batches = recipe.train.gradient_accumulation_steps, together = plan.micro_batches_together;
  const auto tokens = static_cast<double>(recipe.data.sequence_length * recipe.train.micro_batch_size);
  const double computing = static_cast<double>(micro_batches) * tokens * gflop_per_token(recipe, model, plan) /
                           (kShareOfRoofline * rates.gflop_per_second);
  if (!plan.pages) return computing;
  const auto groups = static_cast<double>((micro_batches + together - 1) / together);
  const double layers = static_cast<double>(plan.needs.num_layers) * static_cast<double>(plan.needs.layer_weights);
  return std::max(computing, groups * 2.0 * layers / rates.bytes_per_second);
}

MemoryPlan fastest_plan(const Recipe& recipe, const ModelConfig& model, const MemoryPlan& plan,
                        const MachineRates& rates) {
  MemoryPlan best = plan;
  double seconds = step_seconds(recipe, model, plan, rates);
  for (std::int64_t together = plan.micro_batches_together - 1; plan.pages && together > 0; --together) {
    const MemoryPlan other = plan_memory(recipe, plan.needs, plan.limit, 0, together);
    const double its_seconds = step_seconds(recipe, model, other, rates);
    if (its_seconds >= kWorthwhile * seconds) continue;
    best = other;
    seconds = its_seconds;
  }
  return best;
}

}  // namespace ossature
