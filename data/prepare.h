// From JSONL files to token files: read, render, encode on all cores, write, all in bounded memory.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/formats.h"

namespace ossature {

struct PrepareOptions {
  std::vector<std::filesystem::path> inputs;  // JSONL, in this order
  std::filesystem::path tokenizer;            // tokenizer.json or its folder
  std::filesystem::path out;
  DataFormat format = DataFormat::kAuto;
  std::optional<std::string> date;  // in the system message; nullopt: none
  double validation = 0.0;  // share of the samples, 0 to 1, that goes to validation_out: by the hash of a line, so that
                            // it does not depend on order and equal lines stay together
  std::filesystem::path validation_out;
  std::int64_t threads = 0;  // 0: all cores
};

/// What one token file has.
struct PreparedFile {
  std::filesystem::path path;
  std::int64_t samples = 0;
  std::int64_t tokens = 0;
  std::int64_t learned_tokens = 0;
  std::array<std::int64_t, 4> learned_by_channel{};  // by Channel
  std::int64_t samples_without_learned = 0;
  std::int64_t longest_sample = 0;  // tokens
};

struct PrepareSummary {
  PreparedFile train;
  std::optional<PreparedFile> validation;
};

struct PrepareProgress {
  std::int64_t bytes_read = 0;
  std::int64_t bytes_total = 0;
  std::int64_t samples = 0;
  std::int64_t tokens = 0;
};

/// Writes the token files; nothing is left behind on failure. `progress` is called on the calling thread, now and then.
/// Throws DataError naming file and line of the first bad sample, or if there is none; std::system_error when the disk
/// refuses.
PrepareSummary prepare(const PrepareOptions& options, const std::function<void(const PrepareProgress&)>& progress = {});

}  // namespace ossature
