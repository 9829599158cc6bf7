// A test of kernels that exist for processors with AVX512-BF16 only: on others there is nothing to test.
#pragma once

#include <gtest/gtest.h>

#include "model/bf16_tiles.h"

namespace ossature::testing {

template <typename Case>
class NeedsTiles : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (!tiles::available()) GTEST_SKIP() << "this processor has no AVX512-BF16";
  }
};

}  // namespace ossature::testing
