#include "train/run_history.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "train/log_line.h"

namespace ossature {
namespace {

using nlohmann::json;

std::map<std::string, double> numbers(const json& line, const char* key) {
  std::map<std::string, double> found;
  if (!line.contains(key) || !line[key].is_object()) return found;
  for (const auto& [name, value] : line[key].items())
    if (value.is_number()) found[name] = value.get<double>();
  return found;
}

std::map<std::string, std::int64_t> counts(const json& line, const char* key) {
  std::map<std::string, std::int64_t> found;
  if (!line.contains(key) || !line[key].is_object()) return found;
  for (const auto& [name, value] : line[key].items())
    if (value.is_number_integer()) found[name] = value.get<std::int64_t>();
  return found;
}

/// A list of numbers; empty if anything in it is none.
template <class Number>
std::vector<Number> list(const json& values) {
  std::vector<Number> found;
  if (!values.is_array()) return found;
  for (const json& value : values) {
    if (!value.is_number()) return {};
    found.push_back(value.get<Number>());
  }
  return found;
}

std::vector<std::vector<std::int64_t>> rows(const json& line, const char* key) {
  std::vector<std::vector<std::int64_t>> found;
  if (!line.contains(key) || !line[key].is_array()) return found;
  for (const json& row : line[key]) {
    found.push_back(list<std::int64_t>(row));
    if (found.back().size() != found.front().size()) return {};
  }
  return found;
}

}  // namespace

std::int64_t RunHistory::last_step() const {
  return std::max(steps.empty() ? 0 : steps.back().step, skipped.empty() ? 0 : skipped.back().step);
}

std::int64_t RunHistory::tokens() const {
  std::int64_t sum = 0;
  for (const StepMetrics& step : steps) sum += step.tokens;
  return sum;
}

double RunHistory::seconds() const {
  double sum = 0;
  for (const StepMetrics& step : steps) sum += step.seconds;
  for (const SkippedStep& step : skipped) sum += step.seconds;
  for (const ValidationMetrics& validation : validations) sum += validation.seconds;
  return sum;
}

const ValidationMetrics* RunHistory::best() const {
  const ValidationMetrics* lowest = nullptr;
  for (const ValidationMetrics& validation : validations) {
    if (lowest == nullptr || validation.validation_loss < lowest->validation_loss) lowest = &validation;
  }
  return lowest;
}

RunHistory read_run_history(const std::filesystem::path& run_dir) {
  RunHistory history;
  std::ifstream file(run_dir / "metrics.jsonl");
  for (std::string bytes; std::getline(file, bytes);) {
    const json line = json::parse(bytes, nullptr, /*allow_exceptions=*/false);
    if (!line.is_object() || !line.contains("step") || !line["step"].is_number_integer()) continue;
    const auto step = line["step"].get<std::int64_t>();
    const std::int64_t learned = log_count(line, "learned_tokens");
    const double seconds = log_number(line, "seconds", 0.0);
    if (line.contains("validation_loss")) {
      history.validations.push_back({step, log_number(line, "validation_loss"), learned, seconds});
    } else if (line.contains("skipped_steps")) {
      history.skipped.push_back({step, log_count(line, "skipped_steps"), log_text(line, "non_finite"),
                                 log_text(line, "samples"), log_count(line, "tokens"), learned, seconds});
    } else if (line.contains("loss")) {
      history.steps.push_back({step, log_number(line, "loss"), log_number(line, "learning_rate"),
                               log_number(line, "grad_norm"), log_count(line, "tokens"), learned, seconds,
                               log_count(line, "peak_rss_bytes"), numbers(line, "grad_norms"),
                               numbers(line, "adapter_norms"), counts(line, "channel_tokens"),
                               line.contains("router_load") ? list<double>(line["router_load"]) : std::vector<double>(),
                               rows(line, "expert_tokens")});
    }
  }
  return history;
}

}  // namespace ossature
