// Malformed data given to `ossature prepare`: exit code, one error, and nothing left behind. What is said of each is
// the matter of tests/data/malformed_inputs_test.cpp.
#include "tests/data/malformed_inputs.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "tests/cli/workspace.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

const std::string kGood = R"({"text": "one"})"
                          "\n";

std::vector<std::string> prepare(const Workspace& workspace, const std::vector<std::string>& inputs) {
  std::vector<std::string> arguments = {"prepare"};
  arguments.insert(arguments.end(), inputs.begin(), inputs.end());
  for (const std::string& word :
       {std::string("--tokenizer"), kEmbedded.string(), std::string("--out"), workspace.path("out.h5")})
    arguments.push_back(word);
  return arguments;
}

/// Runs while the program does: what the pipe is given.
std::jthread feed(
    const std::string& pipe, const std::string& bytes, const std::function<void()>& before_its_end = [] {}) {
  return std::jthread([=] {
    std::ofstream out(pipe, std::ios::binary);  // waits until the program reads
    out << bytes << std::flush;
    before_its_end();
  });
}

TEST(MalformedInputs, RecordsExitWithThree) {
  const auto records = malformed_records();
  // The program adds no more than the exit code, so not all of them.
  for (std::size_t i = 0; i < records.size(); i += 8) {
    const MalformedRecord& record = records[i];
    SCOPED_TRACE(record.name);
    const Workspace workspace;
    const std::string input = workspace.write("a.jsonl", record.good + "\n" + record.line + "\n" + record.good + "\n");
    std::vector<std::string> mentions = record.mentions;
    mentions.push_back(input + ":2: ");
    auto arguments = prepare(workspace, {input});
    if (!record.options_format.empty()) arguments.insert(arguments.end(), {"--format", record.options_format});
    workspace.expect_failure(arguments, 3, mentions);
  }
}

TEST(MalformedInputs, LineOfAHundredMegabytes) {
  const Workspace workspace;
  const std::string input = workspace.write("a.jsonl", kGood + "{\"text\": \"" + std::string(100 << 20, 'x') + "\"}\n");
  workspace.expect_failure(prepare(workspace, {input}), 3,
                           {input + ":2: a record of more than 67108864 bytes; expected at most so many: split it"});
}

TEST(MalformedInputs, FilesThatAreNotThere) {
  const Workspace workspace;
  const std::string good = workspace.write("a.jsonl", kGood), absent = workspace.path("absent.jsonl");
  workspace.expect_failure(prepare(workspace, {good, absent}), 3, {absent + ": cannot be opened: No such file"});
  fs::create_directory(workspace.path("folder"));
  workspace.expect_failure(prepare(workspace, {workspace.path("folder")}), 3,
                           {workspace.path("folder") + ": cannot be opened: it is a directory; name the files in it"});
  fs::create_symlink(workspace.path("nothing"), workspace.path("link"));
  workspace.expect_failure(prepare(workspace, {workspace.path("link")}), 3,
                           {workspace.path("link") + ": cannot be opened"});
}

TEST(MalformedInputs, FilesWithoutASample) {
  const Workspace workspace;
  workspace.expect_failure(prepare(workspace, {workspace.write("a.jsonl", "")}), 3, {"no sample"});
  workspace.expect_failure(prepare(workspace, {workspace.write("b.json", "[]")}), 3, {"no sample"});
  workspace.expect_failure(prepare(workspace, {"-"}), 3, {"no sample"});  // which is empty here
}

TEST(MalformedInputs, FilesThatEndTooEarly) {
  const Workspace workspace;
  const std::string header("\x1f\x8b\x08\0\0\0\0\0\0\x03", 10);
  const std::string gzip = workspace.write("a.jsonl.gz", header);
  workspace.expect_failure(prepare(workspace, {gzip}), 3,
                           {gzip + ": its gzip data end too early: the file was cut short"});
  const std::string array = workspace.write("a.json", "[" + kGood + ",\n" + kGood);
  workspace.expect_failure(prepare(workspace, {array}), 3,
                           {array + ":4: the file ends inside its array, after element 2"});
}

TEST(MalformedInputs, PipeWhoseWriterEnds) {
  const Workspace workspace;
  const std::string pipe = workspace.path("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const auto writer = feed(pipe, kGood + "{\"text\": \"tw");
  workspace.expect_failure(prepare(workspace, {pipe}), 3, {pipe + ":2: not JSON at column 13: ", "expected"});
}

TEST(MalformedInputs, FileThatVanishesMeanwhile) {
  const Workspace workspace, elsewhere;
  const std::string pipe = workspace.path("pipe"), file = elsewhere.write("a.jsonl", kGood);
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const auto writer = feed(pipe, kGood, [&] { fs::remove(file); });
  workspace.expect_failure(prepare(workspace, {pipe, file}), 3, {file + ": cannot be opened: No such file"});
}

TEST(MalformedInputs, TargetsThatCannotBeWritten) {
  const Workspace workspace;
  const std::string input = workspace.write("a.jsonl", kGood);
  auto arguments = prepare(workspace, {input});
  for (const auto& [target, mention] :
       {std::pair{input + "/out.h5", "is not a directory"}, {std::string("/proc/out.h5"), "cannot be written"}}) {
    arguments.back() = target;
    workspace.expect_failure(arguments, 3, {target, mention});
  }
}

TEST(MalformedInputs, TargetsThatAreSomethingElse) {
  const Workspace workspace;
  auto arguments = prepare(workspace, {workspace.write("a.jsonl", kGood)});
  arguments.back() = workspace.write("notes.txt", "mine, and longer than a signature");
  workspace.expect_failure(arguments, 3, {"notes.txt: already exists and is no HDF5 file"});
  arguments.back() = workspace.path("tokens.h5");
  output_of(arguments);
  output_of(arguments);  // a token file is replaced
}

TEST(MalformedInputs, FullDiskExitsWithFive) {
  const Workspace workspace;
  workspace.expect_failure(prepare(workspace, {workspace.conversations(40)}), 5,
                           {workspace.path("out.h5"), "File too large"}, {.max_file_bytes = 2'000});
}

}  // namespace
}  // namespace ossature
