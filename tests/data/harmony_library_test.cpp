#include "data/harmony_library.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "data/harmony_conversation.h"
#include "data/sha256.h"

namespace ossature {
namespace {

using nlohmann::ordered_json;

const std::filesystem::path kSource = OSSATURE_SOURCE_DIR;

/// What openai-harmony rendered; OSSATURE_HARMONY_FIXTURE names another file that make_harmony_fixture.py made.
std::ifstream open_fixture() {
  const char* other = std::getenv("OSSATURE_HARMONY_FIXTURE");
  return std::ifstream(other != nullptr ? other : kSource / "tests/data/fixtures/harmony.jsonl");
}

Harmony harmony_of(const Tokenizer& tokenizer, bool keep_analysis) {
  HarmonyOptions options;
  options.renderer = HarmonyRenderer::kHarmony;
  options.keep_analysis = keep_analysis;
  return Harmony(tokenizer, options);
}

/// Calls check(conversation, golden, key, tokens) with what we render for each key of the fixture; returns their
/// number.
template <typename Check>
int check_fixture(const Tokenizer& tokenizer, Check check) {
  const Harmony harmony = harmony_of(tokenizer, false), keeping = harmony_of(tokenizer, true);
  std::ifstream in = open_fixture();
  int count = 0;
  for (std::string line; std::getline(in, line) && !testing::Test::HasFailure(); ++count) {
    const ordered_json golden = ordered_json::parse(line);
    const Conversation conversation = harmony_conversation_of(golden["conversation"]);
    SCOPED_TRACE(golden["conversation"].dump());
    check(golden, "kept", keeping.render(conversation).front().tokens);
    check(golden, "training", harmony.render(conversation).front().tokens);
    check(golden, "prompt", harmony.render_prompt(conversation));
  }
  return count;
}

TEST(HarmonyLibrary, EqualsOpenAisLibraryOnOurFixture) {
  const Tokenizer tokenizer = Tokenizer::load(kSource / "tests/data/fixtures");
  const int count = check_fixture(tokenizer, [&](const ordered_json& golden, const char* key, const auto& tokens) {
    EXPECT_EQ(tokenizer.decode(tokens), golden[key].get<std::string>());
  });
  EXPECT_GE(count, 31);
}

TEST(HarmonyLibrary, EqualsOpenAisLibraryOnO200kHarmony) {
  if (!std::filesystem::exists(kSource / "../shared/tokenizer")) GTEST_SKIP() << "needs ../shared";
  const Tokenizer tokenizer = Tokenizer::load(kSource / "../shared/tokenizer");
  const int count = check_fixture(tokenizer, [&](const ordered_json& golden, const char* key, const auto& tokens) {
    const std::string_view bytes(reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(tokens[0]));
    EXPECT_EQ(sha256_hex(bytes), golden["ids"][key].template get<std::string>()) << tokenizer.decode(tokens);
  });
  EXPECT_GE(count, 31);
}

}  // namespace
}  // namespace ossature
