// Folders on the way to an output: made, kept if it came to be, gone if not.
#include "model/files/made_folders.h"

#include <gtest/gtest.h>

#include "tests/malformed/scratch.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

TEST(MadeFolders, GoAgainWhileTheyAreEmpty) {
  const Scratch scratch;
  fs::create_directory(scratch.path() / "theirs");
  {
    const MadeFolders made(scratch.path() / "theirs/a/b");
    EXPECT_TRUE(fs::is_directory(scratch.path() / "theirs/a/b"));
  }
  EXPECT_TRUE(fs::is_empty(scratch.path() / "theirs"));  // which was there before, so it stays
  {
    const MadeFolders made(scratch.path() / "theirs/a/b");
    scratch.write("theirs/a/file", "x");
  }
  EXPECT_TRUE(fs::exists(scratch.path() / "theirs/a/file"));
  EXPECT_FALSE(fs::exists(scratch.path() / "theirs/a/b"));
  { const MadeFolders made(scratch.path() / "theirs"); }
  EXPECT_TRUE(fs::is_directory(scratch.path() / "theirs"));
}

TEST(MadeFolders, LeavesWhatCannotBeMadeToTheWriter) {
  const Scratch scratch;
  const fs::path file = scratch.write("file", "x");
  EXPECT_NO_THROW(MadeFolders(file / "a/b"));
  EXPECT_NO_THROW(MadeFolders("/proc/ossature-test/a"));
  EXPECT_NO_THROW(MadeFolders(""));
  EXPECT_EQ(read_bytes(file), "x");
}

}  // namespace
}  // namespace ossature
