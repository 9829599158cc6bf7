#include "train/reports/run_report_sections.h"

#include <algorithm>
#include <numeric>

#include "train/reports/page_tables.h"
#include "train/text/heat_map.h"
#include "train/text/markup.h"
#include "train/text/visible_text.h"

namespace ossature {
namespace {

using Table = Inspection::Table;
using Counts = std::vector<std::vector<std::int64_t>>;

/// Bytes of anybody's making, line by line.
std::string shown_lines(const std::string& text) {
  std::string lines;
  for (const VisiblePiece& piece : visible_pieces(text))
    lines += piece.kind == VisiblePiece::kNewline ? "\n" : escaped_markup(piece.text);
  return lines;
}

std::string reply_html(const SampleReply& reply) {
  std::string html =
      "<div><h4>" + (reply.step == 0 ? "Before training" : "After step " + std::to_string(reply.step)) + "</h4>\n";
  for (const GeneratedMessage& message : reply.messages) {
    const std::string channel = message.channel.empty() ? "no channel" : message.channel;
    html += "<p>" + shown(message.recipient.empty() ? channel : channel + ", to " + message.recipient) +
            "</p>\n<div class=\"said\">" + shown_lines(message.content) + "</div>\n";
  }
  if (reply.messages.empty()) html += "<p>nothing</p>\n";
  if (reply.finish == "length") html += "<p>cut after " + std::to_string(reply.tokens) + " tokens</p>\n";
  return html + "</div>\n";
}

/// Of each layer each expert's tokens over the mean of its layer.
HeatMap load_map(const Counts& tokens) {
  HeatMap map{"tokens over the layer's mean", {}, {}, {}};
  for (std::size_t e = 0; e < tokens.front().size(); ++e) map.columns.push_back(std::to_string(e));
  for (std::size_t n = 0; n < tokens.size(); ++n) {
    const auto sum = std::accumulate(tokens[n].begin(), tokens[n].end(), std::int64_t{0});
    const double mean = static_cast<double>(sum) / static_cast<double>(tokens[n].size());
    map.rows.push_back(std::to_string(n));
    map.values.emplace_back();
    for (const std::int64_t count : tokens[n])
      map.values.back().push_back(sum > 0 ? static_cast<double>(count) / mean : 0.0);
  }
  return map;
}

}  // namespace

std::string router_section(const std::vector<StepMetrics>& steps) {
  Counts tokens;
  std::int64_t counted = 0;
  for (const StepMetrics& step : steps) {
    const Counts& of_step = step.expert_tokens;
    if (of_step.empty() || of_step.front().empty()) continue;
    if (tokens.empty()) tokens.assign(of_step.size(), std::vector<std::int64_t>(of_step.front().size()));
    if (of_step.size() != tokens.size() || of_step.front().size() != tokens.front().size()) continue;
    ++counted;
    for (std::size_t n = 0; n < tokens.size(); ++n)
      std::transform(tokens[n].begin(), tokens[n].end(), of_step[n].begin(), tokens[n].begin(), std::plus<>());
  }
  if (tokens.empty()) return "";
  const HeatMap map = load_map(tokens);
  std::string html =
      "<h2 id=\"router\">Router load</h2>\n<p>Which experts the training data take: layers downwards, experts "
      "across, over " +
      std::to_string(counted) + (counted == 1 ? " step" : " steps") + ". 1 is an even share.</p>\n<figure>" +
      scrolling(map.title, heat_maps_svg("", {{map}})) + "</figure>\n";
  Table table{"router", {"layer", "largest_in_first_step", "largest_in_last_step", "mean_of_largest"}, {}};
  for (std::size_t n = 0; n < tokens.size(); ++n) {
    std::vector<double> loads;
    for (const StepMetrics& step : steps)
      if (n < step.router_load.size()) loads.push_back(step.router_load[n]);
    if (loads.empty()) continue;
    table.rows.push_back({static_cast<std::int64_t>(n), loads.front(), loads.back(),
                          std::accumulate(loads.begin(), loads.end(), 0.0) / static_cast<double>(loads.size())});
  }
  if (!table.rows.empty())
    html += "<details><summary>The busiest expert of each layer, as a table</summary>\n" +
            table_html("Tokens of the busiest expert over the mean, by layer", table) + "</details>\n";
  return html;
}

std::string learned_channels(const std::vector<StepMetrics>& steps) {
  std::map<std::string, std::int64_t> learned;
  std::int64_t all = 0;
  for (const StepMetrics& step : steps) {
    for (const auto& [channel, tokens] : step.channel_tokens) {
      learned[channel] += tokens;
      all += tokens;
    }
  }
  if (all == 0) return "";
  Table table{"learned", {"channel", "learned_tokens", "learned_share"}, {}};
  for (const auto& [channel, tokens] : learned)
    table.rows.push_back({channel, tokens, static_cast<double>(tokens) / static_cast<double>(all)});
  return table_html("Learned in the steps so far", table);
}

std::string samples_section(const std::vector<SampleReply>& replies) {
  std::vector<std::string> prompts;  // in the order of their first replies
  for (const SampleReply& reply : replies)
    if (std::find(prompts.begin(), prompts.end(), reply.prompt) == prompts.end()) prompts.push_back(reply.prompt);
  std::string html;
  for (const std::string& prompt : prompts) {
    std::vector<const SampleReply*> said;
    for (const SampleReply& reply : replies)
      if (reply.prompt == prompt) said.push_back(&reply);
    html += "<h3 class=\"prompt\">" + shown_lines(prompt) + "</h3>\n<div class=\"replies\">\n" +
            reply_html(*said.front()) + (said.size() > 1 ? reply_html(*said.back()) : "") + "</div>\n";
    if (said.size() < 3) continue;
    html += "<details><summary>" + std::to_string(said.size() - 2) + " between</summary>\n";
    for (std::size_t i = 1; i + 1 < said.size(); ++i) html += reply_html(*said[i]);
    html += "</details>\n";
  }
  return html.empty() ? "" : "<h2 id=\"samples\">Sample replies</h2>\n" + html;
}

}  // namespace ossature
