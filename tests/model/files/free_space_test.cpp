#include "model/files/free_space.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <limits>
#include <system_error>

#include "tests/malformed/scratch.h"

namespace ossature {
namespace {

TEST(FreeSpace, EnoughIsNoError) {
  const Scratch scratch;
  EXPECT_NO_THROW(check_free_space(scratch.path(), 1));
  EXPECT_NO_THROW(check_free_space(scratch.path() / "not/there/yet", 1));
  EXPECT_NO_THROW(check_free_space("not-there-yet", 1));
}

TEST(FreeSpaceFails, AndTellsBothNumbers) {
  const Scratch scratch;
  constexpr std::uint64_t kNeeded = std::numeric_limits<std::uint64_t>::max();
  try {
    check_free_space(scratch.path() / "new/out", kNeeded);
    FAIL() << "no disk has that much";
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code().value(), ENOSPC);
    const std::string what = error.what();
    EXPECT_TRUE(what.starts_with((scratch.path() / "new/out").string() + ": needs " + std::to_string(kNeeded))) << what;
    EXPECT_NE(what.find(" free;"), std::string::npos) << what;
  }
}

}  // namespace
}  // namespace ossature
