#include "train/loop/step_gradients.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <iostream>
#include <string>

#include "data/data_error.h"
#include "train/evaluation/evaluate.h"

namespace ossature {
namespace {

using Clock = std::chrono::steady_clock;

/// A seed for the dropout masks of one micro-batch; never 0, which means none.
std::uint64_t dropout_seed(std::int64_t seed, std::int64_t step, std::int64_t micro_batch) {
  std::uint64_t mixed = 0x9e3779b97f4a7c15u;
  for (const auto part : {seed, step, micro_batch}) {
    mixed = (mixed ^ static_cast<std::uint64_t>(part)) * 0xbf58476d1ce4e5b9u;
    mixed ^= mixed >> 29;
  }
  return mixed | 1u;
}

LoaderOptions loader_options_of_rank(const Recipe& recipe, const RankLayout& layout) {
  LoaderOptions options = loader_options(recipe);
  options.rank = layout.pipeline;
  options.num_ranks = layout.pipelines;
  options.batches_per_step = recipe.train.gradient_accumulation_steps;
  return options;
}

/// A tokenizer that cannot be read costs the run the counts by channel, no more.
HarmonyTokens known_harmony(const RunFiles& files, const Checkpoint& base, const Ranks& ranks) {
  try {
    return harmony_tokens_of(*files.training.front().file, base.dir());
  } catch (const DataError& error) {
    if (ranks.is_first()) std::cerr << "tokens are not counted by channel: " << error.what() << "\n";
    return {};
  }
}

}  // namespace

StepGradients::StepGradients(const Recipe& recipe, Ranks& ranks, const RankLayout& layout, const MemoryPlan& plan,
                             TrainedModel& model, const RunFiles& files)
    : recipe_(recipe),
      ranks_(ranks),
      layout_(layout),
      plan_(plan),
      model_(model),
      files_(files),
      loader_(files.training, loader_options_of_rank(recipe, layout)),
      gradient_sum_(ranks, model.parameters()),
      harmony_(known_harmony(files, model.checkpoint(), ranks)),
      link_(ranks),
      stage_(layout.stage_in(model.checkpoint().config())) {
  if (stage_) stage_->link = &link_;
  if (plan_.pages) model.read_as_used(cached_layers(plan_, free_memory(), ranks.local_size()));
}

void StepGradients::agree() {
  if (!stage_) return;
  // A stage that takes more at once than those after it waits for them for ever.
  for (const std::string& others : ranks_.gather(std::to_string(plan_.micro_batches_together)))
    plan_.micro_batches_together = std::min<std::int64_t>(plan_.micro_batches_together, std::stoll(others));
}

StepSums StepGradients::compute(std::int64_t step, std::int64_t num_micro_batches, bool on_grid) {
  const auto start = Clock::now();
  const auto num_own = layout_.num_own(num_micro_batches);
  StepSums sums(model_.checkpoint().config(), ranks_);
  BackpropagationOptions options = this->options(on_grid);
  options.kept_layers = plan_.kept_layers;
  options.stage = stage();
  options.router_load = &sums.router_load;
  const bool drops = recipe_.train.mode == TrainMode::kLora && recipe_.lora.lora_dropout > 0.0;
  rows_.clear();
  batches_.assign(static_cast<std::size_t>(num_own), {});
  for (std::int64_t done = 0; done < num_own; done += plan_.micro_batches_together) {
    const auto together = std::min(plan_.micro_batches_together, num_own - done);
    for (std::int64_t i = done; i < done + together; ++i) {
      Batch& batch = batches_[static_cast<std::size_t>(i)];
      batch = loader_.next();
      rows_.push_back(rows_of(batch));
      if (drops) rows_.back().dropout_seed = dropout_seed(recipe_.train.seed, step, layout_.number_in_step(i));
      if (stage_ && !stage_->is_last) continue;  // tokens count where their loss does
      sums.tokens += static_cast<std::int64_t>(batch.tokens.size());
      count_learned(harmony_, rows_.back(), sums.channel_tokens);
    }
    if (done + together == num_own) options.on_layer_done = [this](std::int64_t n) { gradient_sum_.layer_done(n); };
    const LossSum part =
        backpropagate(model_.transformer(), std::span(rows_).last(static_cast<std::size_t>(together)), options);
    sums.loss.loss += part.loss;
    sums.loss.weight += part.weight;
    sums.loss.num_learned += part.num_learned;
  }
  const auto own = static_cast<std::size_t>(ranks_.rank());
  sums.seconds[own] = std::chrono::duration<double>(Clock::now() - start).count();
  sums.seconds_waited[own] = gradient_sum_.finish();
  sum_over(ranks_, sums);
  return sums;
}

Culprit StepGradients::find_culprit(bool on_grid) {
  // Through all layers, in whatever stage: the first one of each pipeline looks.
  const std::span<const TokenRows> rows =
      layout_.stage == 0 ? std::span<const TokenRows>(rows_) : std::span<const TokenRows>();
  const auto found = find_non_finite(model_.transformer(), model_.parameters(), rows, options(on_grid));
  std::optional<Culprit> own;
  if (found) {
    own = Culprit{layout_.number_in_step(static_cast<std::int64_t>(found->micro_batch)), found->tensor,
                  sources_of(batches_[found->micro_batch], files_.training)};
  } else if (ranks_.is_first()) {
    own = Culprit{kNoMicroBatch, "the sum of the gradients", sources_of(batches_.front(), files_.training)};
  }
  return first_culprit(ranks_, own);
}

LossSum StepGradients::validate(bool on_grid, const std::function<void()>& check) {
  // Ranks that check wait for each other, which would leave the stages of a pipeline one at work and the others idle.
  constexpr std::int64_t kBatchesBetween = 8;
  const auto every = ranks_.size() == 1 ? 1 : kBatchesBetween * layout_.pipelines;
  const auto before_batch = [&](std::int64_t number) {
    if (number % every == 0) check();
  };
  const LossSum own =
      evaluate(model_.transformer(), files_.validation, recipe_.data.sequence_length * recipe_.train.micro_batch_size,
               on_grid, {}, {layout_.pipeline, layout_.pipelines}, stage(), before_batch);
  std::array<double, 3> sums{own.loss, own.weight, static_cast<double>(own.num_learned)};
  ranks_.sum(sums);
  return {sums[0], sums[1], static_cast<std::int64_t>(sums[2])};
}

BackpropagationOptions StepGradients::options(bool on_grid) {
  BackpropagationOptions options;
  options.experts_on_grid = on_grid;
  return options;
}

}  // namespace ossature
