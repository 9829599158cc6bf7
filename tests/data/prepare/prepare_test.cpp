#include "data/prepare/prepare.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "data/harmony/harmony.h"
#include "data/token_file/token_file.h"
#include "tests/data/errors.h"
#include "tests/data/temporary_directory.h"

namespace ossature {
namespace {

const std::filesystem::path kTokenizer = std::filesystem::path(OSSATURE_SOURCE_DIR) / "tests/data/fixtures";

std::string text_line(const std::string& text) {
  return R"({"text": ")" + text + "\"}\n";
}

struct Read {
  std::vector<std::vector<std::int32_t>> samples;
  std::vector<std::vector<float>> weights;
  std::vector<std::string> texts, sources;
};

Read read(const std::filesystem::path& path) {
  static const Tokenizer tokenizer = Tokenizer::load(kTokenizer);
  const TokenFileReader file(path);
  EXPECT_EQ(file.vocab_size(), tokenizer.vocab_size());
  EXPECT_EQ(file.tokenizer_sha256(), tokenizer.sha256());
  Read result;
  const auto offsets = file.sample_offsets();
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
    const auto size = static_cast<std::size_t>(offsets[s + 1] - offsets[s]);
    file.read_tokens(offsets[s], result.samples.emplace_back(size));
    file.read_loss_weights(offsets[s], result.weights.emplace_back(size));
    result.texts.push_back(tokenizer.decode(result.samples.back()));
    result.sources.push_back(file.sample_source(static_cast<std::int64_t>(s)));
  }
  return result;
}

class PrepareTest : public testing::Test {
 protected:
  PrepareOptions options(const std::vector<std::filesystem::path>& inputs) {
    PrepareOptions result;
    result.inputs = inputs;
    result.tokenizer = kTokenizer;
    result.out = folder_ / "out.h5";
    result.harmony.date = "2026-01-15";
    return result;
  }
  /// The files in the folder, "out.h5" and what was left half done among them.
  std::set<std::string> names() {
    std::set<std::string> result;
    for (const auto& entry : std::filesystem::directory_iterator(folder_ / "")) {
      result.insert(entry.path().filename().string());
    }
    return result;
  }
  const TemporaryDirectory folder_;
};

TEST_F(PrepareTest, KeepsTheOrderOfLinesWithAnyNumberOfThreads) {
  // Several blocks of 4096 lines, of lengths that vary.
  std::vector<std::string> texts;
  for (int i = 0; i < 10000; ++i) {
    texts.push_back("line " + std::to_string(i) + std::string(static_cast<std::size_t>(i * 7919 % 50), 'x'));
  }
  std::string first, second;
  for (std::size_t i = 0; i < texts.size(); ++i) (i < 6000 ? first : second) += text_line(texts[i]);
  auto settings = options({folder_.write("b.jsonl", first), folder_.write("a.jsonl", second)});
  for (const int threads : {1, 4}) {
    settings.threads = threads;
    std::vector<PrepareProgress> progress;
    const PrepareSummary summary = prepare(settings, [&](const PrepareProgress& done) { progress.push_back(done); });
    EXPECT_EQ(summary.train.samples(), 10000);
    EXPECT_EQ(summary.records, 10000);
    ASSERT_EQ(progress.size(), 3u);
    EXPECT_EQ(progress[0].samples, 4096);
    EXPECT_EQ(progress[1].samples, 8192);
    EXPECT_EQ(progress[2].samples, 10000);
    EXPECT_EQ(progress[2].tokens, summary.train.total().tokens);
    EXPECT_EQ(progress[2].bytes_done, static_cast<std::int64_t>(first.size() + second.size()));
    EXPECT_EQ(progress[2].bytes_total, progress[2].bytes_done);
    const Read result = read(settings.out);
    EXPECT_TRUE(result.texts == texts);
    EXPECT_EQ(result.sources[5999], settings.inputs[0].string() + ":6000");
    EXPECT_EQ(result.sources[6000], settings.inputs[1].string() + ":1");
  }
}

TEST_F(PrepareTest, PassesOverEmptyLinesButCountsThem) {
  const auto input = folder_.write("a.jsonl", "\n" + text_line("one") + "\n  \t\r\n" + R"({"text": "two"})" +
                                                  "\r\n\n\n" + R"({"text": "three"})");  // the last without an end
  const auto empty = folder_.write("empty.jsonl", "");
  prepare(options({empty, input, empty}));
  const Read result = read(folder_ / "out.h5");
  EXPECT_EQ(result.texts, (std::vector<std::string>{"one", "two", "three"}));
  const std::string name = input.string();
  EXPECT_EQ(result.sources, (std::vector<std::string>{name + ":2", name + ":5", name + ":8"}));
}

TEST_F(PrepareTest, CountsEverything) {
  const std::string lines =
      R"({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "thinking": "t"}]})"
      "\n"
      R"({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]})"
      "\n"
      R"({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {}}]}]})"
      "\n";
  const std::string texts = text_line("the end of the story") + text_line("");
  const PrepareSummary summary = prepare(options({folder_.write("a.jsonl", lines), folder_.write("b.jsonl", texts)}));
  const Read result = read(folder_ / "out.h5");
  std::int64_t tokens = 0, learned = 0, longest = 0;
  std::vector<std::int64_t> learned_of;
  for (std::size_t s = 0; s < result.samples.size(); ++s) {
    tokens += static_cast<std::int64_t>(result.samples[s].size());
    longest = std::max(longest, static_cast<std::int64_t>(result.samples[s].size()));
    learned_of.push_back(std::ranges::count_if(result.weights[s], [](float w) { return w > 0; }));
    learned += learned_of.back();
  }
  EXPECT_EQ(summary.train.samples(), 5);
  EXPECT_EQ(summary.train.total().tokens, tokens);
  EXPECT_EQ(summary.train.total().learned, learned);
  EXPECT_EQ(summary.train.longest(), longest);
  EXPECT_EQ(summary.train.samples_without_learned(), 2);
  const auto finding = std::ranges::find(summary.lint, LintKind::kNothingLearned, &LintFinding::kind);
  ASSERT_NE(finding, summary.lint.end());
  EXPECT_EQ(finding->count, 2);
  EXPECT_EQ(finding->sources,
            (std::vector<std::string>{(folder_ / "a.jsonl").string() + ":2", (folder_ / "b.jsonl").string() + ":2"}));
  EXPECT_EQ(summary.validation.samples(), 0);
  // "<|channel|>analysis<|message|>t<|end|><|start|>assistant<|channel|>final<|message|>a<|return|>": each message has
  // its own header.
  const Tokenizer tokenizer = Tokenizer::load(kTokenizer);
  const auto size = [&](const char* text) { return static_cast<std::int64_t>(tokenizer.encode(text).size()); };
  const auto analysis = 3 + size("analysis") + size("t");
  const auto final = 4 + size("assistant") + size("final") + size("a");
  const auto call = 3 + size(" to=functions.f") + size("commentary json") + size("{}");
  EXPECT_EQ(learned_of[0], analysis + final);
  EXPECT_EQ(learned_of[2], call);
  EXPECT_EQ(learned_of[3], size("the end of the story") - 1);
  EXPECT_EQ(summary.train.of(SegmentKind::kAnalysis).learned, analysis);
  EXPECT_EQ(summary.train.of(SegmentKind::kToolCalls).learned, call);
  EXPECT_EQ(summary.train.of(SegmentKind::kFinal).learned, final);
  EXPECT_EQ(summary.train.of(SegmentKind::kText).learned, learned_of[3]);
}

TEST_F(PrepareTest, ValidationIsChosenByContentAlone) {
  std::string forth, back;
  for (int i = 0; i < 2000; ++i) {
    forth += text_line("sample " + std::to_string(i));
    back += text_line("sample " + std::to_string(1999 - i)) + text_line("another " + std::to_string(i));
  }
  const auto split = [&](const std::string& lines, double share) {
    auto settings = options({folder_.write("a.jsonl", lines)});
    settings.validation = share;
    settings.validation_out = folder_ / "validation.h5";
    const PrepareSummary summary = prepare(settings);
    const Read train = read(settings.out), validation = read(settings.validation_out);
    EXPECT_EQ(summary.train.samples(), static_cast<std::int64_t>(train.texts.size()));
    EXPECT_EQ(summary.validation.samples(), static_cast<std::int64_t>(validation.texts.size()));
    return std::pair(std::set(train.texts.begin(), train.texts.end()),
                     std::set(validation.texts.begin(), validation.texts.end()));
  };
  const auto [train, validation] = split(forth, 0.1);
  EXPECT_EQ(train.size() + validation.size(), 2000u);
  EXPECT_NEAR(static_cast<double>(validation.size()), 200, 40);  // 3 standard deviations; the draw is fixed
  const auto [other_train, other_validation] = split(back, 0.1);
  EXPECT_EQ(other_train.size() + other_validation.size(), 4000u);
  EXPECT_TRUE(std::ranges::includes(other_train, train));
  EXPECT_TRUE(std::ranges::includes(other_validation, validation));
  // A larger share keeps what a smaller one chose.
  EXPECT_TRUE(std::ranges::includes(split(forth, 0.3).second, validation));
}

TEST_F(PrepareTest, ErrorsNameTheFirstWrongLineAndLeaveNothing) {
  std::string lines;
  for (int i = 1; i <= 9000; ++i) {
    const bool is_wrong = i == 4711 || i == 4712 || i == 8999;
    lines += is_wrong ? "{\"text\": " + std::to_string(i) + "}\n" : text_line("fine");
  }
  const auto good = folder_.write("good.jsonl", text_line("fine"));
  const auto bad = folder_.write("bad.jsonl", lines);
  auto settings = options({good, bad});
  settings.validation = 0.5;
  settings.validation_out = folder_ / "validation.h5";
  for (const int threads : {1, 4}) {
    settings.threads = threads;
    const std::string message = data_error_of([&] { prepare(settings); });
    EXPECT_EQ(message.rfind(bad.string() + ":4711: ", 0), 0u) << message;
    EXPECT_EQ(names(), (std::set<std::string>{"good.jsonl", "bad.jsonl"}));
  }
  // What an earlier run made stays.
  settings.inputs = {good, good, good, good};
  settings.validation = 0;
  prepare(settings);
  settings.inputs = {bad};
  expect_data_error([&] { prepare(settings); }, ":4711: ");
  EXPECT_EQ(read(settings.out).texts.size(), 4u);
  EXPECT_EQ(names(), (std::set<std::string>{"good.jsonl", "bad.jsonl", "out.h5"}));
}

TEST_F(PrepareTest, ErrorsOfEveryKindNameTheLine) {
  const auto expect = [&](const std::string& line, const std::string& part) {
    const std::string good = R"({"messages": [{"role": "user", "content": "fine"}]})";
    const auto input = folder_.write("a.jsonl", good + "\n\n" + line + "\n");
    const std::string message = data_error_of([&] { prepare(options({input})); });
    EXPECT_EQ(message.rfind(input.string() + ":3: ", 0), 0u) << message;
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  expect("{\"text\": \"\xff\"}", "not UTF-8 at byte 11: 0xFF");
  expect("plain words", "not JSON");
  expect("[1, 2]", "not a JSON object");
  expect(R"({"message": []})", "message");
  expect(R"({"messages": []})", "no message");
  expect(R"({"messages": [{"role": "robot", "content": "x"}]})", "robot");
}

TEST_F(PrepareTest, RefusesFilesThatCannotBeRead) {
  expect_data_error([&] { prepare(options({folder_ / "missing.jsonl"})); }, "missing.jsonl: cannot be opened");
  expect_data_error([&] { prepare(options({folder_ / ""})); }, "cannot be opened");
  expect_data_error([&] { prepare(options({folder_.write("empty.jsonl", "\n\n")})); }, "no sample");
  EXPECT_EQ(names(), std::set<std::string>{"empty.jsonl"});
}

TEST_F(PrepareTest, SidesDependOnWhatIsSaidAlone) {
  // Spelling of the JSON, date and turns change, contents do not; all samples of a conversation are on one side.
  std::string plain, spelled;
  for (int i = 0; i < 300; ++i) {
    const std::string n = std::to_string(i);
    plain += R"({"messages": [{"role": "user", "content": "q)" + n + R"("}, {"role": "assistant", "content": "a"}, )" +
             R"({"role": "user", "content": "r"}, {"role": "assistant", "content": "é)" + n + "\"}]}\n";
    spelled += R"({"id": 7, "messages": [{"content": "q)" + n + R"(", "role": "user"}, )" +
               R"({"role": "assistant", "content": "a", "weight": 0.5}, {"role": "user", "content": "r"}, )" +
               R"({"role": "assistant", "content": "\u00e9)" + n + "\"}]}\n";
  }
  const auto held_out = [&](const std::string& lines, const std::string& date, LearnedTurns turns) {
    auto settings = options({folder_.write("a.jsonl", lines)});
    settings.validation = 0.2;
    settings.validation_out = folder_ / "validation.h5";
    settings.harmony.date = date;
    settings.harmony.learn.turns = turns;
    prepare(settings);
    const Read validation = read(settings.validation_out);
    EXPECT_EQ(validation.sources.size() + read(settings.out).sources.size(),
              turns == LearnedTurns::kExpand ? 600u : 300u);
    return std::set(validation.sources.begin(), validation.sources.end());
  };
  const auto expected = held_out(plain, "2026-01-15", LearnedTurns::kAll);
  EXPECT_NEAR(static_cast<double>(expected.size()), 60, 21);  // 3 standard deviations; the draw is fixed
  EXPECT_EQ(held_out(spelled, "2026-07-01", LearnedTurns::kAll), expected);
  EXPECT_EQ(held_out(plain, "2026-07-01", LearnedTurns::kExpand), expected);
}

TEST_F(PrepareTest, SkippedErrorsAreCountedAndTheFirstListed) {
  std::string lines;
  for (int i = 1; i <= 9000; ++i) lines += i % 1000 == 7 ? "{broken\n" : text_line("fine");
  const auto input = folder_.write("a.jsonl", lines);
  auto settings = options({input});
  settings.skip_errors = true;
  for (const int threads : {1, 3}) {
    settings.threads = threads;
    const PrepareSummary summary = prepare(settings);
    EXPECT_EQ(summary.records, 9000);
    EXPECT_EQ(summary.train.samples(), 8991);
    EXPECT_EQ(summary.skipped.count, 9);
    ASSERT_EQ(summary.skipped.first.size(), Occurrences::kListed);
    for (std::size_t i = 0; i < Occurrences::kListed; ++i) {
      EXPECT_EQ(summary.skipped.first[i].rfind(input.string() + ":" + std::to_string(1000 * i + 7) + ": not JSON", 0),
                0u)
          << summary.skipped.first[i];
    }
  }
  settings.inputs = {folder_.write("b.jsonl", "{broken\n[]\n")};
  settings.out = folder_ / "none.h5";
  const std::string message = data_error_of([&] { prepare(settings); });
  EXPECT_NE(message.find("every record is wrong, first " + settings.inputs[0].string() + ":1: "), std::string::npos)
      << message;
  EXPECT_FALSE(names().contains("none.h5"));
}

TEST_F(PrepareTest, LengthIsLimitedSampleBySample) {
  const auto input = folder_.write("a.jsonl", text_line("short") + text_line(std::string(500, 'q')) + text_line("end"));
  auto settings = options({input});
  settings.length = {.max_length = 50, .over_length = OverLength::kError};
  expect_data_error([&] { prepare(settings); }, input.string() + ":2: ");
  settings.skip_errors = true;
  EXPECT_EQ(prepare(settings).skipped.count, 1);
  settings.length.over_length = OverLength::kDrop;
  const PrepareSummary dropped = prepare(settings);
  EXPECT_EQ(dropped.length.dropped.count, 1);
  EXPECT_EQ(dropped.train.samples(), 2);
  settings.length.over_length = OverLength::kSplit;
  const PrepareSummary split = prepare(settings);
  EXPECT_EQ(split.length.split.count, 1);
  const Read result = read(settings.out);
  EXPECT_EQ(result.texts.front(), "short");
  EXPECT_EQ(result.texts.back(), "end");
  EXPECT_EQ(result.sources[1], input.string() + ":2");
}

TEST_F(PrepareTest, WhatProgressThrowsEndsTheWorkAndLeavesNothing) {
  std::string lines;
  for (int i = 0; i < 20000; ++i) lines += text_line("fine");
  auto settings = options({folder_.write("a.jsonl", lines)});
  for (const int threads : {1, 4}) {
    settings.threads = threads;
    EXPECT_THROW(prepare(settings, [](const PrepareProgress&) { throw std::runtime_error("enough"); }),
                 std::runtime_error);
    EXPECT_EQ(names(), std::set<std::string>{"a.jsonl"});
  }
}

TEST_F(PrepareTest, WaitingForInputCanBeEnded) {
  const auto pipe = folder_ / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const int writer = ::open(pipe.c_str(), O_RDWR);  // so that neither opening nor reading finds an end
  const std::string some = text_line("fine");
  ASSERT_EQ(::write(writer, some.data(), some.size()), static_cast<ssize_t>(some.size()));
  auto settings = options({pipe});
  int calls = 0;
  settings.records.while_waiting = [&] {
    if (++calls == 2) throw std::runtime_error("enough");
  };
  settings.threads = 2;
  EXPECT_THROW(prepare(settings), std::runtime_error);
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(names(), std::set<std::string>{"pipe"});
  ::close(writer);
}

TEST_F(PrepareTest, RefusesToWriteOverItsInput) {
  const auto input = folder_.write("a.jsonl", text_line("fine"));
  std::filesystem::create_symlink(input, folder_ / "link.jsonl");
  for (const auto& out : {input, folder_ / "./a.jsonl", folder_ / "link.jsonl"}) {
    auto settings = options({input});
    settings.out = out;
    expect_data_error([&] { prepare(settings); }, "a.jsonl: is both read and to be written");
    settings.out = folder_ / "out.h5";
    settings.validation = 0.5;
    settings.validation_out = out;
    expect_data_error([&] { prepare(settings); }, "a.jsonl: is both read and to be written");
  }
  auto settings = options({input});
  settings.validation = 0.5;
  settings.validation_out = folder_ / "./out.h5";  // the same file by another name
  expect_data_error([&] { prepare(settings); }, "both training and validation");
  EXPECT_EQ(std::filesystem::file_size(input), text_line("fine").size());
  EXPECT_EQ(names(), (std::set<std::string>{"a.jsonl", "link.jsonl"}));
}

}  // namespace
}  // namespace ossature
