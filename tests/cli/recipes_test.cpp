#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "tests/cli/run_program.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

std::string read(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

TEST(RecipesCommand, ListsEveryRecipeWithItsTitle) {
  const ProgramResult result = run_program({"recipes", "ls"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  int count = 0;
  for (const auto& entry : fs::recursive_directory_iterator(OSSATURE_SOURCE_DIR "/recipes")) {
    if (entry.path().extension() != ".yaml") continue;
    ++count;
    EXPECT_NE(("\n" + result.out).find("\n" + entry.path().stem().string() + " "), std::string::npos) << entry.path();
  }
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '\n'), count);
}

TEST(RecipesCommand, CopiesARecipeButOverNothing) {
  std::string pattern = (fs::temp_directory_path() / "ossature-recipes-XXXXXX").string();
  ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
  const std::string copy = pattern + "/mine.yaml";
  const std::string listed = run_program({"recipes", "ls"}).out;
  const std::string name = listed.substr(0, listed.find(' '));
  ProgramResult result = run_program({"recipes", "cp", name, copy});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const std::string text = read(copy);
  EXPECT_NE(text.find("base_model:"), std::string::npos);
  result = run_program({"recipes", "cp", name, copy});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_NE(result.err.find("exists"), std::string::npos) << result.err;
  EXPECT_EQ(read(copy), text);
  fs::remove_all(pattern);
}

TEST(RecipesCommand, KeysShowDefaultsAndRanges) {
  const ProgramResult result = run_program({"recipes", "keys"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.out.find("train.learning_rate: 2.0e-04\n"), std::string::npos) << result.out;
  EXPECT_NE(result.out.find("(a number > 0 and <= 1)"), std::string::npos) << result.out;
  EXPECT_NE(result.out.find("base_model: (required)\n"), std::string::npos) << result.out;
}

}  // namespace
}  // namespace ossature
