#include "train/failure/failure.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>

#include "data/data_error.h"
#include "model/files/checkpoint_error.h"
#include "train/failure/errors.h"
#include "train/recipe/recipe.h"

namespace ossature {
namespace {

int code_of(const std::exception& error) {
  return describe_failure(error).exit_code;
}

std::filesystem::filesystem_error path_error(std::errc code) {
  return {"open", "file", std::make_error_code(code)};
}

TEST(Failure, ExitCodesAreTheContracts) {
  EXPECT_EQ(code_of(RecipeError("r")), 2);
  EXPECT_EQ(code_of(CheckpointError("c")), 3);
  EXPECT_EQ(code_of(DataError("d")), 3);
  EXPECT_EQ(code_of(path_error(std::errc::no_such_file_or_directory)), 3);
  EXPECT_EQ(code_of(path_error(std::errc::permission_denied)), 3);
  EXPECT_EQ(code_of(std::system_error(ENOENT, std::generic_category())), 3);
  EXPECT_EQ(code_of(std::system_error(EACCES, std::generic_category())), 3);
  EXPECT_EQ(code_of(NonFiniteError("n")), 4);
  EXPECT_EQ(code_of(path_error(std::errc::no_space_on_device)), 5);
  EXPECT_EQ(code_of(std::system_error(std::make_error_code(std::errc::io_error))), 5);
  EXPECT_EQ(code_of(std::system_error(ENOSPC, std::system_category())), 5);
  EXPECT_EQ(code_of(std::bad_alloc()), 5);
  EXPECT_EQ(code_of(InterruptedError("i")), 130);
  EXPECT_EQ(code_of(std::logic_error("l")), 1);
}

TEST(Failure, OnlyBugsAreCalledBugs) {
  EXPECT_EQ(describe_failure(CheckpointError("why")).message, "why");
  EXPECT_NE(describe_failure(std::logic_error("why")).message.find("why\nThis is a bug"), std::string::npos);
}

TEST(Failure, LibTorchErrorsComeWithoutTheirBacktrace) {
  try {
    TORCH_CHECK(false, "shapes differ");
  } catch (const c10::Error& error) {
    const Failure failure = describe_failure(error);
    EXPECT_EQ(failure.exit_code, 1);
    EXPECT_TRUE(failure.message.starts_with("shapes differ")) << failure.message;
    EXPECT_EQ(failure.message.find("frame #"), std::string::npos) << failure.message;
  }
}

TEST(Failure, RefusedAllocationIsOutOfMemory) {
  try {
    static_cast<void>(at::empty({std::int64_t{1} << 60}));
    FAIL() << "an exbibyte was allocated";
  } catch (const std::exception& error) {
    EXPECT_EQ(code_of(error), 5) << error.what();
  }
}

}  // namespace
}  // namespace ossature
