#include "train/run/metrics.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "train/text/number_text.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::string step_text(std::int64_t step, std::int64_t total_steps) {
  return "step " + std::to_string(step) + "/" + std::to_string(total_steps);
}

}  // namespace

MetricsLog::MetricsLog(const fs::path& run_dir, std::int64_t steps_done, bool evaluation_due)
    : lines_(run_dir / "metrics.jsonl", steps_done, evaluation_due ? "validation_loss" : ""),
      // Step 0 is the untrained model's validation, so a run that starts anew forgets that too.
      events_(run_dir / "tensorboard", steps_done > 0 ? steps_done + 1 : 0) {}

void MetricsLog::write(const StepMetrics& metrics) {
  Json line = {{"step", metrics.step},
               {"loss", metrics.loss},
               {"learning_rate", metrics.learning_rate},
               {"grad_norm", metrics.grad_norm},
               {"tokens", metrics.tokens},
               {"learned_tokens", metrics.learned_tokens},
               {"tokens_per_second", metrics.tokens_per_second()},
               {"seconds", metrics.seconds},
               {"bookkeeping_seconds", metrics.bookkeeping_seconds},
               {"peak_rss_bytes", metrics.peak_rss_bytes}};
  if (!metrics.grad_norms.empty()) line["grad_norms"] = metrics.grad_norms;
  if (!metrics.adapter_norms.empty()) line["adapter_norms"] = metrics.adapter_norms;
  if (!metrics.channel_tokens.empty()) line["channel_tokens"] = metrics.channel_tokens;
  if (!metrics.router_load.empty()) line["router_load"] = metrics.router_load;
  if (!metrics.expert_tokens.empty()) line["expert_tokens"] = metrics.expert_tokens;
  if (metrics.ranks) {
    line["ranks"] = {{"ranks", metrics.ranks->ranks},
                     {"slowest", metrics.ranks->slowest},
                     {"slowest_seconds", metrics.ranks->slowest_seconds},
                     {"fastest_seconds", metrics.ranks->fastest_seconds},
                     {"network_seconds", metrics.ranks->network_seconds}};
    events_.scalar("ranks/slowest_seconds", metrics.step, metrics.ranks->slowest_seconds);
    events_.scalar("ranks/fastest_seconds", metrics.step, metrics.ranks->fastest_seconds);
    events_.scalar("ranks/network_seconds", metrics.step, metrics.ranks->network_seconds);
  }
  lines_.append(line.dump());
  events_.scalar("train/loss", metrics.step, metrics.loss);
  events_.scalar("train/learning_rate", metrics.step, metrics.learning_rate);
  events_.scalar("train/grad_norm", metrics.step, metrics.grad_norm);
  events_.scalar("train/tokens_per_second", metrics.step, metrics.tokens_per_second());
  events_.scalar("train/peak_rss_gigabytes", metrics.step, static_cast<double>(metrics.peak_rss_bytes) / 1e9);
  for (const auto& [group, norm] : metrics.grad_norms) events_.scalar("grad_norm/" + group, metrics.step, norm);
  for (const auto& [group, norm] : metrics.adapter_norms) events_.scalar("adapter_norm/" + group, metrics.step, norm);
  for (const auto& [channel, tokens] : metrics.channel_tokens)
    events_.scalar("learned_tokens/" + channel, metrics.step, static_cast<double>(tokens));
  for (std::size_t n = 0; n < metrics.router_load.size(); ++n)
    events_.scalar(number_text("router_load/layer_%03.0f", static_cast<double>(n)), metrics.step,
                   metrics.router_load[n]);
}

void MetricsLog::write(const SkippedStep& skipped) {
  const Json line = {{"step", skipped.step},
                     {"skipped_steps", skipped.skipped_steps},
                     {"non_finite", skipped.non_finite},
                     {"samples", skipped.samples},
                     {"tokens", skipped.tokens},
                     {"learned_tokens", skipped.learned_tokens},
                     {"seconds", skipped.seconds}};
  lines_.append(line.dump(-1, ' ', false, Json::error_handler_t::replace));
  events_.scalar("train/skipped_steps", skipped.step, static_cast<double>(skipped.skipped_steps));
}

void MetricsLog::write(const ValidationMetrics& metrics) {
  const Json line = {{"step", metrics.step},
                     {"validation_loss", metrics.validation_loss},
                     {"learned_tokens", metrics.learned_tokens},
                     {"seconds", metrics.seconds}};
  lines_.append(line.dump());
  events_.scalar("validation/loss", metrics.step, metrics.validation_loss);
}

void MetricsLog::write_recipe(std::string_view yaml) {
  events_.text("recipe", 0, "```yaml\n" + std::string(yaml) + "```");
}

std::string progress_line(const StepMetrics& metrics, std::int64_t total_steps, double seconds_left) {
  return step_text(metrics.step, total_steps) + number_text("  loss %.4f", metrics.loss) +
         number_text("  lr %.2e", metrics.learning_rate) + number_text("  grad %.3g", metrics.grad_norm) +
         number_text("  %.0f tokens/s", metrics.tokens_per_second()) +
         number_text("  %.1f GB", static_cast<double>(metrics.peak_rss_bytes) / 1e9) + "  " +
         duration_text(seconds_left) + " left";
}

std::string progress_line(const SkippedStep& skipped, std::int64_t total_steps) {
  return step_text(skipped.step, total_steps) + "  skipped (" + std::to_string(skipped.skipped_steps) +
         "): " + skipped.non_finite + " is not finite; samples " + skipped.samples;
}

std::string progress_line(const ValidationMetrics& metrics, std::int64_t total_steps) {
  return step_text(metrics.step, total_steps) + number_text("  validation loss %.4f", metrics.validation_loss) + "  (" +
         std::to_string(metrics.learned_tokens) + " tokens" + number_text(", %.1f s)", metrics.seconds);
}

}  // namespace ossature
