#include "data/records/records.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <thread>

#include "tests/data/compressed.h"
#include "tests/data/errors.h"
#include "tests/data/temporary_directory.h"

namespace ossature {
namespace {

constexpr std::size_t kMany = 1 << 30;

std::vector<Record> read_all(RecordReader& reader, std::size_t max_records = kMany, std::size_t max_bytes = kMany) {
  std::vector<Record> all;
  for (std::vector<Record> block; !(block = reader.next_block(max_records, max_bytes)).empty();) {
    EXPECT_LE(block.size(), max_records);
    std::move(block.begin(), block.end(), std::back_inserter(all));
  }
  return all;
}

std::vector<Record> records_of(const std::vector<std::filesystem::path>& inputs, RecordOptions options = {}) {
  RecordReader reader(inputs, options);
  return read_all(reader);
}

/// "2:5 text" of each.
std::vector<std::string> shown(const std::vector<Record>& records) {
  std::vector<std::string> lines;
  for (const Record& record : records) {
    lines.push_back(std::to_string(record.line) + ":" + std::to_string(record.column) + " " + record.text +
                    record.error);
  }
  return lines;
}

using Lines = std::vector<std::string>;

TEST(Records, LinesThatAreNotEmpty) {
  const TemporaryDirectory folder;
  EXPECT_EQ(shown(records_of({folder.write("a.jsonl", "\n{1}\n\r\n \t\n{2} \r\n  {3}\n\n{4}")})),
            (Lines{"2:1 {1}", "5:1 {2} ", "6:1   {3}", "8:1 {4}"}));
  EXPECT_EQ(shown(records_of({folder.write("b.jsonl", "\xef\xbb\xbf  {1}\r\n{2}\r\n")})),
            (Lines{"1:3 {1}", "2:1 {2}"}));
  EXPECT_EQ(shown(records_of({folder.write("c.jsonl", "\xef\xbb\xbf")})), Lines{});
}

TEST(Records, ElementsOfAnArray) {
  const TemporaryDirectory folder;
  const std::string array = "\n [ {\"a\": \"]},{[\\\"\\\\\"},\n\n  {\"b\":\n [1, {}]} ,7,\"s]\", true,null,[]\r\n]\n\n";
  EXPECT_EQ(shown(records_of({folder.write("a.json", array)})),
            (Lines{"2:4 {\"a\": \"]},{[\\\"\\\\\"}", "4:3 {\"b\":\n [1, {}]}", "5:12 7", "5:14 \"s]\"", "5:20 true",
                   "5:25 null", "5:30 []"}));
  EXPECT_EQ(shown(records_of({folder.write("b.json", "\xef\xbb\xbf[]")})), Lines{});
}

TEST(Records, TextFilesAreOneRecord) {
  const TemporaryDirectory folder;
  const auto records = records_of({folder.write("a.txt", "One.\r\n\n{\"two\"}\n"), folder.write("b.md", " \n\n"),
                                   folder.write("c.MD.gz", gzip("# Three\n"))});
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].text, "One.\r\n\n{\"two\"}\n");
  EXPECT_TRUE(records[0].is_plain_text);
  EXPECT_EQ(records[1].text, "# Three\n");
  EXPECT_EQ(records[1].place(), (folder / "c.MD.gz").string() + ":1");
}

TEST(Records, CompressionIsToldByContent) {
  const TemporaryDirectory folder;
  const std::string lines = "{1}\n{2}\n", skippable = std::string("\x50\x2a\x4d\x18\x03\0\0\0abc", 11);
  const Lines expected = {"1:1 {1}", "2:1 {2}"};
  EXPECT_EQ(shown(records_of({folder.write("a", gzip(lines))})), expected);
  EXPECT_EQ(shown(records_of({folder.write("b", zstd(lines))})), expected);
  EXPECT_EQ(shown(records_of({folder.write("c", gzip("{1}") + gzip("") + gzip("\n{2}"))})), expected);
  EXPECT_EQ(shown(records_of({folder.write("d", zstd("{1}") + skippable + zstd("\n{2}"))})), expected);
  EXPECT_EQ(shown(records_of({folder.write("e", skippable + zstd(lines))})), expected);
  EXPECT_EQ(shown(records_of({folder.write("f", zstd("\xef\xbb\xbf[{1},\n{2}]"))})), (Lines{"1:2 {1}", "2:1 {2}"}));
  EXPECT_EQ(shown(records_of({folder.write("g", gzip("")), folder.write("h", zstd(""))})), Lines{});
}

/// Records of many sizes around those of the buffers, in every kind of file, come back as they were.
TEST(Records, AreTheSameInAnyKindOfFileAndBlock) {
  const TemporaryDirectory folder;
  std::mt19937 random(11);
  std::string lines, array = "[";
  Lines texts;
  for (int i = 0; i < 3000; ++i) {
    const std::size_t size = i % 500 == 0 ? 1'500'000 + random() % 1'000'000 : random() % 2000;
    std::string text = "{\"" + std::to_string(i) + "é";
    while (text.size() < size) text += static_cast<char>('a' + random() % 26);
    texts.push_back(text += "\"}");
    lines += texts.back() + (i % 3 == 0 ? "\r\n\n" : "\n");
    array += (i == 0 ? "" : ",") + std::string(i % 7, '\n') + texts.back();
  }
  array += "]";
  for (const auto& input : {folder.write("a", lines), folder.write("b", array), folder.write("c", gzip(lines)),
                            folder.write("d", zstd(array))}) {
    RecordReader reader({input});
    EXPECT_EQ(reader.bytes_total(), static_cast<std::int64_t>(std::filesystem::file_size(input)));
    std::int64_t line = 1;
    std::size_t i = 0;
    for (const Record& record : read_all(reader, 700, 300'000)) {
      ASSERT_TRUE(record.text == texts.at(i++));
      EXPECT_GE(record.line, line);
      line = record.line;
    }
    EXPECT_EQ(i, texts.size());
    EXPECT_EQ(reader.bytes_done(), reader.bytes_total());
  }
}

TEST(Records, TooLongOnesArePassedOverAndSaid) {
  const TemporaryDirectory folder;
  const RecordOptions options{.max_record_bytes = 100};
  const std::string longest(100, '1'), longer(5'000'000, '1');
  const Lines expected = {"1", "a record of more than 100 bytes", "2", longest, "a record of more than 100 bytes"};
  const auto expect = [&](const std::vector<Record>& records) {
    ASSERT_EQ(records.size(), expected.size());
    for (std::size_t i = 0; i < records.size(); ++i) {
      EXPECT_EQ(records[i].line, static_cast<std::int64_t>(i + 1));
      EXPECT_EQ((records[i].text + records[i].error).substr(0, expected[i].size()), expected[i]);
    }
  };
  expect(records_of({folder.write("a", "1\n" + longer + "\n2\n" + longest + "\n" + longest + "1")}, options));
  expect(records_of({folder.write("b", "[1,\n" + longer + ",\n2,\n" + longest + ",\n" + longest + "1]")}, options));
  const auto texts = records_of({folder.write("c.txt", longer), folder.write("d.txt", longest)}, options);
  EXPECT_TRUE(texts.at(0).error.starts_with("a text file of more than 100 bytes"));
  EXPECT_EQ(texts.at(1).text, longest);
}

TEST(Records, ErrorsOfTheFileComeAfterTheRecordsBeforeThem) {
  const TemporaryDirectory folder;
  const auto bad = folder.write("b.json", "[{1},\n{2}");
  RecordReader reader({folder.write("a", "{1}"), bad});
  EXPECT_EQ(reader.next_block(10, kMany).size(), 3u);
  for (int again = 0; again < 2; ++again) {
    expect_data_error([&] { (void)reader.next_block(10, kMany); }, bad.string() + ":2: the file ends inside its array");
  }
}

TEST(RecordsRefuse, InputsThatCannotBeOpened) {
  const TemporaryDirectory folder;
  const auto good = folder.write("a.jsonl", "{1}");
  expect_data_error([&] { RecordReader({good, folder / "absent"}); }, "absent: cannot be opened: No such file");
  expect_data_error([&] { RecordReader({good, folder / ""}); }, "cannot be opened: it is a directory");
  expect_data_error([&] { RecordReader({good / "b"}); }, "cannot be opened: Not a directory");
  expect_data_error([&] { RecordReader({"-", good, "-"}); }, "standard input (-) is given twice");
  std::filesystem::create_symlink(folder / "nothing", folder / "dangling");
  expect_data_error([&] { RecordReader({folder / "dangling"}); }, "dangling: cannot be opened: No such file");
  std::filesystem::create_symlink(folder / "loop", folder / "loop");
  expect_data_error([&] { RecordReader({folder / "loop"}); }, "loop: cannot be opened: Too many levels");
  if (::geteuid() == 0) return;  // reads everything
  std::filesystem::permissions(good, std::filesystem::perms::none);
  expect_data_error([&] { RecordReader({good}); }, "a.jsonl: cannot be opened: Permission denied");
}

TEST(RecordsRefuse, FilesThatChangeWhileTheyAreRead) {
  const TemporaryDirectory folder;
  std::string lines;
  while (lines.size() < 8'000'000) lines += "{\"line\"}\n";
  for (const bool shrinks : {true, false}) {
    const auto input = folder.write("a.jsonl", lines);
    RecordReader reader({input});
    EXPECT_EQ(reader.next_block(1, kMany).size(), 1u);
    std::filesystem::resize_file(input, shrinks ? 4'000'000 : 8'100'000);
    expect_data_error([&] { read_all(reader); },
                      "a.jsonl: it had " + std::to_string(lines.size()) + " bytes when it was opened");
  }
  const auto second = folder.write("b.jsonl", lines);
  RecordReader reader({folder.write("a.jsonl", lines), second});
  std::filesystem::remove(second);
  expect_data_error([&] { read_all(reader); }, "b.jsonl: cannot be opened: No such file");
}

TEST(Records, PipesAndStandardInput) {
  const TemporaryDirectory folder;
  const auto pipe = folder / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const auto feed = [&](const std::string& bytes) {
    return std::jthread([&, bytes] { std::ofstream(pipe, std::ios::binary) << bytes; });
  };
  {
    const auto writer = feed(zstd("{1}\n{2}\n"));
    RecordReader reader({pipe});
    EXPECT_EQ(shown(read_all(reader)), (Lines{"1:1 {1}", "2:1 {2}"}));
    EXPECT_EQ(reader.bytes_total(), 0);
  }
  const auto file = folder.write("a.jsonl", "{1}\n{2}\n");
  const int before = ::dup(STDIN_FILENO);
  ASSERT_NE(std::freopen(file.c_str(), "rb", stdin), nullptr);
  const auto records = records_of({"-"});
  ::dup2(before, STDIN_FILENO);
  ::close(before);
  EXPECT_EQ(shown(records), (Lines{"1:1 {1}", "2:1 {2}"}));
  EXPECT_EQ(records.at(0).place(), "standard input:1");
}

}  // namespace
}  // namespace ossature
