#include "data/batches/loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "tests/data/errors.h"
#include "tests/data/made_samples.h"
#include "tests/data/raw_token_file.h"
#include "tests/data/temporary_directory.h"

namespace ossature {
namespace {

class LoaderTest : public testing::Test {
 protected:
  std::shared_ptr<const TokenFileReader> open(const MadeSamples& samples) {
    samples.write(folder_ / "a.h5");
    return std::make_shared<const TokenFileReader>(folder_ / "a.h5");
  }
  const TemporaryDirectory folder_;
};

/// The batch holds exactly the tokens and weights of the samples that it names.
void expect_holds(const Batch& batch, const MadeSamples& samples) {
  ASSERT_EQ(batch.sample_offsets.size(), batch.sample_ids.size() + 1);
  ASSERT_EQ(batch.loss_weights.size(), batch.tokens.size());
  EXPECT_EQ(batch.sample_offsets.front(), 0);
  EXPECT_EQ(batch.sample_offsets.back(), static_cast<std::int64_t>(batch.tokens.size()));
  for (std::size_t i = 0; i < batch.sample_ids.size(); ++i) expect_sample(batch, i, samples);
}

using Ids = std::vector<std::int64_t>;

/// The samples of the next epoch, batch by batch.
std::vector<Ids> epoch_of(Loader& loader, const MadeSamples& samples) {
  std::vector<Ids> batches;
  for (std::int64_t i = 0; i < loader.batches_in_epoch(); ++i) {
    const Batch batch = loader.next();
    expect_holds(batch, samples);
    batches.push_back(batch.sample_ids);
  }
  return batches;
}

Ids flat(const std::vector<Ids>& batches) {
  Ids ids;
  for (const Ids& batch : batches) ids.insert(ids.end(), batch.begin(), batch.end());
  return ids;
}

Ids sorted(Ids ids) {
  std::sort(ids.begin(), ids.end());
  return ids;
}

Ids all_of(const MadeSamples& samples) {
  Ids ids(static_cast<std::size_t>(samples.size()));
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

TEST_F(LoaderTest, EverySampleOnceAnEpochWhateverTheOptions) {
  const MadeSamples samples(1, made_lengths(1, 57, 60));
  const auto file = open(samples);
  for (const bool packing : {false, true}) {
    for (const bool shuffle : {false, true}) {
      for (const std::int64_t rows : {1, 3, 1000}) {
        Loader loader(
            file, {.sequence_length = 64, .packing = packing, .shuffle = shuffle, .seed = 3, .micro_batch_size = rows});
        for (int epoch = 0; epoch < 2; ++epoch) {
          const auto batches = epoch_of(loader, samples);
          EXPECT_EQ(sorted(flat(batches)), all_of(samples));
          EXPECT_EQ(loader.position(), (LoaderPosition{epoch + 1, 0}));
          if (!packing && !shuffle) {
            EXPECT_EQ(flat(batches), all_of(samples));
          }
        }
        if (!packing) {
          EXPECT_EQ(loader.batches_in_epoch(), (57 + rows - 1) / rows);
        }
      }
    }
  }
}

TEST_F(LoaderTest, PackedRowsFitAndUnpackedRowsAreSingleSamples) {
  const MadeSamples samples(2, made_lengths(2, 100, 64));
  const auto file = open(samples);
  Loader packed(file, {.sequence_length = 64});
  const auto rows = epoch_of(packed, samples);
  for (const Ids& row : rows) {
    std::int64_t used = 0;
    for (const auto s : row) used += static_cast<std::int64_t>(samples.tokens_of(s).size());
    EXPECT_LE(used, 64);
  }
  EXPECT_LT(rows.size(), 80u);
  EXPECT_DOUBLE_EQ(packed.packing_efficiency(),
                   static_cast<double>(samples.tokens.size()) / (64.0 * static_cast<double>(rows.size())));
  Loader unpacked(file, {.sequence_length = 64, .packing = false});
  for (const Ids& row : epoch_of(unpacked, samples)) EXPECT_EQ(row.size(), 1u);
  EXPECT_DOUBLE_EQ(unpacked.packing_efficiency(), static_cast<double>(samples.tokens.size()) / (64.0 * 100));
}

TEST_F(LoaderTest, ShufflesBySeedAndEpoch) {
  const MadeSamples samples(3, made_lengths(3, 40, 30));
  const auto file = open(samples);
  for (const bool packing : {false, true}) {
    std::set<Ids> orders;
    for (const std::uint64_t seed : {1, 2}) {
      Loader first(file, {.sequence_length = 64, .packing = packing, .seed = seed});
      Loader second(file, {.sequence_length = 64, .packing = packing, .seed = seed});
      for (int epoch = 0; epoch < 3; ++epoch) {
        const auto batches = epoch_of(first, samples);
        EXPECT_EQ(batches, epoch_of(second, samples));
        orders.insert(flat(batches));
      }
    }
    EXPECT_EQ(orders.size(), 6u);
  }
}

TEST_F(LoaderTest, GoesOnExactlyFromAnyBatch) {
  const MadeSamples samples(4, made_lengths(4, 30, 40));
  const auto file = open(samples);
  const LoaderOptions options{.sequence_length = 64, .seed = 5, .micro_batch_size = 2};
  Loader straight(file, options);
  const std::int64_t count = 2 * straight.batches_in_epoch() + 3;
  std::vector<LoaderPosition> positions;
  std::vector<Ids> batches;
  for (std::int64_t i = 0; i < count; ++i) {
    positions.push_back(straight.position());
    batches.push_back(straight.next().sample_ids);
  }
  Loader jumping(file, options);
  for (std::size_t i = batches.size(); i-- > 0;) {
    Loader resumed(file, options);
    resumed.seek(positions[i]);
    jumping.seek(positions[i]);  // from wherever it is, while it reads ahead
    EXPECT_EQ(jumping.position(), positions[i]);
    for (std::size_t j = i; j < std::min(i + 7, batches.size()); ++j) {
      EXPECT_EQ(resumed.next().sample_ids, batches[j]);
      EXPECT_EQ(jumping.next().sample_ids, batches[j]);
    }
  }
  // The end of an epoch is the beginning of the next.
  jumping.seek({0, jumping.batches_in_epoch()});
  EXPECT_EQ(jumping.position(), (LoaderPosition{1, 0}));
  EXPECT_EQ(jumping.next().sample_ids, batches[static_cast<std::size_t>(jumping.batches_in_epoch())]);
}

TEST_F(LoaderTest, LeavesOutSamplesWithoutTokens) {
  const MadeSamples samples(5, {0, 4, 0, 0, 5, 0});
  Loader loader(open(samples), {.sequence_length = 5});
  EXPECT_EQ(loader.batches_in_epoch(), 2);
  EXPECT_EQ(sorted(flat(epoch_of(loader, samples))), (Ids{1, 4}));
}

TEST_F(LoaderTest, StopsWhereverItIs) {
  const auto file = open(MadeSamples(6, made_lengths(6, 50, 30)));
  for (int taken = 0; taken < 12; ++taken) {
    Loader loader(file, {.sequence_length = 32});
    for (int i = 0; i < taken; ++i) (void)loader.next();
  }
}

TEST_F(LoaderTest, RefusesASampleThatIsTooLong) {
  const auto file = open(MadeSamples(7, {3, 0, 8, 9, 10}));
  Loader(file, {.sequence_length = 10});
  for (const bool packing : {false, true}) {
    const std::string message = data_error_of([&] { Loader(file, {.sequence_length = 8, .packing = packing}); });
    EXPECT_EQ(message.rfind(file->path().string() + ": chats-0.jsonl:4 has 9 tokens", 0), 0u) << message;
    EXPECT_NE(message.find("data.sequence_length is 8"), std::string::npos) << message;
  }
}

TEST_F(LoaderTest, RefusesAFileWithoutTokens) {
  expect_data_error([&] { Loader(open(MadeSamples(8, {})), {}); }, "holds no token");
  expect_data_error([&] { Loader(open(MadeSamples(8, {0, 0})), {}); }, "holds no token");
}

TEST_F(LoaderTest, ErrorsOfItsThreadReachTheCaller) {
  RawTokenFile raw;
  raw.tokens.assign(40, 1);
  raw.loss_weights.assign(40, 1);
  raw.sample_offsets.clear();
  for (std::int64_t offset = 0; offset <= 40; offset += 2) raw.sample_offsets.push_back(offset);
  raw.tokens[25] = 100;  // no token of the vocabulary
  raw.write(folder_ / "a.h5");
  Loader loader(std::make_shared<const TokenFileReader>(folder_ / "a.h5"),
                {.sequence_length = 4, .packing = false, .shuffle = false});
  for (std::int64_t i = 0; i < 12; ++i) EXPECT_EQ(loader.next().sample_ids, Ids{i});
  for (int i = 0; i < 3; ++i) {
    expect_data_error([&] { (void)loader.next(); }, "/tokens[25] is 100");
    EXPECT_EQ(loader.position(), (LoaderPosition{0, 12}));
  }
  loader.seek({0, 13});
  EXPECT_EQ(loader.next().sample_ids, Ids{13});
}

}  // namespace
}  // namespace ossature
