#include "train/reports/inspection.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/token_file/token_file.h"
#include "tests/malformed/scratch.h"

namespace ossature {
namespace {

using nlohmann::json;

TEST(Inspection, TokenFile) {
  const Scratch scratch;
  const std::filesystem::path path = scratch.path() / "train.h5";
  TokenFileWriter writer(path, 1000, "");
  writer.add(std::vector<std::int32_t>{1, 2, 3}, std::vector<float>{0, 1, 0.5F});
  writer.add(std::vector<std::int32_t>{4, 5, 6, 7}, std::vector<float>{0, 0, 0, 1});
  writer.finish();
  const json report = json::parse(to_json(inspect(path)));
  EXPECT_EQ(report["kind"], "token file");
  EXPECT_EQ(report["samples"], 2);
  EXPECT_EQ(report["tokens"], 7);
  EXPECT_EQ(report["learned_tokens"], 3);
  EXPECT_EQ(report["weight_sum"], 2.5);
  EXPECT_EQ(report["longest_sample"], 4);
  EXPECT_EQ(report["vocab_size"], 1000);
  EXPECT_EQ(report["tokenizer_sha256"], "unknown");
  EXPECT_EQ(report["stored_bytes"], std::filesystem::file_size(path));
  EXPECT_EQ(report["mean_length"], 3.5);
  EXPECT_EQ(report["samples_without_learned_tokens"], 0);
  EXPECT_EQ(report["lengths"], json::parse(R"([{"from": 2, "to": 3, "samples": 1, "share": 0.5},
                                               {"from": 4, "to": 7, "samples": 1, "share": 0.5}])"));
  EXPECT_EQ(report["channels"], json::array()) << "harmony's ids do not fit 1,000";
}

TEST(Inspection, ChannelsOfATokenFile) {
  const Scratch scratch;
  const std::filesystem::path path = scratch.path() / "train.h5";
  TokenFileWriter writer(path, 201'088, "");
  // <|start|>user<|message|>A<|end|><|start|>assistant<|channel|>final<|message|>A<|return|>
  writer.add(
      std::vector<std::int32_t>{200006, 1428, 200008, 32, 200007, 200006, 173781, 200005, 17196, 200008, 32, 200002},
      std::vector<float>{0, 0, 0, 0, 0, 0, 0, 0.5F, 0.5F, 0.5F, 0.5F, 0.5F});
  writer.add({}, {});
  writer.finish();
  const json report = json::parse(to_json(inspect(path)));
  EXPECT_EQ(report["channels"], json::parse(R"([{"channel": "final", "segments": 1, "tokens": 7, "learned_tokens": 5,
                                                 "learned_share": 1.0, "mean_weight": 0.5},
                                                {"channel": "other_messages", "segments": 1, "tokens": 5,
                                                 "learned_tokens": 0, "learned_share": 0.0, "mean_weight": 0.0}])"));
  EXPECT_EQ(report["samples_without_learned_tokens"], 1);
  EXPECT_NE(to_text(inspect(path)).find("\n     0    0         1   50.0 %   ####"), std::string::npos)
      << to_text(inspect(path));
}

TEST(Inspection, FileThatIsNoTokenFileIsRefused) {
  const Scratch scratch;
  EXPECT_THROW((void)inspect(scratch.write("train.h5", "not HDF5")), DataError);
}

Inspection example() {
  return {
      "example",
      "a/path",
      {{"count", std::int64_t{-1234567}},
       {"small", std::int64_t{999}},
       {"loss", 1.5},
       {"large_bytes", std::int64_t{13'761'264'768}},
       {"small_bytes", std::int64_t{999}},
       {"names", std::vector<std::string>{"a", "b"}},
       {"nothing", std::vector<std::string>{}},
       {"flag", false},
       {"text", "\x1b[31m"}},
      {{"rows", {"name", "bytes"}, {{"x", std::int64_t{1000}}, {"long name", std::int64_t{20}}}}, {"none", {"a"}, {}}}};
}

TEST(Inspection, TextIsAlignedAndSafeForATerminal) {
  EXPECT_EQ(to_text(example()), R"(example a/path
  count     -1,234,567
  small     999
  loss      1.5
  large     13.76 GB
  small     999 B
  names     a, b
  nothing   none
  flag      false
  text      ?[31m

  name           size
  x           1.00 kB
  long name      20 B
)");
}

TEST(Inspection, JsonHoldsPlainValues) {
  const json root = json::parse(to_json(example()));
  EXPECT_EQ(root["kind"], "example");
  EXPECT_EQ(root["count"], -1234567);
  EXPECT_EQ(root["large_bytes"], 13'761'264'768);
  EXPECT_EQ(root["names"], (json{"a", "b"}));
  EXPECT_EQ(root["nothing"], json::array());
  EXPECT_EQ(root["flag"], false);
  EXPECT_EQ(root["rows"][1], (json{{"name", "long name"}, {"bytes", 20}}));
  EXPECT_EQ(root["none"], json::array());
  Inspection odd;
  odd.fields = {{"loss", std::numeric_limits<double>::quiet_NaN()}, {"text", "\xff"}};
  EXPECT_TRUE(json::parse(to_json(odd))["loss"].is_null());
}

}  // namespace
}  // namespace ossature
