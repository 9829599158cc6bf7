#include "train/evaluation/recovery.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "data/data_error.h"
#include "model/export/exported_model.h"
#include "model/network/backpropagation.h"
#include "model/network/distillation.h"
#include "model/network/parameters.h"
#include "model/network/transformer_tensors.h"
#include "train/evaluation/calibration_data.h"
#include "train/evaluation/evaluate.h"
#include "train/optimizer/lr_schedule.h"
#include "train/optimizer/optimizer.h"

namespace ossature {
namespace {

constexpr std::int64_t kHeldOutEvery = 8;  // samples
constexpr std::int64_t kEvaluations = 8;   // of the held-out samples while training goes on

bool has_learned(const Batch& batch, std::size_t s) {
  for (auto t = batch.sample_offsets[s] + 1; t < batch.sample_offsets[s + 1]; ++t) {
    if (batch.loss_weights[static_cast<std::size_t>(t)] != 0.0f) return true;
  }
  return false;
}

/// Appends sample `s` of `from`, in a new batch if the last one has no room.
void append(const Batch& from, std::size_t s, std::vector<Batch>& to) {
  const auto first = from.sample_offsets[s], end = from.sample_offsets[s + 1];
  if (to.empty() || to.back().sample_offsets.back() + end - first > kCalibrationBatchTokens)
    to.push_back({{}, {}, {0}, {}, {}});
  Batch& batch = to.back();
  batch.tokens.insert(batch.tokens.end(), from.tokens.begin() + first, from.tokens.begin() + end);
  batch.loss_weights.insert(batch.loss_weights.end(), from.loss_weights.begin() + first,
                            from.loss_weights.begin() + end);
  batch.sample_offsets.push_back(std::ssize(batch.tokens));
}

/// Samples with a learned token, to train on and held out.
std::pair<std::vector<Batch>, std::vector<Batch>> divided(std::span<const Batch> data) {
  std::vector<Batch> train, held_out;
  std::int64_t count = 0;
  for (const Batch& batch : data) {
    for (std::size_t s = 0; s + 1 < batch.sample_offsets.size(); ++s) {
      if (has_learned(batch, s)) append(batch, s, count++ % kHeldOutEvery == 1 ? held_out : train);
    }
  }
  if (count < 2) {
    throw DataError("recovery: the calibration data have " + std::to_string(count) +
                    " samples with a learned token; expected at least 2, of which one is held out");
  }
  return {std::move(train), std::move(held_out)};
}

/// Micro-batches with what the teacher's last layer gives for each.
class Lessons {
 public:
  Lessons(const Transformer& teacher, std::vector<Batch> batches, const std::function<void(std::int64_t)>& after_batch)
      : teacher_(teacher), batches_(std::move(batches)) {
    for (const Batch& batch : batches_) {
      hidden_.push_back(forward(teacher, rows_of(batch)));
      after_batch(std::ssize(batch.tokens));
    }
  }
  [[nodiscard]] std::size_t size() const { return batches_.size(); }
  [[nodiscard]] std::int64_t num_tokens(std::size_t i) const { return std::ssize(batches_[i].tokens); }

  /// Adds the gradient of the summed divergence on batch `i` to the student's parameters.
  LossSum backpropagate(const Transformer& student, std::size_t i) const {
    BackpropagationOptions options;
    options.head = [&](std::size_t, const at::Tensor& hidden, const Targets& targets) {
      return distillation_loss(student, hidden, {teacher_, hidden_[i]}, targets);
    };
    return ossature::backpropagate(student, rows_of(batches_[i]), options);
  }

  /// The mean over all learned tokens.
  [[nodiscard]] double divergence(const Transformer& student,
                                  const std::function<void(std::int64_t)>& after_batch) const {
    double sum = 0.0, weight = 0.0;
    for (std::size_t i = 0; i < batches_.size(); ++i) {
      const TokenRows rows = rows_of(batches_[i]);
      const Targets targets = targets_of(rows.tokens, rows.loss_weights, rows.sample_offsets);
      sum += distillation_divergence(student, forward(student, rows), {teacher_, hidden_[i]}, targets);
      weight += targets.weight_sum;
      after_batch(num_tokens(i));
    }
    return sum / weight;
  }

 private:
  const Transformer& teacher_;
  std::vector<Batch> batches_;
  std::vector<at::Tensor> hidden_;
};

/// An export in memory; the biases of the weights that are replaced are trained.
class Student {
 public:
  Student(const Checkpoint& base, const Merger& merger, const Replacements& replacements, at::ScalarType dtype)
      : transformer_(exported_transformer(base, merger, replacements, dtype)) {
    std::vector<ParameterSpec> specs;
    for (const auto& [name, weight] : replacements.experts)
      specs.push_back({name + "_bias", {weight.num_experts(), weight.out_features()}});
    parameters_ = std::make_unique<ParameterSet>(std::move(specs), at::kCPU);
    at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < parameters_->specs().size(); ++i) {
      at::Tensor& member = tensor_of(transformer_, parameters_->specs()[i].name);
      stored_.push_back(member.scalar_type());
      first_.push_back(member);
      parameters_->tensor(i).detach().copy_(member);
      member = parameters_->tensor(i);
    }
    masters_ = parameters_->values().clone();
  }

  [[nodiscard]] const Transformer& transformer() const { return transformer_; }
  [[nodiscard]] ParameterSet& parameters() { return *parameters_; }

  void step(AdamW& optimizer, double learning_rate, double weight_sum) {
    at::NoGradGuard no_grad;
    at::Tensor values = parameters_->values();
    values.copy_(masters_);
    optimizer.step(learning_rate, weight_sum);
    masters_.copy_(values);
    for (std::size_t i = 0; i < stored_.size(); ++i) {
      const at::Tensor value = parameters_->tensor(i).detach();
      value.copy_(value.to(stored_[i]));
    }
  }

  /// The biases that differ from what they were, as stored.
  [[nodiscard]] std::map<std::string, at::Tensor> changed() const {
    std::map<std::string, at::Tensor> result;
    for (std::size_t i = 0; i < stored_.size(); ++i) {
      const at::Tensor value = parameters_->tensor(i).detach().to(stored_[i], /*non_blocking=*/false, /*copy=*/true);
      if (!at::equal(value, first_[i])) result[parameters_->specs()[i].name] = value;
    }
    return result;
  }

 private:
  Transformer transformer_;
  std::unique_ptr<ParameterSet> parameters_;  // as they are stored: what the forward pass has
  at::Tensor masters_;                        // the optimizer's
  std::vector<at::ScalarType> stored_;
  std::vector<at::Tensor> first_;
};

}  // namespace

void check_recovery_data(std::span<const Batch> data) {
  (void)divided(data);
}

Recovery recover(const Checkpoint& base, const Merger& merger, const Replacements& replacements,
                 std::span<const Batch> data, const RecoveryOptions& options,
                 const std::function<void(std::int64_t, std::int64_t)>& progress) {
  if (replacements.experts.empty()) return {};
  auto [train, held_out] = divided(data);
  const auto tokens_of = [](const std::vector<Batch>& batches) {
    std::int64_t sum = 0;
    for (const Batch& batch : batches) sum += std::ssize(batch.tokens);
    return sum;
  };
  // In units of a forward pass over a token; with the layers that run again a step has four.
  constexpr std::int64_t kStepUnits = 4;
  const std::int64_t evaluated_every = std::max<std::int64_t>(1, options.steps / kEvaluations);
  const std::int64_t evaluations = 1 + (options.steps + evaluated_every - 1) / evaluated_every;
  std::int64_t done = 0, total = tokens_of(train) + (1 + evaluations) * tokens_of(held_out);
  for (std::int64_t step = 0; step < options.steps; ++step)
    total += kStepUnits * std::ssize(train[static_cast<std::size_t>(step) % train.size()].tokens);
  const auto advance = [&](std::int64_t by) {
    done += by;
    if (progress) progress(done, total);
  };

  Transformer teacher(base, options.dtype);
  merger.attach(teacher);
  const Lessons lessons(teacher, std::move(train), advance), exam(teacher, std::move(held_out), advance);
  for (const auto& [name, weight] : replacements.experts) base.release(name);  // the student has others
  Student student(base, merger, replacements, options.dtype);
  AdamWOptions adam;
  adam.max_grad_norm = 0.0;
  AdamW optimizer(student.parameters(), adam);
  const LrSchedule schedule{LrScheduler::kCosine, options.learning_rate, options.steps / 10, 0.0};

  Recovery result;
  result.kl_before = result.kl_after = exam.divergence(student.transformer(), advance);
  for (std::int64_t step = 0; step < options.steps; ++step) {
    const auto i = static_cast<std::size_t>(step) % lessons.size();
    const LossSum sum = lessons.backpropagate(student.transformer(), i);
    student.step(optimizer, learning_rate(schedule, step, options.steps), sum.weight);
    advance(kStepUnits * lessons.num_tokens(i));
    if ((step + 1) % evaluated_every != 0 && step + 1 != options.steps) continue;
    const double found = exam.divergence(student.transformer(), advance);
    if (!(found < result.kl_after)) continue;
    result.kl_after = found;
    result.steps = step + 1;
    result.tensors = student.changed();
  }
  return result;
}

}  // namespace ossature
