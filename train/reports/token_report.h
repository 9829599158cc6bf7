// What a set of samples holds, as fields and tables: the closing table of `prepare`, and `inspect` on a token file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "data/prepare/statistics.h"
#include "data/token_file/token_file.h"
#include "train/reports/inspection.h"

namespace ossature {

/// Adds number of samples and tokens and the lengths: longest, mean and median (to 3 %), and the table "lengths", a row
/// a power of two.
void add_lengths(const LengthHistogram& lengths, std::int64_t samples, std::int64_t tokens, std::int64_t longest,
                 Inspection& report);

/// Adds what is learned: sums, and the table "channels" with a row a kind of segment (data/harmony/segments.h), its
/// tokens, the learned ones and their share of all learned ones, and the mean loss weight of those. The table is empty
/// where harmony's tokens are not known.
void add_learned(const TokenStatistics& statistics, Inspection& report);

/// Both: the closing table.
void add_statistics(const TokenStatistics& statistics, Inspection& report);

/// What is known of a token file once it is open: lengths, vocabulary, tokenizer, size on disk.
[[nodiscard]] Inspection describe_structure(const TokenFileReader& file);

/// Reads all samples of `file`, which checks their checksums too, and adds what is learned. The ids of harmony's tokens
/// are those of `tokenizer` (tokenizer.json or a directory that has one); if that is empty those of o200k_harmony where
/// the file's vocabulary has room for them, which the field "channels_by" says. Throws DataError on damage, and if
/// `tokenizer` is not the file's. `progress`, when given, hears the tokens done.
void add_contents(const TokenFileReader& file, const std::filesystem::path& tokenizer, Inspection& report,
                  const std::function<void(std::int64_t)>& progress = {});

}  // namespace ossature
