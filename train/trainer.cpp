#include "train/trainer.h"

#include <chrono>
#include <cmath>
#include <iomanip>
#include <iostream>
#include <limits>
#include <span>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "data/data_error.h"
#include "data/loader.h"
#include "model/backpropagation.h"
#include "model/tensor_memory.h"
#include "train/errors.h"
#include "train/estimate.h"
#include "train/evaluate.h"
#include "train/freed_memory.h"
#include "train/group_norms.h"
#include "train/interrupt.h"
#include "train/learned_channels.h"
#include "train/lr_schedule.h"
#include "train/memory_plan.h"
#include "train/memory_use.h"
#include "train/metrics.h"
#include "train/non_finite.h"
#include "train/optimizer.h"
#include "train/run_folder.h"
#include "train/run_sessions.h"
#include "train/run_state.h"
#include "train/run_view.h"
#include "train/sample_replies.h"
#include "train/trained_model.h"
#include "train/training_files.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

/// Steps. Norms of a whole adapter take half a percent of a short step, and change slowly; the load of each expert is
/// kilobytes.
constexpr std::int64_t kDetailsEvery = 10;

constexpr const char* kNonFiniteHelp =
    ". A lower train.learning_rate or dtype: float32 usually helps; damaged weights and extreme loss weights give this "
    "too";

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// A seed for the dropout masks of one micro-batch; never 0, which means none.
std::uint64_t dropout_seed(std::int64_t seed, std::int64_t step, std::int64_t micro_batch) {
  std::uint64_t mixed = 0x9e3779b97f4a7c15u;
  for (const auto part : {seed, step, micro_batch}) {
    mixed = (mixed ^ static_cast<std::uint64_t>(part)) * 0xbf58476d1ce4e5b9u;
    mixed ^= mixed >> 29;
  }
  return mixed | 1u;
}

LoaderOptions loader_options(const Recipe& recipe) {
  LoaderOptions options;
  options.sequence_length = recipe.data.sequence_length;
  options.packing = recipe.data.packing;
  options.shuffle = recipe.data.shuffle;
  options.seed = static_cast<std::uint64_t>(recipe.train.seed);
  options.micro_batch_size = recipe.train.micro_batch_size;
  options.num_workers = recipe.data.num_workers;
  return options;
}

/// Made before anything is loaded: what is free then is what the run may use.
MemoryPlan fitting_plan(const Recipe& recipe) {
  const Checkpoint base(recipe.base_model);
  const MemoryPlan plan = plan_run(recipe, base, memory_limit(recipe));
  check_fits(recipe, base, plan);
  return plan;
}

class Run {
 public:
  Run(const Recipe& recipe, const MemoryPlan& plan, RunLock& lock, bool resume)
      : recipe_(recipe),
        model_(recipe),
        optimizer_(model_.parameters(),
                   {recipe.train.adam_beta1, recipe.train.adam_beta2, recipe.train.adam_epsilon,
                    recipe.train.weight_decay, recipe.train.max_grad_norm, recipe.train.optimizer_state}),
        files_(open_run_files(recipe, model_.checkpoint())),
        loader_(files_.training, loader_options(recipe)),
        schedule_{recipe.train.lr_scheduler, recipe.train.learning_rate, recipe.train.warmup_steps,
                  recipe.train.min_lr_ratio},
        plan_(plan),
        freed_memory_(plan.resident()) {
    if (!recipe.evaluation.sample_prompts.empty()) prompts_.emplace(recipe, model_.checkpoint().config());
    harmony_ = known_harmony();
    if (plan_.pages) pager_.emplace(model_.checkpoint());
    const auto accumulation = recipe.train.gradient_accumulation_steps;
    total_micro_batches_ = loader_.batches_in(recipe.train.epochs);
    total_steps_ = (total_micro_batches_ + accumulation - 1) / accumulation;
    if (recipe.train.max_steps) total_steps_ = std::min(total_steps_, *recipe.train.max_steps);
    position_.best_validation_loss = std::numeric_limits<double>::max();
    if (resume) restore();
    position_.files = identify(files_.training);
    fs::create_directories(recipe.output_dir);
    lock.hold(recipe.output_dir);
    write_run_recipe(recipe);
    append_session(recipe.output_dir, this_session(position_.step + 1));
    metrics_.emplace(recipe.output_dir, position_.step);
    if (const fs::path samples = recipe.output_dir / "samples.jsonl"; prompts_ || fs::exists(samples))
      samples_.emplace(samples, position_.step);
    if (position_.step == 0) metrics_->write_recipe(to_yaml(recipe));
    return_freed_memory();
  }

  void run() {
    describe();
    // The share of the roofline is worth half a second where somebody looks on.
    view_.emplace(total_steps_, gflop_per_token(recipe_, model_.checkpoint().config(), plan_),
                  RunView::is_live() ? probe_gflop_per_second(recipe_.dtype) : 0.0);
    if (position_.step == 0) evaluate_now();
    while (position_.step < total_steps_ && !stopped_early_) {
      if (const auto metrics = step()) {
        metrics_->write(*metrics);
        view_->show(*metrics, seconds_left(metrics->seconds));
      }

      const bool is_last = position_.step == total_steps_;
      if (is_last || is_due(recipe_.evaluation.every_steps)) evaluate_now();
      if (is_due(recipe_.checkpoint.every_steps)) save();
      if (freed_memory_.should_go(position_.step, read_memory_use().rss_bytes)) return_freed_memory();
      if (interrupt_.is_requested()) {
        save();
        throw InterruptedError("interrupted after step " + std::to_string(position_.step) + "; go on with --resume");
      }
    }
    save();
    if (position_.step > 0 && updates_done() == 0)
      throw NonFiniteError(std::string("no step had a finite loss and gradient; nothing was learned") + kNonFiniteHelp);
    if (position_.best.defined()) model_.parameters().values().copy_(position_.best);
    model_.save(recipe_.output_dir, on_grid(position_.best.defined() ? position_.best_step : position_.step));
    const fs::path result = recipe_.output_dir / (recipe_.train.mode == TrainMode::kLora ? "adapter" : "model");
    view_->finish();
    view_->say("wrote " + result.string() +
               (position_.best.defined() && position_.best_step != position_.step
                    ? ", of step " + std::to_string(position_.best_step) + ", which had the lowest validation loss"
                    : ""));
  }

 private:
  /// One optimizer step: its micro-batches, the update, and what happened. nullopt if the step updated nothing, its
  /// loss or gradient not being finite; throws NonFiniteError if that was one step too many.
  std::optional<StepMetrics> step() {
    const auto start = Clock::now();
    const auto accumulation = recipe_.train.gradient_accumulation_steps;
    const auto num_micro_batches = std::min(accumulation, total_micro_batches_ - position_.step * accumulation);
    StepMetrics metrics;
    LossSum sum;
    BackpropagationOptions options;
    options.kept_layers = plan_.kept_layers;
    options.experts_on_grid = on_grid(position_.step);
    options.pager = pager_ ? &*pager_ : nullptr;
    const ModelConfig& config = model_.checkpoint().config();
    RouterLoad router_load(config.num_hidden_layers, config.num_local_experts);
    options.router_load = &router_load;
    const bool drops = recipe_.train.mode == TrainMode::kLora && recipe_.lora.lora_dropout > 0.0;
    std::vector<Batch> batches(static_cast<std::size_t>(num_micro_batches));
    std::vector<TokenRows> rows;
    for (std::int64_t done = 0; done < num_micro_batches; done += plan_.micro_batches_together) {
      const auto together = std::min(plan_.micro_batches_together, num_micro_batches - done);
      for (std::int64_t i = done; i < done + together; ++i) {
        Batch& batch = batches[static_cast<std::size_t>(i)];
        batch = loader_.next();
        rows.push_back(rows_of(batch));
        if (drops) rows.back().dropout_seed = dropout_seed(recipe_.train.seed, position_.step, i);
        metrics.tokens += static_cast<std::int64_t>(batch.tokens.size());
        count_learned(harmony_, rows.back(), metrics.channel_tokens);
      }
      const LossSum part =
          backpropagate(model_.transformer(), std::span(rows).last(static_cast<std::size_t>(together)), options);
      sum.loss += part.loss;
      sum.weight += part.weight;
      metrics.learned_tokens += part.num_learned;
    }
    if (sum.weight == 0.0) {
      throw DataError(names_of(recipe_.data.train) + ": step " + std::to_string(position_.step + 1) +
                      " has no learned token; every loss weight in it is 0. Look at the data with ossature inspect");
    }
    metrics.loss = sum.loss / sum.weight;
    metrics.learning_rate = learning_rate(schedule_, updates_done(), total_steps_);
    bool is_finite = std::isfinite(metrics.loss);
    try {
      if (is_finite) {
        metrics.grad_norms = gradient_norms(model_.parameters());
        for (auto& [group, norm] : metrics.grad_norms) norm /= sum.weight;
        metrics.grad_norm = optimizer_.step(metrics.learning_rate, sum.weight);
      }
    } catch (const NonFiniteError&) {
      is_finite = false;
    }
    if (!is_finite) {
      skip(batches, rows, options, metrics, start);
      return std::nullopt;
    }
    position_.step += 1;
    metrics.router_load = router_load.largest_over_mean();
    if (position_.step % kDetailsEvery == 1) {
      metrics.expert_tokens = router_load.tokens();
      if (model_.lora() != nullptr) metrics.adapter_norms = adapter_norms(*model_.lora());
    }
    position_.data = loader_.position();
    metrics.step = position_.step;
    metrics.seconds = seconds_since(start);
    metrics.peak_rss_bytes = read_memory_use().peak_rss_bytes;
    training_seconds_ += metrics.seconds;
    ++steps_here_;
    return metrics;
  }

  /// Passes over the step that these micro-batches are of; if too many were already, saves the step before and throws
  /// NonFiniteError.
  void skip(const std::vector<Batch>& batches, const std::vector<TokenRows>& rows,
            const BackpropagationOptions& options, const StepMetrics& metrics, Clock::time_point start) {
    const NonFinite found = find_non_finite(model_.transformer(), model_.parameters(), rows, options);
    SkippedStep skipped;
    skipped.tokens = metrics.tokens;
    skipped.learned_tokens = metrics.learned_tokens;
    skipped.step = position_.step + 1;
    skipped.skipped_steps = position_.skipped_steps + 1;
    skipped.non_finite = found.tensor;
    skipped.samples = sources_of(batches[found.micro_batch], files_.training);
    if (skipped.skipped_steps > recipe_.train.max_skipped_steps) {
      save();
      throw NonFiniteError("step " + std::to_string(skipped.step) + ": " + found.tensor + " is not finite; samples " +
                           skipped.samples + "; " + std::to_string(position_.skipped_steps) +
                           " steps were skipped for such before, and train.max_skipped_steps is " +
                           std::to_string(recipe_.train.max_skipped_steps) +
                           ". Nothing was updated; the step before is in " +
                           (recipe_.output_dir / "checkpoints").string() + kNonFiniteHelp);
    }
    position_.step = skipped.step;
    position_.skipped_steps = skipped.skipped_steps;
    position_.data = loader_.position();
    skipped.seconds = seconds_since(start);
    metrics_->write(skipped);
    view_->say(progress_line(skipped, total_steps_));
  }

  /// The validation and the sample replies that are due after a step, or before the first.
  void evaluate_now() {
    validate();
    for (std::size_t i = 0; prompts_ && i < prompts_->size(); ++i) {
      const SampleReply reply = prompts_->answer(i, model_.transformer(), position_.step);
      samples_->append(log_line(reply));
      view_->say(progress_line(reply, total_steps_));
    }
  }

  void validate() {
    if (!files_.validation) return;
    const auto start = Clock::now();
    const LossSum sum =
        evaluate(model_.transformer(), files_.validation, recipe_.data.sequence_length * recipe_.train.micro_batch_size,
                 on_grid(position_.step));
    if (sum.weight == 0.0)
      throw DataError(recipe_.data.validation->string() + ": no token of it is learned; there is no loss");
    ValidationMetrics metrics{position_.step, sum.loss / sum.weight, sum.num_learned, seconds_since(start)};
    metrics_->write(metrics);
    view_->say(progress_line(metrics, total_steps_));

    if (!recipe_.evaluation.keeps_best()) return;
    const auto& patience = recipe_.evaluation.early_stopping_patience;
    if (metrics.validation_loss < position_.best_validation_loss) {
      position_.best_validation_loss = metrics.validation_loss;
      position_.evaluations_without_gain = 0;
      position_.best = model_.parameters().values().clone();
      position_.best_step = position_.step;
    } else if (++position_.evaluations_without_gain; patience && position_.evaluations_without_gain >= *patience) {
      stopped_early_ = true;
      view_->say("the validation loss has not fallen for " + std::to_string(*patience) +
                 " evaluations: stopping with the best");
    }
  }

  void save() {
    if (saved_step_ == position_.step) return;
    position_.batches_in_epoch = loader_.batches_in_epoch();
    save_run_state(recipe_.output_dir, position_, model_.parameters(), optimizer_, recipe_.checkpoint.keep);
    saved_step_ = position_.step;
  }

  void restore() {
    const auto restored = restore_run_state(
        recipe_.output_dir, model_.parameters(), optimizer_,
        [](const std::string& damage) { std::cerr << "passing over a damaged checkpoint: " << damage << std::endl; });
    if (!restored) return;
    if (const std::string other = difference(restored->files, files_.training); !other.empty()) {
      throw CheckpointError(recipe_.output_dir.string() + ": " + other +
                            "; resume with the token files and weights that began the run");
    }
    loader_.seek(restored->data);
    if (restored->batches_in_epoch != loader_.batches_in_epoch()) {
      throw CheckpointError(recipe_.output_dir.string() + ": the run made " +
                            std::to_string(restored->batches_in_epoch) + " micro-batches of an epoch, now there are " +
                            std::to_string(loader_.batches_in_epoch()) +
                            "; resume with the program that began the run");
    }
    position_ = *restored;
    saved_step_ = position_.step;
    const auto& patience = recipe_.evaluation.early_stopping_patience;
    stopped_early_ = patience && position_.evaluations_without_gain >= *patience;
  }

  void describe() const {
    const ModelConfig& config = model_.checkpoint().config();
    std::cerr << "base model " << model_.checkpoint().dir().string() << ": " << config.num_hidden_layers << " layers, "
              << config.num_local_experts << " experts, " << model_.checkpoint().num_parameters() << " parameters\n"
              << "trained parameters\n"
              << model_.summary();
    for (std::size_t i = 0; i < files_.training.size(); ++i) {
      const TokenFileReader& file = *files_.training[i].file;
      std::cerr << "data " << names_of({recipe_.data.train[i]}) << ": " << file.num_samples() << " samples, "
                << file.num_tokens() << " tokens\n";
    }
    const EpochSize epoch = loader_.epoch_size();
    std::cerr << "an epoch: " << epoch.samples << " samples, " << epoch.tokens << " tokens, "
              << loader_.batches_in_epoch() << " micro-batches, rows filled to " << std::fixed << std::setprecision(1)
              << 100 * loader_.packing_efficiency() << std::defaultfloat << " %\n"
              << "memory: " << plan_.describe() << "\n"
              << total_steps_ << " steps, " << at::get_num_threads() << " threads";
    if (position_.step > 0) std::cerr << ", going on after step " << position_.step;
    std::cerr << std::endl;
  }

  /// A tokenizer that cannot be read costs the run the counts by channel, no more.
  [[nodiscard]] HarmonyTokens known_harmony() const {
    try {
      return harmony_tokens_of(*files_.training.front().file, model_.checkpoint().dir());
    } catch (const DataError& error) {
      std::cerr << "tokens are not counted by channel: " << error.what() << "\n";
      return {};
    }
  }

  /// Whether experts are rounded to the MXFP4 grid in the step after `step` steps.
  [[nodiscard]] bool on_grid(std::int64_t step) const {
    return recipe_.train.mode == TrainMode::kFull && recipe_.train.mxfp4_finish_steps > 0 &&
           step >= total_steps_ - recipe_.train.mxfp4_finish_steps;
  }
  /// The steps that the optimizer and the learning rate know of.
  [[nodiscard]] std::int64_t updates_done() const { return position_.step - position_.skipped_steps; }
  [[nodiscard]] bool is_due(const std::optional<std::int64_t>& every) const {
    return every && position_.step % *every == 0;
  }
  [[nodiscard]] double seconds_left(double last) const {
    const double mean = steps_here_ > 0 ? training_seconds_ / static_cast<double>(steps_here_) : last;
    return mean * static_cast<double>(total_steps_ - position_.step);
  }

  const Recipe& recipe_;
  TrainedModel model_;
  AdamW optimizer_;
  RunFiles files_;
  Loader loader_;
  LrSchedule schedule_;
  MemoryPlan plan_;
  FreedMemory freed_memory_;
  std::optional<LayerPager> pager_;
  std::int64_t total_micro_batches_ = 0;
  std::int64_t total_steps_ = 0;
  RunPosition position_;
  HarmonyTokens harmony_;
  std::optional<SamplePrompts> prompts_;
  std::optional<MetricsLog> metrics_;
  std::optional<StepLog> samples_;
  std::optional<RunView> view_;
  InterruptGuard interrupt_;
  std::optional<std::int64_t> saved_step_;  // of the newest checkpoint
  bool stopped_early_ = false;
  double training_seconds_ = 0.0;
  std::int64_t steps_here_ = 0;
};

}  // namespace

void train(const Recipe& recipe, bool resume) {
  RunLock lock;
  if (fs::is_directory(recipe.output_dir)) lock.hold(recipe.output_dir);
  check_run_folder(recipe, resume);
  if (recipe.train.threads) at::set_num_threads(static_cast<int>(*recipe.train.threads));
  Run(recipe, fitting_plan(recipe), lock, resume).run();
}

}  // namespace ossature
