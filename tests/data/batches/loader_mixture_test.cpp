// Several files with weights, several ranks, several workers.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "data/batches/loader.h"
#include "tests/data/errors.h"
#include "tests/data/made_samples.h"
#include "tests/data/temporary_directory.h"

namespace ossature {
namespace {

using Id = std::pair<std::int32_t, std::int64_t>;  // file, sample

std::vector<Id> ids_of(const Batch& batch) {
  std::vector<Id> ids;
  for (std::size_t i = 0; i < batch.sample_ids.size(); ++i)
    ids.emplace_back(batch.sample_files[i], batch.sample_ids[i]);
  return ids;
}

class LoaderMixture : public testing::Test {
 protected:
  LoaderMixture() {
    for (const auto& [samples, name] : {std::pair(&a_, "a.h5"), std::pair(&b_, "b.h5"), std::pair(&c_, "c.h5")}) {
      samples->write(folder_ / name);
      files_.push_back({std::make_shared<const TokenFileReader>(folder_ / name), 1.0});
    }
  }
  [[nodiscard]] std::vector<WeightedFile> weighted(double a, double b, double c) const {
    return {{files_[0].file, a}, {files_[1].file, b}, {files_[2].file, c}};
  }
  void expect_holds(const Batch& batch) const {
    const std::array<const MadeSamples*, 3> all = {&a_, &b_, &c_};
    ASSERT_EQ(batch.sample_offsets.size(), batch.sample_ids.size() + 1);
    for (std::size_t i = 0; i < batch.sample_ids.size(); ++i) {
      expect_sample(batch, i, *all.at(static_cast<std::size_t>(batch.sample_files[i])));
    }
  }

  const TemporaryDirectory folder_;
  const MadeSamples a_{1, made_lengths(1, 40, 60)}, b_{2, made_lengths(2, 31, 30)}, c_{3, {5, 0, 64, 1, 0, 7}};
  std::vector<WeightedFile> files_;
};

TEST_F(LoaderMixture, EachSampleItsWeightTimesAndNoRowOverItsLength) {
  for (const bool packing : {false, true}) {
    for (const bool shuffle : {false, true}) {
      Loader loader(weighted(1, 0.5, 2), {.sequence_length = 64, .packing = packing, .shuffle = shuffle, .seed = 4});
      std::map<Id, int> both;
      for (int epoch = 0; epoch < 2; ++epoch) {
        std::map<Id, int> seen;
        EpochSize size;
        const EpochSize expected = loader.epoch_size();
        const std::int64_t batches = loader.batches_in_epoch();
        for (std::int64_t i = 0; i < batches; ++i) {
          EXPECT_EQ(loader.position(), (LoaderPosition{epoch, i}));
          const Batch batch = loader.next();
          expect_holds(batch);
          EXPECT_LE(batch.tokens.size(), 64u);
          for (const Id& id : ids_of(batch)) ++seen[id], ++both[id];
          size.samples += static_cast<std::int64_t>(batch.sample_ids.size());
          size.tokens += static_cast<std::int64_t>(batch.tokens.size());
          ++size.rows;
        }
        EXPECT_EQ(loader.position(), (LoaderPosition{epoch + 1, 0}));
        EXPECT_EQ(size.samples, expected.samples);
        EXPECT_EQ(size.tokens, expected.tokens);
        EXPECT_EQ(size.rows, expected.rows);
        int halves = 0;
        for (const auto& [id, times] : seen) {
          EXPECT_EQ(times, id.first == 2 ? 2 : 1);
          halves += id.first == 1 ? times : 0;
        }
        EXPECT_NEAR(halves, 15.5, 0.5);
      }
      EXPECT_EQ(both.size(), 40u + 31u + 4u);
      for (const auto& [id, times] : both) EXPECT_EQ(times, id.first == 0 ? 2 : id.first == 1 ? 1 : 4);
      const std::int64_t two_epochs = loader.batches_in(2.0);
      loader.seek({0, 0});
      std::int64_t counted = 0;
      for (; loader.position().epoch < 2; ++counted) (void)loader.next();
      EXPECT_EQ(counted, two_epochs);
    }
  }
}

TEST_F(LoaderMixture, SmallWeightsMayLeaveEpochsEmpty) {
  MadeSamples(7, {5}).write(folder_ / "one.h5");
  Loader loader({{std::make_shared<const TokenFileReader>(folder_ / "one.h5"), 0.25}}, {.sequence_length = 8});
  for (int i = 0; i < 5; ++i) EXPECT_EQ(loader.next().sample_ids, (std::vector<std::int64_t>{0}));
  EXPECT_EQ(loader.batches_in(8.0), 2);
}

TEST_F(LoaderMixture, RanksShareTheBatchesOfEachStepOfOne) {
  for (const double weight : {1.0, 0.7}) {
    const std::vector<WeightedFile> files = weighted(1, weight, 1);
    const auto options = [](std::int64_t rank, std::int64_t num_ranks, std::int64_t batches_per_step) {
      return LoaderOptions{.sequence_length = 64,
                           .seed = 8,
                           .micro_batch_size = 2,
                           .rank = rank,
                           .num_ranks = num_ranks,
                           .batches_per_step = batches_per_step};
    };
    for (const std::int64_t batches_per_step : {5, 6}) {
      for (const std::int64_t num_ranks : {1, 2, 3, 5}) {
        Loader one(files, options(0, 1, 1));
        const std::int64_t steps = one.batches_in(3.0) / batches_per_step;  // across the ends of epochs
        ASSERT_GT(steps, 2);
        std::vector<std::unique_ptr<Loader>> ranks;
        for (std::int64_t rank = 0; rank < num_ranks; ++rank)
          ranks.push_back(std::make_unique<Loader>(files, options(rank, num_ranks, batches_per_step)));
        EXPECT_EQ(ranks.back()->batches_in(3.0), one.batches_in(3.0));
        LoaderPosition position = one.position();
        for (std::int64_t step = 0; step < steps; ++step) {
          // In the middle as a run does that goes on with other ranks than it began with.
          if (step == steps / 2) {
            for (const auto& loader : ranks) loader->seek(position);
          }
          for (std::int64_t i = 0; i < batches_per_step; ++i) {
            const Batch part = ranks[static_cast<std::size_t>(i % num_ranks)]->next();
            expect_holds(part);
            EXPECT_EQ(ids_of(part), ids_of(one.next()))
                << num_ranks << " ranks, step " << step << ", batch " << i << " of " << batches_per_step;
          }
          position = ranks.back()->advanced(position, batches_per_step);
          EXPECT_EQ(position, one.position());
        }
      }
    }
  }
}

TEST_F(LoaderMixture, WorkersDoNotChangeWhatIsReadAndStopsAreExact) {
  const std::vector<WeightedFile> files = weighted(1, 0.7, 2);
  const auto options = [](std::int64_t workers) {
    return LoaderOptions{.sequence_length = 64, .seed = 9, .micro_batch_size = 2, .num_workers = workers};
  };
  Loader straight(files, options(1));
  std::vector<std::vector<Id>> batches;
  const std::int64_t count = straight.batches_in(4.0);
  for (std::int64_t i = 0; i < count; ++i) batches.push_back(ids_of(straight.next()));
  std::mt19937 random(10);
  for (int run = 0; run < 20; ++run) {
    LoaderPosition position;
    std::size_t done = 0;
    while (done < batches.size()) {  // stops after some batches, goes on in a new loader
      Loader loader(files, options(static_cast<std::int64_t>(random() % 5) + 1));
      loader.seek(position);
      for (auto steps = random() % 12; steps > 0 && done < batches.size(); --steps) {
        EXPECT_EQ(ids_of(loader.next()), batches[done++]);
      }
      position = loader.position();
    }
  }
}

TEST_F(LoaderMixture, RefusesAFileThatIsEmptyOrTooLong) {
  MadeSamples(7, {0, 0}).write(folder_ / "empty.h5");
  const auto empty = std::make_shared<const TokenFileReader>(folder_ / "empty.h5");
  expect_data_error([&] { Loader({files_[0], {empty, 1.0}}, {.sequence_length = 64}); }, "empty.h5: holds no token");
  expect_data_error([&] { Loader({files_[0], files_[2]}, {.sequence_length = 63}); }, "c.h5: chats-0.jsonl:3 has 64");
  expect_data_error([&] { Loader({{files_[0].file, 1e9}}, {.sequence_length = 64}); }, "2,147,483,647 samples");
}

}  // namespace
}  // namespace ossature
