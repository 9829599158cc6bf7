// Each malformed input, through the whole of prepare: one error with place, finding and expectation, and nothing left
// behind.
#include "tests/data/malformed_inputs.h"

#include <gtest/gtest.h>

#include <set>

#include "data/prepare/prepare.h"
#include "tests/data/compressed.h"
#include "tests/data/errors.h"
#include "tests/data/temporary_directory.h"

namespace ossature {
namespace {

std::set<std::string> names_in(const std::filesystem::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) names.insert(entry.path().filename().string());
  return names;
}

PrepareOptions options_for(const std::filesystem::path& input, const std::string& format = "") {
  PrepareOptions options;
  options.inputs = {input};
  options.tokenizer = std::filesystem::path(OSSATURE_SOURCE_DIR) / "tests/data/fixtures";
  options.out = input.parent_path() / "out.h5";
  if (!format.empty()) options.format.format = data_format(format);
  return options;
}

/// What prepare says of `input`, which must stay alone in its folder.
std::string error_of(const PrepareOptions& options) {
  const std::filesystem::path& input = options.inputs.at(0);
  const std::string message = data_error_of([&] { prepare(options); });
  EXPECT_EQ(names_in(input.parent_path()), std::set<std::string>{input.filename().string()});
  return message;
}

void expect_mentions(const std::string& message, const std::string& start, const std::vector<std::string>& mentions) {
  EXPECT_TRUE(message.starts_with(start)) << message << "\ndoes not begin with " << start;
  for (const std::string& mention : mentions) {
    EXPECT_NE(message.find(mention), std::string::npos) << message << "\nlacks: " << mention;
  }
  EXPECT_LT(message.size(), 700u) << "too long to be read";
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

TEST(MalformedInputs, RecordsAreNamedByFileAndLine) {
  const TemporaryDirectory folder;
  for (const MalformedRecord& record : malformed_records()) {
    SCOPED_TRACE(record.name);
    const auto input = folder.write("a.jsonl", record.good + "\n" + record.line + "\n" + record.good + "\n");
    expect_mentions(error_of(options_for(input, record.options_format)), input.string() + ":2: ", record.mentions);
  }
}

TEST(MalformedInputs, FilesAreNamed) {
  const std::string lines = R"({"text": "one"})"
                            "\n"
                            R"({"text": "two"})"
                            "\n";
  for (const MalformedFile& file : malformed_files(gzip(lines), zstd(lines))) {
    SCOPED_TRACE(file.name);
    const TemporaryDirectory folder;
    const auto input = folder.write(file.file, file.bytes);
    auto options = options_for(input);
    expect_mentions(error_of(options), file.place.empty() ? "" : input.string() + file.place, file.mentions);
    if (file.is_record) continue;
    options.skip_errors = true;  // which is for records
    expect_mentions(error_of(options), file.place.empty() ? "" : input.string() + file.place, file.mentions);
  }
}

/// With --on-error skip a wrong record is counted and listed, and those around it are prepared.
TEST(MalformedInputs, RecordsCanBeSkipped) {
  const TemporaryDirectory folder;
  for (const MalformedRecord& record : malformed_records()) {
    SCOPED_TRACE(record.name);
    const auto input = folder.write("a.jsonl", record.good + "\n" + record.line + "\n" + record.good + "\n");
    auto options = options_for(input, record.options_format);
    options.skip_errors = true;
    const PrepareSummary summary = prepare(options);
    EXPECT_EQ(summary.records, 3);
    EXPECT_EQ(summary.train.samples(), 2);
    EXPECT_EQ(summary.skipped.count, 1);
    ASSERT_EQ(summary.skipped.first.size(), 1u);
    expect_mentions(summary.skipped.first[0], input.string() + ":2: ", record.mentions);
  }
}

}  // namespace
}  // namespace ossature
