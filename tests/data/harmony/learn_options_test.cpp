#include "data/harmony/learn_options.h"

#include <gtest/gtest.h>

#include "tests/data/errors.h"

namespace ossature {
namespace {

TEST(LearnOptionsText, NamesWhatItChanges) {
  const LearnOptions options = learn_options("final=2,analysis=0.5,tool_calls=0,user=1e-1");
  EXPECT_FLOAT_EQ(options.final, 2.0f);
  EXPECT_FLOAT_EQ(options.analysis, 0.5f);
  EXPECT_FLOAT_EQ(options.tool_calls, 0.0f);
  EXPECT_FLOAT_EQ(options.user, 0.1f);
  const LearnOptions untouched;
  EXPECT_FLOAT_EQ(options.commentary, untouched.commentary);
  EXPECT_FLOAT_EQ(options.tool, untouched.tool);
}

TEST(LearnOptionsText, RefusesTheRest) {
  for (const char* text : {"", ",", "final", "final=", "final=x", "final=1x", "final=-1", "final=nan", "final=inf",
                           "final=1001", "finale=1", "Final=1", "final=1,", "final=1,final=2", "final =1", "=1"}) {
    expect_data_error([&] { (void)learn_options(text); }, "expected NAME=FACTOR");
  }
}

}  // namespace
}  // namespace ossature
