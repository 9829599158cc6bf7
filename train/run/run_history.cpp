#include "train/run/run_history.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>

#include "train/run/log_line.h"

namespace ossature {
namespace {

using nlohmann::json;

template <class Number>
bool is_a(const json& value) {
  return std::is_integral_v<Number> ? value.is_number_integer() : value.is_number();
}

/// The values under `key` that are numbers, by name.
template <class Number>
std::map<std::string, Number> numbers(const json& line, const char* key) {
  std::map<std::string, Number> found;
  if (!line.contains(key) || !line[key].is_object()) return found;
  for (const auto& [name, value] : line[key].items())
    if (is_a<Number>(value)) found[name] = value.template get<Number>();
  return found;
}

/// A list of numbers; empty if anything in it is none.
template <class Number>
std::vector<Number> list(const json& values) {
  std::vector<Number> found;
  for (const json& value : values) {
    if (!is_a<Number>(value)) return {};
    found.push_back(value.get<Number>());
  }
  return found;
}

template <class Number>
std::vector<Number> list(const json& line, const char* key) {
  return line.contains(key) && line[key].is_array() ? list<Number>(line[key]) : std::vector<Number>();
}

/// Rows of equal length; empty if they are not.
std::vector<std::vector<std::int64_t>> rows(const json& line, const char* key) {
  std::vector<std::vector<std::int64_t>> found;
  if (!line.contains(key) || !line[key].is_array()) return found;
  for (const json& row : line[key]) {
    found.push_back(row.is_array() ? list<std::int64_t>(row) : std::vector<std::int64_t>());
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
  for_each_log_line(run_dir / "metrics.jsonl", [&](const json& line) {
    if (!line.contains("step") || !line["step"].is_number_integer()) return;
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
                               log_number(line, "bookkeeping_seconds", 0.0), log_count(line, "peak_rss_bytes"),
                               numbers<double>(line, "grad_norms"), numbers<double>(line, "adapter_norms"),
                               numbers<std::int64_t>(line, "channel_tokens"), list<double>(line, "router_load"),
                               rows(line, "expert_tokens")});
    }
  });
  return history;
}

}  // namespace ossature
