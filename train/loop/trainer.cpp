#include "train/loop/trainer.h"

#include <chrono>
#include <cmath>
#include <functional>
#include <iomanip>
#include <iostream>
#include <limits>
#include <memory>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "data/data_error.h"
#include "model/kernels/tensor_memory.h"
#include "train/failure/errors.h"
#include "train/loop/freed_memory.h"
#include "train/loop/group_norms.h"
#include "train/loop/interrupt.h"
#include "train/loop/memory_use.h"
#include "train/loop/rank_agreement.h"
#include "train/loop/step_gradients.h"
#include "train/optimizer/lr_schedule.h"
#include "train/optimizer/optimizer.h"
#include "train/plan/estimate.h"
#include "train/plan/memory_plan.h"
#include "train/plan/paging_plan.h"
#include "train/ranks/processor_share.h"
#include "train/ranks/rank_layout.h"
#include "train/run/run_folder.h"
#include "train/run/run_record.h"
#include "train/run/run_sessions.h"
#include "train/run/run_state.h"
#include "train/run/sample_replies.h"
#include "train/run/trained_model.h"
#include "train/run/training_files.h"

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

/// Made before anything is loaded: what is free then is what the run may use, shared with the ranks beside it.
MemoryPlan fitting_plan(const Recipe& recipe, const Ranks& ranks, const RankLayout& layout) {
  const Checkpoint base(recipe.base_model);
  const std::optional<Stage> stage = layout.stage_in(base.config());
  const MemoryPlan plan = plan_run(
      recipe, base, memory_limit(recipe),
      {ranks.local_size(), stage ? &*stage : nullptr, layout.num_own(recipe.train.gradient_accumulation_steps)});
  check_fits(recipe, base, plan);
  if (!plan.pages || plan.micro_batches_together == 1) return plan;
  return fastest_plan(recipe, base.config(), plan,
                      {probe_gflop_per_second(recipe.dtype), probe_bytes_per_second(base)});
}

class Run {
 public:
  /// Reads all that the run needs; not collective, and writes nothing.
  Run(const Recipe& recipe, const MemoryPlan& plan, bool resume, Ranks& ranks, const RankLayout& layout)
      : recipe_(recipe),
        ranks_(ranks),
        plan_(plan),
        model_(recipe),
        optimizer_(model_.parameters(),
                   {recipe.train.adam_beta1, recipe.train.adam_beta2, recipe.train.adam_epsilon,
                    recipe.train.weight_decay, recipe.train.max_grad_norm, recipe.train.optimizer_state}),
        files_(open_run_files(recipe, model_.checkpoint())),
        gradients_(recipe, ranks, layout, plan, model_, files_),
        schedule_{recipe.train.lr_scheduler, recipe.train.learning_rate, recipe.train.warmup_steps,
                  recipe.train.min_lr_ratio},
        freed_memory_(plan.resident()) {
    if (ranks.size() > 1 && !model_.transformer().device().is_cpu())
      throw RecipeError("device: several ranks train on processors only; expected device: cpu, or one rank");
    if (ranks.is_first()) warn_of_other_tokenizer(*files_.training.front().file, model_.checkpoint().dir());
    if (ranks.is_first() && !recipe.evaluation.sample_prompts.empty())
      prompts_.emplace(recipe, model_.checkpoint().config());
    const auto accumulation = recipe.train.gradient_accumulation_steps;
    total_micro_batches_ = gradients_.loader().batches_in(recipe.train.epochs);
    total_steps_ = (total_micro_batches_ + accumulation - 1) / accumulation;
    if (recipe.train.max_steps) total_steps_ = std::min(total_steps_, *recipe.train.max_steps);
    position_.best_validation_loss = std::numeric_limits<double>::max();
    if (resume && ranks.is_first()) restore();
    position_.files = identify(files_.training);
  }

  /// Brings the ranks together and opens the run folder.
  void begin(RunLock& lock) {
    check_agreement(ranks_, recipe_, model_.checkpoint(), files_);
    gradients_.agree();
    share_run_state(ranks_, position_, model_.parameters(), optimizer_);
    gradients_.loader().seek(position_.data);
    const auto& patience = recipe_.evaluation.early_stopping_patience;
    stopped_early_ = patience && position_.evaluations_without_gain >= *patience;
    if (ranks_.is_first()) {
      fs::create_directories(recipe_.output_dir);
      lock.hold(recipe_.output_dir);
      write_run_recipe(recipe_);
      append_session(recipe_.output_dir, this_session(position_.step + 1));
      record_.open(recipe_, position_.step, position_.evaluation_due);
    }
    return_freed_memory();
  }

  void run() {
    if (ranks_.is_first()) {
      describe();
      // The share of the roofline is worth half a second where somebody looks on.
      const bool is_looked_at = RunView::is_live() && ranks_.size() == 1;
      record_.begin_view(total_steps_, gflop_per_token(recipe_, model_.checkpoint().config(), plan_),
                         is_looked_at ? probe_gflop_per_second(recipe_.dtype) : 0.0);
    }
    if (position_.step == 0 || position_.evaluation_due) evaluate_now();
    while (position_.step < total_steps_ && !stopped_early_) {
      if (const auto metrics = step()) keep_books([&] { record_.write(*metrics, seconds_left(metrics->seconds)); });

      const bool is_last = position_.step == total_steps_;
      if (is_last || is_due(recipe_.evaluation.every_steps)) evaluate_now();
      keep_books([&] {
        if (is_due(recipe_.checkpoint.every_steps)) save();
        if (freed_memory_.should_go(position_.step, read_memory_use().rss_bytes)) return_freed_memory();
      });
      stop_if_asked();
    }
    save();
    if (position_.step > 0 && updates_done() == 0)
      throw NonFiniteError(std::string("no step had a finite loss and gradient; nothing was learned") + kNonFiniteHelp);
    if (!ranks_.is_first()) return;
    if (position_.best.defined()) model_.parameters().values().copy_(position_.best);
    model_.save(recipe_.output_dir, on_grid(position_.best.defined() ? position_.best_step : position_.step));
    const fs::path result = recipe_.output_dir / (recipe_.train.mode == TrainMode::kLora ? "adapter" : "model");
    record_.finish();
    record_.say("wrote " + result.string() +
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
    const StepSums sums = gradients_.compute(position_.step, num_micro_batches, on_grid(position_.step));
    const LossSum& sum = sums.loss;
    if (sum.weight == 0.0) {
      throw DataError(names_of(recipe_.data.train) + ": step " + std::to_string(position_.step + 1) +
                      " has no learned token; every loss weight in it is 0. Look at the data with ossature inspect");
    }
    StepMetrics metrics;
    metrics.tokens = sums.tokens;
    metrics.learned_tokens = sum.num_learned;
    metrics.channel_tokens = sums.channel_tokens;
    metrics.loss = sum.loss / sum.weight;
    metrics.learning_rate = learning_rate(schedule_, updates_done(), total_steps_);
    bool is_finite = std::isfinite(metrics.loss);
    try {
      if (is_finite) {
        keep_books([&] {
          metrics.grad_norms = gradient_norms(model_.parameters());
          for (auto& [group, norm] : metrics.grad_norms) norm /= sum.weight;
        });
        metrics.grad_norm = optimizer_.step(metrics.learning_rate, sum.weight);
      }
    } catch (const NonFiniteError&) {
      is_finite = false;
    }
    const LoaderPosition after = gradients_.loader().advanced(position_.data, num_micro_batches);
    if (!is_finite) {
      skip(metrics, after, start);
      return std::nullopt;
    }
    position_.step += 1;
    position_.data = after;
    keep_books([&] {
      metrics.router_load = sums.router_load.largest_over_mean();
      if (position_.step % kDetailsEvery != 1) return;
      metrics.expert_tokens = sums.router_load.tokens();
      if (model_.lora() != nullptr) metrics.adapter_norms = adapter_norms(*model_.lora());
    });
    if (ranks_.size() > 1) metrics.ranks = rank_times(sums);
    metrics.step = position_.step;
    metrics.seconds = seconds_since(start);
    metrics.bookkeeping_seconds = std::exchange(bookkeeping_seconds_, 0.0);
    metrics.peak_rss_bytes = read_memory_use().peak_rss_bytes;
    training_seconds_ += metrics.seconds;
    ++steps_here_;
    return metrics;
  }

  /// Passes over the step that was computed; if too many were already, saves the step before and throws
  /// NonFiniteError.
  void skip(const StepMetrics& metrics, LoaderPosition after, Clock::time_point start) {
    const Culprit culprit = gradients_.find_culprit(on_grid(position_.step));
    SkippedStep skipped;
    skipped.tokens = metrics.tokens;
    skipped.learned_tokens = metrics.learned_tokens;
    skipped.step = position_.step + 1;
    skipped.skipped_steps = position_.skipped_steps + 1;
    skipped.non_finite = culprit.tensor;
    skipped.samples = culprit.samples;
    if (skipped.skipped_steps > recipe_.train.max_skipped_steps) {
      save();
      throw NonFiniteError("step " + std::to_string(skipped.step) + ": " + culprit.tensor + " is not finite; samples " +
                           skipped.samples + "; " + std::to_string(position_.skipped_steps) +
                           " steps were skipped for such before, and train.max_skipped_steps is " +
                           std::to_string(recipe_.train.max_skipped_steps) +
                           ". Nothing was updated; the step before is in " +
                           (recipe_.output_dir / "checkpoints").string() + kNonFiniteHelp);
    }
    position_.step = skipped.step;
    position_.skipped_steps = skipped.skipped_steps;
    position_.data = after;
    skipped.seconds = seconds_since(start);
    record_.write(skipped);
  }

  /// Counts the time of what tells of the run or keeps it, and teaches the model nothing.
  void keep_books(const std::function<void()>& work) {
    const auto start = Clock::now();
    work();
    bookkeeping_seconds_ += seconds_since(start);
  }

  /// The validation and the sample replies that are due after a step, or before the first. Where it throws
  /// InterruptedError, none of it counts, and a run that goes on begins with it.
  void evaluate_now() {
    const bool was_due = position_.evaluation_due;
    position_.evaluation_due = true;
    const RunPosition before = position_;
    validate();
    double unanswered = answer_prompts() ? 0.0 : 1.0;
    ranks_.sum({&unanswered, 1});
    if (unanswered > 0.0) {
      position_ = before;
      stop_if_asked();
    }
    position_.evaluation_due = false;
    if (was_due) saved_step_.reset();  // what is saved says that it is due
  }

  /// False if a signal came before the last reply was whole.
  bool answer_prompts() {
    for (std::size_t i = 0; prompts_ && i < prompts_->size(); ++i) {
      const auto reply =
          prompts_->answer(i, model_.transformer(), position_.step, [this] { return !interrupt_.is_requested(); });
      if (!reply) return false;
      record_.write(*reply);
    }
    return true;
  }

  void validate() {
    if (!files_.validation) return;
    const auto start = Clock::now();
    const LossSum sum = gradients_.validate(on_grid(position_.step), [&] { stop_if_asked(); });
    if (sum.weight == 0.0)
      throw DataError(recipe_.data.validation->string() + ": no token of it is learned; there is no loss");
    const ValidationMetrics metrics{position_.step, sum.loss / sum.weight, sum.num_learned, seconds_since(start)};
    record_.write(metrics);

    if (!recipe_.evaluation.keeps_best()) return;
    const auto& patience = recipe_.evaluation.early_stopping_patience;
    if (metrics.validation_loss < position_.best_validation_loss) {
      position_.best_validation_loss = metrics.validation_loss;
      position_.evaluations_without_gain = 0;
      position_.best = model_.parameters().values().clone();
      position_.best_step = position_.step;
    } else if (++position_.evaluations_without_gain; patience && position_.evaluations_without_gain >= *patience) {
      stopped_early_ = true;
      record_.say("the validation loss has not fallen for " + std::to_string(*patience) +
                  " evaluations: stopping with the best");
    }
  }

  void save() {
    if (!ranks_.is_first() || saved_step_ == position_.step) return;
    position_.batches_in_epoch = gradients_.loader().batches_in_epoch();
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
    gradients_.loader().seek(restored->data);  // for the epoch's size
    if (restored->batches_in_epoch != gradients_.loader().batches_in_epoch()) {
      throw CheckpointError(recipe_.output_dir.string() + ": the run made " +
                            std::to_string(restored->batches_in_epoch) + " micro-batches of an epoch, now there are " +
                            std::to_string(gradients_.loader().batches_in_epoch()) +
                            "; resume with the program that began the run");
    }
    position_ = *restored;
    saved_step_ = position_.step;
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
    const EpochSize epoch = gradients_.loader().epoch_size();
    std::cerr << "an epoch: " << epoch.samples << " samples, " << epoch.tokens << " tokens, "
              << gradients_.loader().batches_in_epoch() << " micro-batches, rows filled to " << std::fixed
              << std::setprecision(1) << 100 * gradients_.loader().packing_efficiency() << std::defaultfloat << " %\n"
              << "memory: " << plan_.describe() << "\n"
              << total_steps_ << " steps, " << at::get_num_threads() << " threads";
    if (ranks_.size() > 1) std::cerr << " in each of " << ranks_.size() << " ranks";
    if (position_.step > 0) std::cerr << ", going on after step " << position_.step;
    std::cerr << std::endl;
  }

  /// Whether experts are rounded to the MXFP4 grid in the step after `step` steps.
  [[nodiscard]] bool on_grid(std::int64_t step) const {
    return recipe_.train.mode == TrainMode::kFull && recipe_.train.mxfp4_finish_steps > 0 &&
           step >= total_steps_ - recipe_.train.mxfp4_finish_steps;
  }
  /// If any rank was asked to stop, saves and throws InterruptedError. Collective.
  void stop_if_asked() {
    double requests = interrupt_.is_requested() ? 1.0 : 0.0;
    ranks_.sum({&requests, 1});
    if (requests == 0.0) return;
    save();
    throw InterruptedError("interrupted after step " + std::to_string(position_.step) + "; go on with --resume");
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
  Ranks& ranks_;
  MemoryPlan plan_;
  TrainedModel model_;
  AdamW optimizer_;
  RunFiles files_;
  StepGradients gradients_;
  LrSchedule schedule_;
  FreedMemory freed_memory_;
  std::int64_t total_micro_batches_ = 0;
  std::int64_t total_steps_ = 0;
  RunPosition position_;
  std::optional<SamplePrompts> prompts_;
  RunRecord record_;
  InterruptGuard interrupt_;
  std::optional<std::int64_t> saved_step_;  // of the newest checkpoint
  bool stopped_early_ = false;
  double training_seconds_ = 0.0;
  double bookkeeping_seconds_ = 0.0;  // since they were last written down
  std::int64_t steps_here_ = 0;
};

}  // namespace

void train(const Recipe& recipe, bool resume, Ranks& ranks) {
  RunLock lock;
  std::unique_ptr<Run> run;
  const int processors = ranks.size() > 1 ? take_share_of_processors(ranks) : 0;
  together(ranks, [&] {
    if (ranks.is_first()) {
      if (fs::is_directory(recipe.output_dir)) lock.hold(recipe.output_dir);
      check_run_folder(recipe, resume);
    }
    const RankLayout layout = layout_of(recipe, ranks.rank(), ranks.size());
    if (recipe.train.threads) {
      at::set_num_threads(static_cast<int>(*recipe.train.threads));
    } else if (processors > 0) {
      at::set_num_threads(processors);
    }
    run = std::make_unique<Run>(recipe, fitting_plan(recipe, ranks, layout), resume, ranks, layout);
  });
  const auto is_common = [](const std::exception& error) {
    return dynamic_cast<const NonFiniteError*>(&error) != nullptr ||
           dynamic_cast<const InterruptedError*>(&error) != nullptr;
  };
  as_one(
      ranks,
      [&] {
        run->begin(lock);
        run->run();
      },
      is_common);
}

void train(const Recipe& recipe, bool resume) {
  train(recipe, resume, *single_rank());
}

}  // namespace ossature
