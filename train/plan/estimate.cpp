#include "train/plan/estimate.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "data/batches/loader.h"
#include "data/token_file/token_file.h"
#include "model/kernels/bf16_tiles.h"
#include "train/failure/errors.h"
#include "train/optimizer/optimizer.h"
#include "train/plan/paging_plan.h"
#include "train/ranks/rank_layout.h"
#include "train/run/trained_model.h"
#include "train/run/training_files.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

/// As the run counts them; none where a file is not there yet.
std::optional<std::int64_t> steps_of(const Recipe& recipe) {
  std::vector<WeightedFile> files;
  for (const TrainingFile& file : recipe.data.train) {
    if (!fs::exists(file.path)) return recipe.train.max_steps;
    files.push_back({std::make_shared<const TokenFileReader>(file.path), file.weight});
  }
  const std::int64_t micro_batches = Loader(std::move(files), loader_options(recipe)).batches_in(recipe.train.epochs);
  const auto accumulation = recipe.train.gradient_accumulation_steps;
  const std::int64_t steps = (micro_batches + accumulation - 1) / accumulation;
  return recipe.train.max_steps ? std::min(steps, *recipe.train.max_steps) : steps;
}

std::int64_t free_bytes(fs::path where) {
  where = fs::absolute(where);
  while (!fs::exists(where) && where.has_parent_path() && where != where.parent_path()) where = where.parent_path();
  std::error_code ignored;
  return static_cast<std::int64_t>(fs::space(where, ignored).available);
}

std::string gigabytes(std::int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f GB", static_cast<double>(bytes) / 1e9);
  return text;
}

}  // namespace

MemoryPlan plan_run(const Recipe& recipe, const Checkpoint& base, std::int64_t limit, const RankPart& part) {
  const MemoryNeeds needs = memory_needs(recipe, base, num_trained(recipe, base), part.stage);
  const std::int64_t shared = std::min(needs.weights, limit);
  return plan_memory(recipe, needs, shared + (limit - shared) / part.local_ranks,
                     part.stage != nullptr ? part.micro_batches : 0);
}

std::vector<WayOut> ways_out(const Recipe& recipe, const Checkpoint& base, std::int64_t limit) {
  std::vector<WayOut> found;
  const auto consider = [&](const std::string& change, const Recipe& changed) {
    const std::int64_t resident = plan_run(changed, base, limit).resident();
    const bool fits = resident <= limit;
    if (fits) found.push_back({change, resident});
    return fits;
  };
  // In the order of what they cost: nothing measurable, time, then what is learned or seen at once.
  if (recipe.train.recompute == Recompute::kOff) {
    Recipe changed = recipe;
    changed.train.recompute = Recompute::kAuto;
    consider("train.recompute=auto", changed);
  }
  for (const auto& [name, state] :
       {std::pair{"bfloat16", OptimizerState::kBFloat16}, std::pair{"8bit", OptimizerState::k8Bit}}) {
    Recipe changed = recipe;
    if (trained_bytes(1 << 20, state).moments >= trained_bytes(1 << 20, recipe.train.optimizer_state).moments) continue;
    changed.train.optimizer_state = state;
    if (consider(std::string("train.optimizer_state=") + name, changed)) break;
  }
  for (std::int64_t size = recipe.train.micro_batch_size / 2; size >= 1; size /= 2) {
    Recipe changed = recipe;
    changed.train.micro_batch_size = size;
    changed.train.gradient_accumulation_steps *= recipe.train.micro_batch_size / size;
    if (consider("train.micro_batch_size=" + std::to_string(size) +
                     " train.gradient_accumulation_steps=" + std::to_string(changed.train.gradient_accumulation_steps),
                 changed))
      break;
  }
  for (std::int64_t length = recipe.data.sequence_length / 2; length >= 128; length /= 2) {
    Recipe changed = recipe;
    changed.data.sequence_length = length;
    if (consider("data.sequence_length=" + std::to_string(length), changed)) break;
  }
  if (recipe.train.mode == TrainMode::kLora) {
    for (std::int64_t r = recipe.lora.r / 2; r >= 1; r /= 2) {
      Recipe changed = recipe;
      changed.lora.r = r;
      if (consider("lora.r=" + std::to_string(r), changed)) break;
    }
    if (!recipe.lora.target_parameters.empty() && !recipe.lora.target_modules.empty()) {
      Recipe changed = recipe;
      changed.lora.target_parameters.clear();
      consider("lora.target_parameters=[]", changed);
    }
  }
  if (found.size() > 3) found.resize(3);
  return found;
}

double gflop_per_token(const Recipe& recipe, const ModelConfig& model, const MemoryPlan& plan) {
  const ActiveWeights weights = active_weights(model);
  const double again = 1.0 - static_cast<double>(plan.kept_layers) /
                                 static_cast<double>(std::max<std::int64_t>(1, plan.needs.num_layers));
  const double passes = recipe.train.mode == TrainMode::kFull ? 3.0 : 2.0;
  const double layers = static_cast<double>(model.num_hidden_layers) * weights.layer;
  return 2e-9 * (layers * (passes + again) + weights.head * passes);
}

/// The fastest of what fits in. Where the processor multiplies no bfloat16, tiles are widened to float32, and its rate
/// is theirs.
double probe_gflop_per_second(ComputeDtype dtype) {
  using Clock = std::chrono::steady_clock;
  constexpr std::int64_t kRows = 1024, kColumns = 2048;
  at::NoGradGuard no_grad;
  const bool widened = dtype == ComputeDtype::kBFloat16 && !tiles::has_bf16_products();
  const auto type = widened ? at::kFloat : scalar_type_of(dtype);
  const at::Tensor x = at::ones({kRows, kColumns}, type), weight = at::ones({kColumns, kColumns}, type);
  double best = 0.0;
  const auto begin = Clock::now();
  do {
    const auto start = Clock::now();
    const at::Tensor product = at::linear(x, weight);
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::max(best, 2e-9 * kRows * kColumns * kColumns / seconds);
  } while (Clock::now() - begin < std::chrono::milliseconds(500));
  return best;
}

Estimate estimate(const Recipe& recipe, bool probe) {
  const Checkpoint base(recipe.base_model);
  const ModelConfig& model = base.config();
  Estimate result;
  result.trained_parameters = num_trained(recipe, base);
  result.memory = plan_run(recipe, base, memory_limit(recipe));
  const TrainedBytes trained = trained_bytes(result.trained_parameters, recipe.train.optimizer_state);
  const std::int64_t best = recipe.evaluation.keeps_best() ? trained.values : 0;
  result.checkpoint_bytes = (recipe.checkpoint.keep + 1) * (trained.values + trained.moments + best);
  result.result_bytes = recipe.train.mode == TrainMode::kFull ? 2 * base.num_parameters() : trained.values;
  result.free_disk_bytes = free_bytes(recipe.output_dir);
  result.tokens_per_step =
      recipe.data.sequence_length * recipe.train.micro_batch_size * recipe.train.gradient_accumulation_steps;
  result.steps = steps_of(recipe);
  if (probe) {
    if (recipe.train.threads) at::set_num_threads(static_cast<int>(*recipe.train.threads));
    result.gflop_per_second = probe_gflop_per_second(recipe.dtype);
    if (result.memory.pages) result.bytes_per_second = probe_bytes_per_second(base);
    const MachineRates rates{result.gflop_per_second, result.bytes_per_second};
    result.memory = fastest_plan(recipe, model, result.memory, rates);
    result.step_seconds = step_seconds(recipe, model, result.memory, rates);
  }
  result.gflop_per_token = gflop_per_token(recipe, model, result.memory);
  if (!result.fits()) result.ways_out = ways_out(recipe, base, result.memory.limit);
  return result;
}

void add_ranks(Estimate& estimate, const Recipe& recipe, std::int64_t ranks, const Network& network,
               std::optional<double> micro_batch_seconds) {
  const RankLayout layout = layout_of(recipe, 0, ranks);
  const Checkpoint base(recipe.base_model);
  estimate.ranks = ranks;
  if (layout.stages > 1) {
    estimate.memory = {};
    for (RankLayout place = layout; place.stage < layout.stages; ++place.stage) {
      const std::optional<Stage> stage = place.stage_in(base.config());
      const MemoryPlan plan = plan_run(recipe, base, memory_limit(recipe),
                                       {1, &*stage, place.num_own(recipe.train.gradient_accumulation_steps)});
      if (plan.resident() > estimate.memory.resident()) estimate.memory = plan;
    }
  }
  const auto tokens = static_cast<double>(recipe.data.sequence_length * recipe.train.micro_batch_size);
  StepWork work;
  work.micro_batch_seconds = micro_batch_seconds.value_or(
      tokens * estimate.gflop_per_token / (kShareOfRoofline * std::max(estimate.gflop_per_second, 1e-9)));
  work.micro_batches = recipe.train.gradient_accumulation_steps;
  // The gradient of the input costs what the forward pass does, and so does a layer that runs again.
  const double once = gflop_per_token(recipe, base.config(), {.needs = {.num_layers = 1}, .kept_layers = 1}) / 2.0;
  work.backward_share = 1.0 - once / estimate.gflop_per_token;
  work.layers = base.config().num_hidden_layers;
  work.gradient_bytes = 4.0 * static_cast<double>(estimate.trained_parameters);
  work.boundary_bytes = 4.0 * tokens * static_cast<double>(base.config().hidden_size);
  if (micro_batch_seconds || estimate.gflop_per_second > 0.0)
    estimate.step = step_time(work, ranks, layout.stages, network);
}

void check_fits(const Recipe& recipe, const Checkpoint& base, const MemoryPlan& plan) {
  if (plan.resident() <= plan.limit) return;
  std::string text = "the run does not fit into memory: it needs " + plan.describe();
  for (const WayOut& way : ways_out(recipe, base, plan.limit))
    text += "\n  " + way.change + " needs " + gigabytes(way.resident);
  throw OutOfMemoryError(text + "\n  train.memory_limit=GiB, if more than that is free, lets it try");
}

std::optional<double> Estimate::seconds() const {
  if (steps && step) return static_cast<double>(*steps) * step->total();
  if (!steps || step_seconds <= 0.0) return std::nullopt;
  return static_cast<double>(*steps) * step_seconds;
}

Inspection Estimate::report() const {
  Inspection result;
  result.kind = "estimate";
  const MemoryNeeds& needs = memory.needs;
  result.fields = {{"fits", fits()},
                   {"memory_bytes", memory.resident()},
                   {"memory_limit_bytes", memory.limit},
                   {"layers_computed_again", needs.num_layers - memory.kept_layers},
                   {"weights_read_as_they_are_used", memory.pages},
                   {"micro_batches_together", memory.micro_batches_together},
                   {"trained_parameters", trained_parameters},
                   {"disk_bytes", checkpoint_bytes + result_bytes},
                   {"disk_free_bytes", free_disk_bytes},
                   {"tokens_per_step", tokens_per_step},
                   {"gflop_per_token", gflop_per_token}};
  if (steps) result.fields.emplace_back("steps", *steps);
  if (gflop_per_second > 0.0) {
    result.fields.emplace_back("gflop_per_second", gflop_per_second);
    if (bytes_per_second > 0.0) result.fields.emplace_back("disk_bytes_per_second", bytes_per_second);
    result.fields.emplace_back("tokens_per_second", static_cast<double>(tokens_per_step) / step_seconds);
  }
  if (step) {
    result.fields.emplace_back("ranks", ranks);
    result.fields.emplace_back("step_seconds", step->total());
    result.fields.emplace_back("computing_share", step->computing / step->total());
    result.fields.emplace_back("network_share", step->network / step->total());
    result.fields.emplace_back("slowest_rank_share", step->stragglers / step->total());
  }
  if (const auto time = seconds()) result.fields.emplace_back("hours", *time / 3600.0);
  result.tables = {
      {"memory",
       {"part", "bytes"},
       {{std::string("program and loader"), needs.program},
        {std::string(memory.pages ? "weights, two layers at a time" : "weights, mapped"), memory.resident_weights()},
        {std::string("trained values, gradients, moments"), needs.trained},
        {std::string("layer inputs"), memory.micro_batches_together * needs.num_layers * needs.input},
        {std::string("activations of layers that do not run again"),
         memory.micro_batches_together * memory.kept_layers * needs.kept},
        {std::string("the layer or head at work"), memory.at_work()}}},
      {"disk",
       {"part", "bytes"},
       {{std::string("checkpoints"), checkpoint_bytes}, {std::string("result"), result_bytes}}}};
  if (memory.replies_beyond_step() > 0)
    result.tables.front().rows.push_back({std::string("a sample reply, beyond a step"), memory.replies_beyond_step()});
  if (!ways_out.empty()) {
    Inspection::Table table{"ways_out", {"change", "bytes"}, {}};
    for (const WayOut& way : ways_out) table.rows.push_back({way.change, way.resident});
    result.tables.push_back(std::move(table));
  }
  return result;
}

}  // namespace ossature
