// A directory that appears complete or not at all.
#include "model/files/staging_directory.h"

#include <gtest/gtest.h>

#include "model/files/checkpoint_error.h"
#include "tests/malformed/scratch.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

void put(const fs::path& file, const std::string& text) {
  std::ofstream(file) << text;
}

TEST(StagingDirectory, AppearsWhenCommitted) {
  const Scratch scratch;
  const fs::path out = scratch.path() / "a/b/out";
  {
    StagingDirectory staging(out);
    EXPECT_EQ(staging.path().parent_path(), out.parent_path());  // the same file system, so a rename will do
    put(staging.path() / "file", "x");
    EXPECT_FALSE(fs::exists(out));
    staging.commit();
  }
  EXPECT_EQ(read_bytes(out / "file"), "x");
  EXPECT_EQ(std::distance(fs::directory_iterator(out.parent_path()), {}), 1);
}

TEST(StagingDirectory, TakesThePlaceOfAnEmptyDirectory) {
  const Scratch scratch;
  fs::create_directory(scratch.path() / "out");
  StagingDirectory staging(scratch.path() / "out/");
  put(staging.path() / "file", "x");
  staging.commit();
  EXPECT_EQ(read_bytes(scratch.path() / "out/file"), "x");
}

TEST(StagingDirectoryFails, AndLeavesNothing) {
  const Scratch scratch;
  fs::create_directory(scratch.path() / "theirs");
  {
    StagingDirectory staging(scratch.path() / "theirs/new/out");
    put(staging.path() / "file", "x");
  }
  EXPECT_TRUE(fs::is_empty(scratch.path() / "theirs"));  // which was there before, so it stays
  {
    StagingDirectory staging(scratch.path() / "new/out");
    put(scratch.path() / "new/other", "somebody else's");
  }
  EXPECT_EQ(read_bytes(scratch.path() / "new/other"), "somebody else's");
}

TEST(StagingDirectory, RemovesWhatAKilledProcessLeftAndNothingElse) {
  const Scratch scratch;
  const fs::path out = scratch.path() / "out";
  scratch.write("out.partial-1/file", "left by a process that was killed");
  scratch.write("out.partial-mine/file", "x");
  scratch.write("other.partial-1/file", "x");
  StagingDirectory first(out);
  EXPECT_FALSE(fs::exists(scratch.path() / "out.partial-1"));
  EXPECT_TRUE(fs::exists(scratch.path() / "out.partial-mine/file"));
  EXPECT_TRUE(fs::exists(scratch.path() / "other.partial-1/file"));
  // One that is being filled stays.
  put(first.path() / "file", "x");
  const fs::path filled = scratch.path() / "out.partial-2";
  fs::rename(first.path(), filled);
  StagingDirectory second(out);
  EXPECT_EQ(read_bytes(filled / "file"), "x");
}

TEST(StagingDirectoryRefuses, WhatIsThere) {
  const Scratch scratch;
  const fs::path file = scratch.write("file", "x");
  scratch.write("full/file", "x");
  EXPECT_THROW(StagingDirectory{file}, CheckpointError);
  EXPECT_THROW(StagingDirectory{scratch.path() / "full"}, CheckpointError);
  EXPECT_EQ(std::distance(fs::directory_iterator(scratch.path()), {}), 2);
}

}  // namespace
}  // namespace ossature
