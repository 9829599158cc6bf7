#include "train/run/run_record.h"

namespace ossature {

void RunRecord::open(const Recipe& recipe, std::int64_t steps_done, bool evaluation_due) {
  metrics_.emplace(recipe.output_dir, steps_done, evaluation_due);
  const std::filesystem::path samples = recipe.output_dir / "samples.jsonl";
  if (!recipe.evaluation.sample_prompts.empty() || std::filesystem::exists(samples))
    samples_.emplace(samples, steps_done, evaluation_due ? "prompt" : "");
  if (steps_done == 0) metrics_->write_recipe(to_yaml(recipe));
}

void RunRecord::begin_view(std::int64_t total_steps, double gflop_per_token, double gflop_per_second) {
  total_steps_ = total_steps;
  view_.emplace(total_steps, gflop_per_token, gflop_per_second);
}

void RunRecord::write(const StepMetrics& metrics, double seconds_left) {
  if (metrics_) metrics_->write(metrics);
  if (view_) view_->show(metrics, seconds_left);
}

void RunRecord::write(const SkippedStep& skipped) {
  if (metrics_) metrics_->write(skipped);
  say(progress_line(skipped, total_steps_));
}

void RunRecord::write(const ValidationMetrics& metrics) {
  if (metrics_) metrics_->write(metrics);
  say(progress_line(metrics, total_steps_));
}

void RunRecord::write(const SampleReply& reply) {
  if (samples_) samples_->append(log_line(reply));
  say(progress_line(reply, total_steps_));
}

void RunRecord::say(const std::string& line) {
  if (view_) view_->say(line);
}

void RunRecord::finish() {
  if (view_) view_->finish();
}

}  // namespace ossature
