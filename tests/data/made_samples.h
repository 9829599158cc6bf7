// Samples made from a seed, and token files of them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "data/batches/batch.h"
#include "data/token_file/token_file.h"

namespace ossature {

struct MadeSamples {
  static constexpr std::int64_t kVocabSize = 1000;

  std::vector<std::int32_t> tokens;
  std::vector<float> loss_weights;
  std::vector<std::int64_t> offsets{0};

  MadeSamples(std::uint64_t seed, const std::vector<std::int64_t>& lengths) {
    std::mt19937_64 random(seed);
    for (const std::int64_t length : lengths) {
      for (std::int64_t i = 0; i < length; ++i) {
        tokens.push_back(static_cast<std::int32_t>(random() % kVocabSize));
        loss_weights.push_back(static_cast<float>(random() % 3) * 0.5f);
      }
      offsets.push_back(static_cast<std::int64_t>(tokens.size()));
    }
  }
  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(offsets.size()) - 1; }
  [[nodiscard]] std::span<const std::int32_t> tokens_of(std::int64_t s) const { return part(tokens, s); }
  [[nodiscard]] std::span<const float> weights_of(std::int64_t s) const { return part(loss_weights, s); }
  [[nodiscard]] static std::string source_of(std::int64_t s) {
    return "chats-" + std::to_string(s / 4) + ".jsonl:" + std::to_string(s + 1);
  }
  void write(const std::filesystem::path& path) const {
    TokenFileWriter writer(path, kVocabSize, std::string(64, 'a'));
    for (std::int64_t s = 0; s < size(); ++s) writer.add(tokens_of(s), weights_of(s), source_of(s));
    writer.finish();
  }

 private:
  template <typename T>
  [[nodiscard]] std::span<const T> part(const std::vector<T>& values, std::int64_t s) const {
    const auto first = offsets[static_cast<std::size_t>(s)], end = offsets[static_cast<std::size_t>(s) + 1];
    return std::span(values).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(end - first));
  }
};

/// Sample `i` of the batch has exactly the tokens and weights of the made sample that it names.
inline void expect_sample(const Batch& batch, std::size_t i, const MadeSamples& samples) {
  const auto first = static_cast<std::size_t>(batch.sample_offsets[i]);
  const auto size = static_cast<std::size_t>(batch.sample_offsets[i + 1]) - first;
  EXPECT_TRUE(std::ranges::equal(std::span(batch.tokens).subspan(first, size), samples.tokens_of(batch.sample_ids[i])));
  EXPECT_TRUE(
      std::ranges::equal(std::span(batch.loss_weights).subspan(first, size), samples.weights_of(batch.sample_ids[i])));
}

inline std::vector<std::int64_t> made_lengths(std::uint64_t seed, std::int64_t count, std::int64_t longest) {
  std::mt19937_64 random(seed);
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i < count; ++i) {
    lengths.push_back(static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(longest)) + 1);
  }
  return lengths;
}

}  // namespace ossature
