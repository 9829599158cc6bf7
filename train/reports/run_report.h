// What `ossature report` shows of a run, gathered from its folder and from the files that its recipe names.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "model/adapter/adapter_figures.h"
#include "train/recipe/recipe.h"
#include "train/reports/inspection.h"
#include "train/reports/model_card.h"
#include "train/run/run_history.h"
#include "train/run/run_sessions.h"
#include "train/run/sample_replies.h"

namespace ossature {

struct RunReport {
  Recipe recipe;
  Inspection summary;       // inspect_run()
  bool has_result = false;  // adapter/ or model/
  RunHistory history;
  std::vector<RunSession> sessions;
  Inspection::Table data;      // a row a token file
  Inspection::Table channels;  // a row a file and kind of segment; empty where harmony's tokens are not known
  std::vector<TargetFigures> adapter;
  std::optional<std::int64_t> adapter_step;  // of a run without a result: the checkpoint that `adapter` is of
  std::vector<SampleReply> samples;
  std::vector<CardSource> sources;  // base and adapter, with digests
  /// What could not be shown, and why: a file that is gone, an adapter that is not written yet.
  std::vector<std::string> missing;
};

/// Reads a run folder, be the run complete, interrupted or at work. `progress`, when given, hears the tokens read of
/// the token files and their number. Throws CheckpointError if `run_dir` holds no run, RecipeError if its recipe is
/// broken; what else is damaged or gone is told in `missing`.
[[nodiscard]] RunReport read_run_report(const std::filesystem::path& run_dir,
                                        const std::function<void(std::int64_t, std::int64_t)>& progress = {});

/// One HTML page that needs nothing else: no script, no network. Text of files is escaped.
[[nodiscard]] std::string report_page(const RunReport& report);

/// Whether the file at `path` is such a page.
[[nodiscard]] bool is_report_page(const std::filesystem::path& path);

}  // namespace ossature
