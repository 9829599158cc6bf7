// Every copy of a kernel that this processor can run, as parameters of a test.
#pragma once

#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "model/kernels/processor.h"

namespace ossature::testing {

inline std::vector<Instructions> instruction_levels() {
  std::vector<Instructions> levels;
  for (const auto level :
       {Instructions::kPlain, Instructions::kAvx2, Instructions::kAvx512, Instructions::kAvx512Bf16}) {
    if (level <= instructions()) levels.push_back(level);
  }
  return levels;
}

/// A test of a case at one level, which holds until its end.
template <typename Case>
class AtEachLevel : public ::testing::TestWithParam<std::tuple<Case, Instructions>> {
 protected:
  [[nodiscard]] static const Case& param() {
    return std::get<0>(::testing::TestWithParam<std::tuple<Case, Instructions>>::GetParam());
  }

 private:
  InstructionsLimit limit_{std::get<1>(this->GetParam())};
};

}  // namespace ossature::testing
