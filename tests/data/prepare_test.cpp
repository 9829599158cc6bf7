#include "data/prepare.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "data/harmony.h"
#include "data/token_file.h"
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
    result.date = "2026-01-15";
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
    std::vector<std::int64_t> progress;
    const PrepareSummary summary = prepare(settings, [&](std::int64_t done) { progress.push_back(done); });
    EXPECT_EQ(summary.train.samples, 10000);
    EXPECT_EQ(progress, (std::vector<std::int64_t>{4096, 8192, 10000}));
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
  EXPECT_EQ(summary.train.samples, 5);
  EXPECT_EQ(summary.train.tokens, tokens);
  EXPECT_EQ(summary.train.learned_tokens, learned);
  EXPECT_EQ(summary.train.longest_sample, longest);
  EXPECT_EQ(summary.train.without_learned, 2);  // the second and the last
  EXPECT_EQ(summary.validation.samples, 0);
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
  EXPECT_EQ(summary.train.learned_by_channel[0], analysis);  // plain text has no channel
  EXPECT_EQ(summary.train.learned_by_channel[1], call);
  EXPECT_EQ(summary.train.learned_by_channel[2], final);
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
    EXPECT_EQ(summary.train.samples, static_cast<std::int64_t>(train.texts.size()));
    EXPECT_EQ(summary.validation.samples, static_cast<std::int64_t>(validation.texts.size()));
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
