// From files of training data to token files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "data/data_error.h"
#include "data/harmony/harmony.h"
#include "data/prepare/length_limit.h"
#include "data/prepare/lint.h"
#include "data/prepare/occurrences.h"
#include "data/prepare/statistics.h"
#include "data/records/formats.h"
#include "data/records/records.h"

namespace ossature {

struct PrepareOptions {
  std::vector<std::filesystem::path> inputs;  // as RecordReader takes them; "-" is standard input
  std::filesystem::path tokenizer;            // tokenizer.json or a directory that has one
  std::filesystem::path out;
  RecordOptions records{};
  FormatOptions format{};
  HarmonyOptions harmony{};
  LengthOptions length{};
  bool skip_errors = false;  // records that are wrong are counted, listed and left out, instead of an error
  double validation = 0.0;   // share of the records that go to validation_out instead, chosen by their content
  std::filesystem::path validation_out{};
  int threads = 0;  // 0: one a processor
};

/// How far prepare() is.
struct PrepareProgress {
  std::int64_t bytes_done = 0, bytes_total = 0;  // of the inputs; total 0 if not known
  std::int64_t samples = 0, tokens = 0;          // written
};

struct PrepareSummary {
  explicit PrepareSummary(const HarmonyTokens& tokens) : train(tokens), validation(tokens) {}
  TokenStatistics train, validation;
  std::int64_t records = 0;  // read, wrong ones included
  Occurrences skipped;       // with PrepareOptions::skip_errors: "chats.jsonl:12: what is wrong"
  LengthReport length;
  std::vector<LintFinding> lint;  // of the records that were not skipped
};

/// Reads all inputs in order, tokenizes on several threads, and writes the samples in the order of the records: the
/// same file whatever the number of threads. Memory is bounded whatever the size of the inputs. Throws DataError
/// "file:line: ..." for the first record that is wrong, DataError if there is no sample, std::system_error when the
/// disk refuses; then no output is left, and what had its name stays.
///
/// The side of a record depends on what it says alone (roles and contents, or text), not on options, position or
/// spelling of the JSON; all samples of a record are on one side.
///
/// `progress`, when given, is called from any thread, but from one at a time; what it throws ends the work.
PrepareSummary prepare(const PrepareOptions& options, const std::function<void(const PrepareProgress&)>& progress = {});

}  // namespace ossature
