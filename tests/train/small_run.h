// Runs on the golden model of tests/golden/small: a second each, with files of random tokens.
#pragma once

#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>
#include <streambuf>
#include <string>
#include <vector>

#include "data/token_file/token_file.h"
#include "tests/malformed/scratch.h"
#include "train/recipe/recipe.h"

namespace ossature {

inline std::filesystem::path small_golden() {
  return std::filesystem::path(OSSATURE_SOURCE_DIR) / "tests/golden/small";
}

struct TokenSample {
  std::vector<std::int32_t> tokens;
  std::vector<float> loss_weights;
};

/// Samples of 3 to 14 tokens of a vocabulary of 128; weights 0, 0.5 and 1.
inline std::vector<TokenSample> random_samples(std::size_t count, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<TokenSample> samples(count);
  for (TokenSample& sample : samples) {
    sample.tokens.resize(3 + generator() % 12);
    for (std::int32_t& token : sample.tokens) token = static_cast<std::int32_t>(generator() % 128);
    for (std::size_t t = 0; t < sample.tokens.size(); ++t) {
      sample.loss_weights.push_back(t == 1 ? 1.0f : 0.5f * static_cast<float>(generator() % 3));
    }
  }
  return samples;
}

inline std::filesystem::path write_tokens(const std::filesystem::path& path, const std::vector<TokenSample>& samples,
                                          std::int64_t vocab_size = 128) {
  TokenFileWriter writer(path, vocab_size, "");
  for (const TokenSample& sample : samples) writer.add(sample.tokens, sample.loss_weights);
  writer.finish();
  return path;
}

/// Five steps in float32, a sample a row in the order of the file, that write no checkpoint but the last.
inline Recipe small_recipe(const std::filesystem::path& tokens, const std::filesystem::path& output_dir) {
  Recipe recipe;
  recipe.base_model = small_golden() / "hf";
  recipe.output_dir = output_dir;
  recipe.dtype = ComputeDtype::kFloat32;
  recipe.device = Device::kCpu;
  recipe.lora.r = 2;
  recipe.lora.lora_alpha = 4;
  recipe.data.train = {{tokens}};
  recipe.data.sequence_length = 16;
  recipe.data.packing = false;
  recipe.data.shuffle = false;
  recipe.train.gradient_accumulation_steps = 1;
  recipe.train.epochs = 100;
  recipe.train.max_steps = 5;
  recipe.train.learning_rate = 1e-2;
  recipe.train.warmup_steps = 0;
  recipe.evaluation.every_steps = std::nullopt;
  recipe.checkpoint.every_steps = std::nullopt;
  return recipe;
}

/// Lines of metrics.jsonl that have `key`: "loss" or "validation_loss".
inline std::vector<nlohmann::json> metrics_with(const std::filesystem::path& run_dir, const char* key) {
  std::vector<nlohmann::json> lines;
  std::ifstream file(run_dir / "metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    lines.push_back(nlohmann::json::parse(line));
    if (!lines.back().contains(key)) lines.pop_back();
  }
  return lines;
}

/// While one lives, std::cerr is kept, and the first time that it reads `at` (if that is not empty) the process gets
/// SIGTERM.
class CapturedProgress : public std::streambuf {
 public:
  explicit CapturedProgress(std::string at = {}) : at_(std::move(at)), before_(std::cerr.rdbuf(this)) {}
  ~CapturedProgress() override { std::cerr.rdbuf(before_); }

  [[nodiscard]] const std::string& text() const { return text_; }

 protected:
  int_type overflow(int_type c) override {
    text_ += traits_type::to_char_type(c);
    if (!at_.empty() && text_.ends_with(at_)) {
      at_.clear();
      std::raise(SIGTERM);
    }
    return c;
  }

 private:
  std::string at_, text_;
  std::streambuf* before_;
};

}  // namespace ossature
