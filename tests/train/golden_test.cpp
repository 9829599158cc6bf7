// Five optimizer steps against transformers 5.18 and peft 0.21 in float32.
#include <gtest/gtest.h>

#include <algorithm>

#include <ATen/ATen.h>

#include "model/adapter/loaded_model.h"
#include "tests/support/golden.h"
#include "train/optimizer/optimizer.h"

namespace ossature {
namespace {

using testing::Golden;

class FiveSteps : public ::testing::TestWithParam<std::string> {
 protected:
  Golden golden_{GetParam()};
  LoadedModel model_ = load_model(golden_.dir() / "hf", golden_.dir() / "adapter", at::kFloat);

  /// The steps' losses. `accumulated`: each row is a micro-batch of its own.
  std::vector<double> train(bool accumulated) {
    AdamW optimizer(model_.adapter->parameters(), {0.9, 0.999, 1e-8, 0.01, 1.0});
    std::vector<double> losses;
    for (int step = 0; step < 5; ++step) {
      LossSum sum;
      const auto add = [&](const TokenRows& rows) {
        const LossSum part = backpropagate(model_.transformer, rows, {});
        sum.loss += part.loss;
        sum.weight += part.weight;
      };
      if (accumulated) {
        for (std::int64_t n = 0; n < golden_.num_rows(); ++n) add(golden_.row(n));
      } else {
        add(golden_.rows());
      }
      losses.push_back(sum.loss / sum.weight);
      optimizer.step(1e-2, sum.weight);
    }
    return losses;
  }

  void expect_trained_as_the_peers() const {
    const Lora trained = read_adapter(golden_.dir() / "adapter-trained", model_.checkpoint.config());
    const at::Tensor& expected = trained.parameters().values();
    const double largest = expected.abs().max().item<double>();
    EXPECT_LT((model_.adapter->parameters().values() - expected).abs().max().item<double>(), 1e-2 * largest);
  }

  void expect_losses(const std::vector<double>& found) const {
    const at::Tensor expected = golden_.tensor("train.losses");
    ASSERT_EQ(expected.numel(), 5);
    for (std::int64_t i = 0; i < 5; ++i) {
      EXPECT_NEAR(found[static_cast<std::size_t>(i)], expected[i].item<double>(), 1e-3) << "step " << i;
    }
  }
};

TEST_P(FiveSteps, BothRowsAtOnce) {
  expect_losses(train(false));
  expect_trained_as_the_peers();
}

TEST_P(FiveSteps, ARowAtATime) {
  expect_losses(train(true));
  expect_trained_as_the_peers();
}

INSTANTIATE_TEST_SUITE_P(Peers, FiveSteps, ::testing::ValuesIn(testing::golden_dirs()), testing::golden_test_name);

}  // namespace
}  // namespace ossature
