#include "data/batches/sequential_reader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/data/made_samples.h"
#include "tests/data/temporary_directory.h"

namespace ossature {
namespace {

std::shared_ptr<const TokenFileReader> write_and_open(const MadeSamples& samples, const std::filesystem::path& path) {
  samples.write(path);
  return std::make_shared<const TokenFileReader>(path);
}

TEST(SequentialReader, GivesAllSamplesOnceInOrder) {
  const TemporaryDirectory folder;
  const MadeSamples samples(9, {5, 0, 5, 1, 30, 9, 1, 0, 3});
  SequentialReader reader(write_and_open(samples, folder / "a.h5"), 10);
  std::vector<std::vector<std::int64_t>> batches;
  while (const auto batch = reader.next()) {
    ASSERT_EQ(batch->sample_offsets.size(), batch->sample_ids.size() + 1);
    EXPECT_EQ(batch->sample_files, std::vector<std::int32_t>(batch->sample_ids.size(), 0));
    for (std::size_t i = 0; i < batch->sample_ids.size(); ++i) {
      const auto first = static_cast<std::size_t>(batch->sample_offsets[i]);
      const auto size = static_cast<std::size_t>(batch->sample_offsets[i + 1]) - first;
      EXPECT_TRUE(
          std::ranges::equal(std::span(batch->tokens).subspan(first, size), samples.tokens_of(batch->sample_ids[i])));
      EXPECT_TRUE(std::ranges::equal(std::span(batch->loss_weights).subspan(first, size),
                                     samples.weights_of(batch->sample_ids[i])));
    }
    batches.push_back(batch->sample_ids);
  }
  EXPECT_EQ(batches, (std::vector<std::vector<std::int64_t>>{{0, 1, 2}, {3}, {4}, {5, 6, 7}, {8}}));
  EXPECT_FALSE(reader.next());
}

TEST(SequentialReader, OfNothing) {
  const TemporaryDirectory folder;
  EXPECT_FALSE(SequentialReader(write_and_open(MadeSamples(9, {}), folder / "a.h5"), 10).next());
}

}  // namespace
}  // namespace ossature
