// From files of JSON lines to token files.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/data_error.h"
#include "data/formats.h"

namespace ossature {

struct PrepareOptions {
  std::vector<std::filesystem::path> inputs;
  std::filesystem::path tokenizer;  // tokenizer.json or a directory that has one
  std::filesystem::path out;
  std::optional<DataFormat> format;  // nullopt: told from the keys of each line
  std::optional<std::string> date;   // in the system message; nullopt: left out
  double validation = 0.0;           // share of samples that go to validation_out instead, chosen by their content
  std::filesystem::path validation_out;
  int threads = 0;  // 0: one a processor
};

struct PrepareCounts {
  std::int64_t samples = 0;
  std::int64_t tokens = 0;
  std::int64_t learned_tokens = 0;
  std::array<std::int64_t, 3> learned_by_channel{};  // of analysis, commentary, final; plain text has no channel
  std::int64_t longest_sample = 0;                   // tokens
  std::int64_t without_learned = 0;                  // samples in which nothing is learned
};

struct PrepareSummary {
  PrepareCounts train;
  PrepareCounts validation;
};

/// Reads all inputs in order, line by line, in memory bounded by a few megabytes of text; tokenizes on several threads;
/// writes the samples in the order of the lines. Empty lines are passed over. Throws DataError naming file and line of
/// the first that is wrong: then no output is left. `progress`, when given, hears the samples done.
PrepareSummary prepare(const PrepareOptions& options, const std::function<void(std::int64_t)>& progress = {});

}  // namespace ossature
