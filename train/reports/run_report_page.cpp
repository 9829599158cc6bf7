#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>

#include "train/recipe/recipe_keys.h"
#include "train/reports/adapter_report.h"
#include "train/reports/page_tables.h"
#include "train/reports/run_report.h"
#include "train/reports/run_report_sections.h"
#include "train/text/line_chart.h"

namespace ossature {
namespace {

using Table = Inspection::Table;

/// By which is_report_page() knows a page; a part of kHead.
constexpr const char* kGenerator = "<meta name=\"generator\" content=\"ossature report\">";

constexpr const char* kHead = R"(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="ossature report">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
)";

constexpr const char* kStyle = R"(
:root { --paper: #fff; --ink: #1a1a1a; --faint: #5c5c5c; --line: #d5d5d5; --first: #0550ae; --second: #b35900; --changed: #fff3d1; }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #ececec; --faint: #a3a8b0;
  --line: #3a3f47; --first: #79c0ff; --second: #ffb066; --changed: #3d3418; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 64rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .75rem; padding-top: .75rem; border-top: 2px solid var(--line); }
h3 { font-size: .95rem; margin: 1.25rem 0 .25rem; overflow-wrap: anywhere; }
p, figcaption { margin: .25rem 0; color: var(--faint); font-size: .9rem; overflow-wrap: anywhere; }
figure { margin: 0; max-width: 100%; }
.maps { display: flex; flex-wrap: wrap; gap: 0 1rem; }
summary { cursor: pointer; margin: .5rem 0; }
h4 { font-size: .9rem; margin: .5rem 0 .25rem; }
.replies { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); gap: .5rem 1.25rem; }
.prompt { white-space: pre-wrap; }
.said { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .95rem; border-left: 3px solid var(--line);
  padding-left: .6rem; margin-bottom: .5rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.25rem; }
.wide { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-size: .9rem; }
caption { text-align: left; font-weight: 600; padding-bottom: .25rem; }
th, td { text-align: left; vertical-align: top; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
tbody th { font-weight: 400; color: var(--faint); }
td.text { overflow-wrap: anywhere; min-width: 7rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
thead .number { white-space: normal; }
thead th { vertical-align: bottom; }
@media (max-width: 40rem) { table { font-size: .8rem; } th, td { padding-right: .6rem; }
  tbody th { overflow-wrap: anywhere; min-width: 7rem; } td.text { min-width: 6.5rem; } td.long { min-width: 17rem; } }
mark { background: var(--changed); color: inherit; padding: 0 .2em; border-radius: 2px; }
figure .heat { display: block; }
figure .heat .page { fill: none; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } h2, h3, h4, h2 + p, caption, thead { break-after: avoid; }
  figure, tr { break-inside: avoid; } .wide { overflow: visible; } .heat { max-width: 100%; height: auto; }
  .charts { grid-template-columns: 1fr 1fr; } mark { font-weight: 600; } }
)";

template <class Figure>
ChartLine line_of(const std::vector<StepMetrics>& steps, const std::string& name, const Figure& figure) {
  ChartLine line{name, ChartLine::kThick, {}, {}};
  for (const StepMetrics& step : steps) {
    line.x.push_back(static_cast<double>(step.step));
    line.y.push_back(figure(step));
  }
  return line;
}

std::vector<LineChart> charts_of(const RunReport& report) {
  const std::vector<StepMetrics>& steps = report.history.steps;
  const double span = std::clamp(std::round(static_cast<double>(steps.size()) / 20), 2.0, 100.0);
  ChartLine loss = line_of(steps, "training", [](const StepMetrics& step) { return step.loss; });
  loss.look = ChartLine::kThin;
  ChartLine smooth{"smoothed over " + std::to_string(static_cast<int>(span)), ChartLine::kThick, loss.x,
                   smoothed(loss.y, span)};
  ChartLine validation{"validation", ChartLine::kDots, {}, {}};
  for (const ValidationMetrics& metrics : report.history.validations) {
    validation.x.push_back(static_cast<double>(metrics.step));
    validation.y.push_back(metrics.validation_loss);
  }
  std::vector<LineChart> charts = {
      {"loss, nats a token", "step", {std::move(loss), std::move(smooth)}, {}},
      {"learning rate", "step", {line_of(steps, "rate", [](const StepMetrics& s) { return s.learning_rate; })}, {}},
      {"gradient norm", "step", {line_of(steps, "norm", [](const StepMetrics& s) { return s.grad_norm; })}, {}},
      {"tokens a second",
       "step",
       {line_of(steps, "rate", [](const StepMetrics& s) { return s.tokens_per_second(); })},
       {}}};
  if (!validation.x.empty()) charts.front().lines.push_back(std::move(validation));
  for (LineChart& chart : charts) {
    for (const RunSession& session : report.sessions)
      if (session.first_step > 1) chart.marks.push_back(static_cast<double>(session.first_step));
  }
  return charts;
}

/// Norms by group of targets: that of the last step's gradient, its mean over all steps, and the adapter's.
std::string group_norms(const std::vector<StepMetrics>& steps) {
  if (steps.empty() || steps.back().grad_norms.empty()) return "";
  std::map<std::string, double> adapter_norms;  // the last that were measured
  for (const StepMetrics& step : steps)
    if (!step.adapter_norms.empty()) adapter_norms = step.adapter_norms;
  Table table{"groups", {"group", "last_gradient_norm", "mean_gradient_norm"}, {}};
  if (!adapter_norms.empty()) table.columns.push_back("last_adapter_norm");
  for (const auto& [group, last] : steps.back().grad_norms) {
    double sum = 0, count = 0;
    for (const StepMetrics& step : steps) {
      const auto norm = step.grad_norms.find(group);
      if (norm == step.grad_norms.end()) continue;
      sum += norm->second;
      ++count;
    }
    table.rows.push_back({group, last, sum / count});
    const auto adapter = adapter_norms.find(group);
    if (!adapter_norms.empty()) table.rows.back().emplace_back(adapter != adapter_norms.end() ? adapter->second : NAN);
  }
  return table_html("Norms by group", table);
}

std::string curves(const RunReport& report) {
  std::string html = "<h2 id=\"curves\">Curves</h2>\n<div class=\"charts\">\n";
  bool has_marks = false;
  int number = 0;
  for (const LineChart& chart : charts_of(report)) {
    has_marks = has_marks || !chart.marks.empty();
    html += "<figure>" + line_chart_svg(chart, "chart" + std::to_string(++number)) + "</figure>\n";
  }
  html += "</div>\n";
  if (has_marks) html += "<p>A dashed line is where the run went on after an interruption.</p>\n";
  html += group_norms(report.history.steps);
  if (!report.history.validations.empty()) {
    Table table{"validations", {"step", "validation_loss", "learned_tokens", "seconds"}, {}};
    for (const ValidationMetrics& metrics : report.history.validations)
      table.rows.push_back({metrics.step, metrics.validation_loss, metrics.learned_tokens, metrics.seconds});
    html += "<details><summary>Validations, as a table</summary>\n" + table_html("Validations", table) + "</details>\n";
  }
  if (!report.history.skipped.empty()) {
    Table table{"skipped", {"step", "not_finite", "samples"}, {}};
    for (const SkippedStep& step : report.history.skipped)
      table.rows.push_back({step.step, step.non_finite, step.samples});
    html += table_html("Skipped steps, whose loss or gradient was not finite", table);
  }
  return html;
}

/// Keys that have no default are the run's own, not changes.
std::string recipe_table(const Recipe& recipe) {
  const Recipe defaults;
  std::string changed, same;
  int num_same = 0;
  for (const RecipeKey& key : recipe_keys()) {
    if (key.section() == "lora" && recipe.train.mode == TrainMode::kFull) continue;
    const std::string value = key.get(recipe), otherwise = key.get(defaults);
    const bool is_default = value == otherwise;
    num_same += is_default ? 1 : 0;
    std::string& rows = is_default ? same : changed;
    const bool is_changed = !is_default && !key.required;
    rows += "<tr><th scope=\"row\">" + shown(key.path) + "</th><td class=\"text\">" +
            (is_changed ? "<mark>" + shown(value) + "</mark>" : shown(value)) + "</td>";
    if (!is_default) rows += "<td class=\"text\">" + (key.required ? "" : shown(otherwise)) + "</td>";
    rows += "</tr>\n";
  }
  const auto table = [](const std::string& caption, const char* last_column, const std::string& rows) {
    return scrolling(caption, "<table>\n<caption>" + caption +
                                  "</caption>\n<thead><tr><th scope=\"col\">key</th><th scope=\"col\">value</th>" +
                                  last_column + "</tr></thead>\n<tbody>\n" + rows + "</tbody>\n</table>\n");
  };
  return table("Given, or other than the default", "<th scope=\"col\">default</th>", changed) + "<details><summary>" +
         std::to_string(num_same) + " keys at their defaults</summary>\n" + table("At their defaults", "", same) +
         "</details>\n";
}

std::string adapter_maps(const RunReport& report) {
  std::string html;
  for (const HeatMap& map : norm_maps(report.adapter))
    html += "<figure>" + scrolling(map.title + " by layer", heat_maps_svg("", {{map}})) + "</figure>\n";
  if (html.empty()) return html;
  return "<h2 id=\"adapter\">Adapter" +
         (report.adapter_step ? " after step " + std::to_string(*report.adapter_step) : "") +
         "</h2>\n<p>The Frobenius norm of what the adapter adds: layers downwards, weights or experts "
         "across.</p>\n<div class=\"maps\">\n" +
         html + "</div>\n<details><summary>Norms and ranks, as tables</summary>\n" +
         table_html("By layer and weight", figures_report("adapter", report.adapter, false).tables.front()) +
         "</details>\n";
}

std::string machine(const RunReport& report) {
  std::string html = "<h2 id=\"machine\">Machine, versions, digests</h2>\n";
  Table sessions{
      "sessions", {"started", "first_step", "processor", "processors", "threads", "memory_bytes", "program"}, {}};
  for (const RunSession& session : report.sessions) {
    std::string version;
    for (const char c : session.version) version += c == '\n' ? "; " : std::string(1, c);
    sessions.rows.push_back({session.started, session.first_step, session.processor, session.processors,
                             session.threads, session.memory_bytes, version});
  }
  html += sessions.rows.empty() ? "<p>The run has not recorded where it ran.</p>\n"
                                : table_html("The run began, and went on", sessions);
  Table files{"files", {"of", "file", "bytes", "sha256", "digest_of"}, {}};
  for (const CardSource& source : report.sources) {
    for (const CardFile& file : source.files)
      files.rows.push_back({source.name, file.name, static_cast<std::int64_t>(file.bytes), file.sha256,
                            std::string(file.header_only ? "names, shapes and places of its tensors" : "all of it")});
  }
  if (!files.rows.empty()) html += table_html("Base model and adapter", files);
  return html;
}

std::string data_tables(const RunReport& report) {
  if (report.data.rows.empty()) return "<p>No token file of the run can be read any more.</p>\n";
  std::string html = table_html("Token files", report.data);
  if (!report.channels.rows.empty()) html += table_html("By channel", report.channels);
  return html + learned_channels(report.history.steps);
}

}  // namespace

std::string report_page(const RunReport& report) {
  const std::filesystem::path dir = report.summary.path.lexically_normal();
  const std::string name = dir.has_filename() ? dir.filename().string() : dir.parent_path().filename().string();
  const std::string title = "Run " + shown(name);
  std::string html = std::string(kHead) + "<title>" + title + "</title>\n<style>" + kStyle + kLineChartStyle +
                     "</style>\n</head>\n<body>\n<main>\n<h1>" + title + "</h1>\n";
  html += "<p>" + std::to_string(report.history.last_step()) + " steps" +
          (report.has_result ? "; its result is written" : " so far; no result is written yet") + "</p>\n";
  html += fields_html("Summary", report.summary.fields);
  html += curves(report);
  html += samples_section(report.samples);
  html += "<h2 id=\"recipe\">Recipe</h2>\n" + recipe_table(report.recipe);
  html += "<h2 id=\"data\">Data</h2>\n" + data_tables(report);
  html += adapter_maps(report) + router_section(report.history.steps) + machine(report);
  if (!report.missing.empty()) {
    html += "<h2 id=\"missing\">What is not here</h2>\n<ul>\n";
    for (const std::string& missing : report.missing) html += "<li>" + shown(missing) + "</li>\n";
    html += "</ul>\n";
  }
  return html + "</main>\n</body>\n</html>\n";
}

bool is_report_page(const std::filesystem::path& path) {
  std::string beginning(512, '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(beginning.data(), static_cast<std::streamsize>(beginning.size()));
  return beginning.find(kGenerator) != std::string::npos;
}

}  // namespace ossature
