#include "data/harmony.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "data/formats.h"

namespace ossature {
namespace {

const std::filesystem::path kSource = OSSATURE_SOURCE_DIR;

/// The mask that the template's goldens have, but for the first "<|start|>assistant" of each turn (`header` tokens), which is the prompt.
std::vector<float> without_turn_headers(const std::vector<int>& mask, std::size_t header) {
  std::vector<float> weights(mask.begin(), mask.end());
  for (std::size_t t = 0; t < mask.size(); ++t) {
    if (mask[t] == 1 && (t == 0 || mask[t - 1] == 0)) std::fill_n(weights.begin() + static_cast<std::ptrdiff_t>(t), header, 0.0f);
  }
  return weights;
}

void expect_goldens(const std::filesystem::path& file, const Tokenizer& tokenizer) {
  const std::size_t header = 1 + tokenizer.encode("assistant").size();
  std::ifstream in(file);
  int count = 0;
  for (std::string line; std::getline(in, line); ++count) {
    const auto golden = nlohmann::json::parse(line);
    const Harmony harmony(tokenizer, golden["date"].get<std::string>());
    const RenderedSample sample = harmony.render(std::get<Conversation>(parse_sample(line, DataFormat::kMessages)));
    EXPECT_EQ(harmony.tokenizer().decode(sample.tokens), golden["text"].get<std::string>());
    EXPECT_EQ(sample.tokens, golden["ids"].get<std::vector<std::int32_t>>()) << golden["text"];
    EXPECT_EQ(sample.loss_weights, without_turn_headers(golden["assistant_mask"].get<std::vector<int>>(), header)) << golden["text"];
  }
  EXPECT_GT(count, 5);
}

TEST(Harmony, EqualsTheChatTemplateOnO200kHarmony) {
  const auto shared = kSource / "../shared";
  if (!std::filesystem::exists(shared / "golden/text/chat.jsonl")) return;  // the fixtures below are our own
  expect_goldens(shared / "golden/text/chat.jsonl", Tokenizer::load(shared / "tokenizer"));
}

}  // namespace
}  // namespace ossature
