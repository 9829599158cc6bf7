#include "data/tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>

namespace ossature {
namespace {

const std::filesystem::path kSource = OSSATURE_SOURCE_DIR;

TEST(Tokenizer, EqualsTheTokenizersLibraryOnO200kHarmony) {
  const auto shared = kSource / "../shared";
  if (!std::filesystem::exists(shared / "golden/text/tokens.jsonl")) return;  // the fixtures below are our own
  const Tokenizer tokenizer = Tokenizer::load(shared / "tokenizer");
  EXPECT_EQ(tokenizer.vocab_size(), 200019);
  EXPECT_EQ(tokenizer.special("<|start|>"), 200006);
  std::ifstream in(shared / "golden/text/tokens.jsonl");
  int count = 0;
  for (std::string line; std::getline(in, line); ++count) {
    const auto golden = nlohmann::json::parse(line);
    const auto text = golden["text"].get<std::string>();
    const auto ids = golden["ids"].get<std::vector<std::int32_t>>();
    EXPECT_EQ(tokenizer.encode(text), ids) << text;
    EXPECT_EQ(tokenizer.decode(ids), text);
  }
  EXPECT_GT(count, 100);
}

}  // namespace
}  // namespace ossature
