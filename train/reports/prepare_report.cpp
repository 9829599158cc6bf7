#include "train/reports/prepare_report.h"

#include <nlohmann/json.hpp>
#include <vector>

#include "train/reports/inspection.h"
#include "train/reports/token_report.h"

namespace ossature {
namespace {

using Json = nlohmann::ordered_json;

struct Note {
  std::string kind;
  std::int64_t count;
  std::string sentence;  // begins with the count
  const std::vector<std::string>& first;
};

std::string counted(std::int64_t count, const std::string& one, const std::string& many) {
  return std::to_string(count) + " " + (count == 1 ? one : many);
}

/// Those of which there are any.
std::vector<Note> notes_of(const PrepareSummary& summary) {
  std::vector<Note> notes;
  const auto add = [&](const char* kind, const Occurrences& occurrences, const std::string& one,
                       const std::string& many) {
    if (occurrences.count > 0)
      notes.push_back({kind, occurrences.count, counted(occurrences.count, one, many), occurrences.first});
  };
  const LengthReport& length = summary.length;
  add("skipped", summary.skipped, "record is wrong and was skipped", "records are wrong and were skipped");
  add("dropped", length.dropped, "sample is too long and was dropped", "samples are too long and were dropped");
  add("truncated", length.truncated, "sample was truncated", "samples were truncated");
  const std::string lost = counted(length.learned_tokens_lost, "token", "tokens");
  add("truncated_learned", length.truncated_learned, "of them lost " + lost + " that would be learned",
      "of them lost " + lost + " that would be learned");
  add("split", length.split, "sample was split", "samples were split");
  add("turns_dropped", length.turns_dropped, "turn is too long alone and was dropped",
      "turns are too long alone and were dropped");
  for (const LintFinding& finding : summary.lint) {
    notes.push_back({std::string(name_of(finding.kind)), finding.count,
                     counted(finding.count, "record: ", "records: ") + std::string(explanation_of(finding.kind)) + " " +
                         std::string(advice_of(finding.kind)),
                     finding.sources});
  }
  return notes;
}

Inspection report_of(const TokenStatistics& statistics, const std::filesystem::path& path) {
  Inspection report;
  report.kind = "token file";
  report.path = path;
  add_statistics(statistics, report);
  return report;
}

}  // namespace

std::string to_text(const PrepareSummary& summary, const PrepareOptions& options) {
  std::string text = to_text(report_of(summary.train, options.out));
  if (options.validation > 0.0) text += "\n" + to_text(report_of(summary.validation, options.validation_out));
  const std::vector<Note> notes = notes_of(summary);
  if (!notes.empty()) text += "\n";
  for (const Note& note : notes) {
    text += note.sentence + (note.sentence.ends_with('.') ? "\n" : ":\n");
    for (const std::string& place : note.first) text += "  " + place + "\n";
    const auto listed = static_cast<std::int64_t>(note.first.size());
    if (note.count > listed) text += "  and " + std::to_string(note.count - listed) + " more\n";
  }
  return text;
}

std::string to_json(const PrepareSummary& summary, const PrepareOptions& options) {
  Json json = {{"records", summary.records}};
  json["train"] = Json::parse(to_json(report_of(summary.train, options.out)));
  if (options.validation > 0.0) {
    json["validation"] = Json::parse(to_json(report_of(summary.validation, options.validation_out)));
  }
  json["notes"] = Json::array();
  for (const Note& note : notes_of(summary)) {
    json["notes"].push_back({{"kind", note.kind}, {"count", note.count}, {"first", note.first}});
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace ossature
