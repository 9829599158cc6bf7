// Each malformed input, through the whole of prepare: one error with place, finding and expectation, and nothing left
// behind.
#include "tests/data/malformed_inputs.h"

#include <gtest/gtest.h>

#include <set>

#include "data/prepare.h"
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

/// What prepare says of `input`, which must stay alone in its folder.
std::string error_of(const std::filesystem::path& input, std::optional<DataFormat> format = std::nullopt) {
  PrepareOptions options;
  options.inputs = {input};
  options.tokenizer = std::filesystem::path(OSSATURE_SOURCE_DIR) / "tests/data/fixtures";
  options.out = input.parent_path() / "out.h5";
  options.format.format = format;
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
    const auto format = record.options_format.empty() ? std::nullopt : data_format(record.options_format);
    expect_mentions(error_of(input, format), input.string() + ":2: ", record.mentions);
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
    expect_mentions(error_of(input), file.place.empty() ? "" : input.string() + file.place, file.mentions);
  }
}

/// --on-error skip: what is wrong with one record keeps none of the others from being read.
TEST(MalformedInputs, RecordsCanBePassedOver) {
  const TemporaryDirectory folder;
  for (const MalformedRecord& record : malformed_records()) {
    SCOPED_TRACE(record.name);
    const auto input = folder.write("a.jsonl", record.good + "\n" + record.line + "\n" + record.good + "\n");
    RecordReader reader({input});
    SampleParser parser({.format = record.options_format.empty() ? std::nullopt : data_format(record.options_format)});
    const std::vector<Record> records = reader.next_block(100, 1 << 20);
    ASSERT_EQ(records.size(), 3u);
    EXPECT_TRUE(reader.next_block(100, 1 << 20).empty());
    parser.detect(records);
    EXPECT_NO_THROW((void)parser.parse(records[0]));
    EXPECT_NO_THROW((void)parser.parse(records[2]));
  }
}

}  // namespace
}  // namespace ossature
