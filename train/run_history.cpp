#include "train/run_history.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace ossature {
namespace {

using nlohmann::json;

double number(const json& line, const char* key, double otherwise = std::nan("")) {
  const auto found = line.find(key);
  return found != line.end() && found->is_number() ? found->get<double>() : otherwise;
}

std::int64_t count(const json& line, const char* key) {
  const auto found = line.find(key);
  return found != line.end() && found->is_number_integer() ? found->get<std::int64_t>() : 0;
}

std::map<std::string, double> numbers(const json& line, const char* key) {
  std::map<std::string, double> found;
  if (!line.contains(key) || !line[key].is_object()) return found;
  for (const auto& [name, value] : line[key].items())
    if (value.is_number()) found[name] = value.get<double>();
  return found;
}

std::string text(const json& line, const char* key) {
  const auto found = line.find(key);
  return found != line.end() && found->is_string() ? found->get<std::string>() : "";
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
    const std::int64_t learned = count(line, "learned_tokens");
    const double seconds = number(line, "seconds", 0.0);
    if (line.contains("validation_loss")) {
      history.validations.push_back({step, number(line, "validation_loss"), learned, seconds});
    } else if (line.contains("skipped_steps")) {
      history.skipped.push_back({step, count(line, "skipped_steps"), text(line, "non_finite"), text(line, "samples"),
                                 count(line, "tokens"), learned, seconds});
    } else if (line.contains("loss")) {
      history.steps.push_back({step, number(line, "loss"), number(line, "learning_rate"), number(line, "grad_norm"),
                               count(line, "tokens"), learned, seconds, count(line, "peak_rss_bytes"),
                               numbers(line, "grad_norms"), numbers(line, "adapter_norms")});
    }
  }
  return history;
}

}  // namespace ossature
